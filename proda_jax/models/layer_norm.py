"""Layer normalisation (arXiv:1607.06450) of the channels of each position."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.precision import at_least_float32


class LayerNorm(nn.Module):
    """Makes mean and variance of the last axis 0 and 1, then scales and shifts each channel; in float32 at least.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        values = x.astype(at_least_float32(x.dtype))
        deviation = values - values.mean(-1, keepdims=True)
        inverse_std = jax.lax.rsqrt(jnp.square(deviation).mean(-1, keepdims=True) + self.epsilon)
        return (deviation * inverse_std * scale + bias).astype(x.dtype)
