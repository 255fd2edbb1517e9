"""A convolution whose windows lie side by side: a linear layer of patches."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import add_bias, initialisers


class PatchConv(nn.Module):
    """Convolution of windows as large as their stride, as one matrix product of patches.

    Images [batch, height, width, channels] give [batch, height // side, width // side, channels]; rows and columns that
    fill no patch are left out. Images smaller than a patch have zeros behind them, as there is no attention to nothing.
    """

    channels: int
    side: int
    initialisation: str = "transformer"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side, inputs = self.side, x.shape[-1]
        kernel_init, bias_init = initialisers(self.initialisation, side**2 * inputs)
        kernel = self.param("kernel", kernel_init, (side, side, inputs, self.channels)).astype(x.dtype)
        if any(missing := [max(side - n, 0) for n in x.shape[1:3]]):
            x = jnp.pad(x, [(0, 0), *((0, n) for n in missing), (0, 0)])
        rows, columns = (n // side for n in x.shape[1:3])
        patches = x[:, : rows * side, : columns * side].reshape(x.shape[0], rows, side, columns, side, inputs)
        result = jnp.einsum("bhywxi,yxio->bhwo", patches, kernel)
        return add_bias(result, self.param("bias", bias_init, (self.channels,)))
