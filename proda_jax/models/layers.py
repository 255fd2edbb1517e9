"""The two layers that every network here is made of: convolution and synchronised batch normalisation."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # share of the old running statistic that stays; PyTorch calls its complement, 0.1, momentum


def pytorch_uniform(fan_in: int) -> Callable:
    """PyTorch's default initialisation of convolution weights and biases: uniform within 1 / sqrt(fan in)."""
    bound = fan_in**-0.5

    def initialise(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialise


def initialisers(scheme: str, fan_in: int) -> tuple[Callable, Callable]:
    """Kernel and bias initialisers of a scheme.

    Args:
      scheme: 'released' (kernels N(0, 0.01), biases as PyTorch), 'pytorch' (both as PyTorch) or 'he' (for training
        from scratch: kernels keep the variance of a rectified signal, biases zero).
      fan_in: number of inputs that one output sums over.
    """
    if scheme == "released":
        return nn.initializers.normal(0.01), pytorch_uniform(fan_in)
    if scheme == "pytorch":
        return pytorch_uniform(fan_in), pytorch_uniform(fan_in)
    return nn.initializers.he_normal(), nn.initializers.zeros_init()


class Conv(nn.Module):
    """2-D convolution [batch, height, width, channels] with PyTorch's explicit padding.

    A 1x1 kernel runs as a matrix product: the same numbers, and on a CPU about three times as fast as the general
    convolution.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    initialisation: str = "released"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        kernel_init, bias_init = initialisers(self.initialisation, self.kernel**2 * x.shape[-1])
        kernel = self.param("kernel", kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            x = jnp.einsum("bhwi,io->bhwo", x[:, :: self.stride, :: self.stride], kernel[0, 0])
        else:
            pad = self.dilation * (self.kernel // 2)  # keeps the size at stride 1
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=((pad, pad), (pad, pad)),
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            x = x + self.param("bias", bias_init, (self.channels,)).astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width, synchronised over the devices of `axis_name`.

    Statistics are float32 whatever the compute type. The running variance is the unbiased one, as in PyTorch
    (flax.linen's is biased), so that converted checkpoints continue as they would have there.

    Attributes:
      use_running_statistics: instead of the batch's.
      axis_name: mapped axis over the devices, or None.
      epsilon: 'added' to the variance, or 'clamped': a batch's variance is not below it (released over several GPUs).
      dtype: of the result.
    """

    use_running_statistics: bool
    axis_name: str | None = None
    epsilon: str = "added"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.use_running_statistics:
            return affine(x, running_mean.value, running_var.value + BATCH_NORM_EPSILON, scale, bias, self.dtype)
        result, mean, var, count = normalise(
            x.astype(self.dtype), scale, bias, self.axis_name, self.epsilon == "clamped"
        )
        if not self.is_initializing():
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            running_mean.value = blend(running_mean.value, mean)
            running_var.value = blend(running_var.value, unbiased)
        return result


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None, clamped: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its batch; the backward pass keeps nothing but x, which bounds its memory traffic.

    Left to itself, differentiation goes over float32 copies of x several times more, for the variance's dependence on
    the mean, whose gradient is zero.

    Args:
      x: [batch, height, width, channels], one device's share.
      scale, bias: [channels].
      axis_name: mapped axis over the devices, or None.
      clamped: see `BatchNorm.epsilon`.

    Returns:
      The result, the type of `x`; mean and biased variance [channels] and number of positions, of all devices. No
      gradient flows from these three.
    """
    return _normalise(x, scale, bias, axis_name, clamped)[0]


def _normalise(x, scale, bias, axis_name, clamped):
    mean, var, count = batch_moments(x, axis_name)
    enough = jnp.maximum(var, BATCH_NORM_EPSILON) if clamped else var + BATCH_NORM_EPSILON
    result = affine(x, mean, enough, scale, bias, x.dtype)
    varies = var > BATCH_NORM_EPSILON if clamped else jnp.ones_like(var, bool)
    return (result, mean, var, jnp.float32(count)), (x, mean, jax.lax.rsqrt(enough), varies, scale)


def _normalise_gradient(axis_name, clamped, kept, given):
    """dx = scale / std * (dy - mean(dy) - z * mean(dy * z)), where z is x normalised and means are of all devices."""
    del clamped
    x, mean, per_std, varies, scale = kept
    deviation = x.astype(mean.dtype) - mean
    dy = given[0].astype(mean.dtype)
    sums = jnp.stack([dy.sum((0, 1, 2)), (dy * deviation).sum((0, 1, 2))])
    positions = x[..., 0].size
    means = sums / positions if axis_name is None else jax.lax.pmean(sums / positions, axis_name)
    slope = jnp.where(varies, means[1] * per_std**2, 0.0)
    dx = (scale * per_std) * (dy - means[0] - deviation * slope)
    return dx.astype(x.dtype), (sums[1] * per_std).astype(scale.dtype), sums[0].astype(scale.dtype)


normalise.defvjp(_normalise, _normalise_gradient)


def affine(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """(x - mean) / sqrt(var) * scale + bias, computed in float32 at least and returned as `dtype`."""
    factor = jax.lax.rsqrt(var) * scale
    return ((x.astype(at_least_float32(dtype)) - mean) * factor + bias).astype(dtype)


def batch_moments(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, int]:
    """Mean, biased variance [channels] and number of positions of x [batch, height, width, channels], all devices.

    In float32 the variance is that of the deviations: E[x^2] - E[x]^2 loses enough digits to turn activations around
    zero, which shows as errors of 0.5% in the gradients of early layers. Where x is bfloat16 those digits are not
    there to lose, and both sums are taken while x is read once.
    """
    values = x.astype(at_least_float32(x.dtype))
    mean = values.mean((0, 1, 2))
    if values.dtype == x.dtype:
        var = jnp.square(values - mean).mean((0, 1, 2))
    else:
        var = jnp.maximum(jnp.square(values).mean((0, 1, 2)) - jnp.square(mean), 0.0)
    if axis_name is None:
        return mean, var, x[..., 0].size
    # together, as one message is sooner there than two; every device holds the same number of positions
    means, variances = jnp.moveaxis(jax.lax.all_gather(jnp.stack([mean, var]), axis_name), 1, 0)
    mean = means.mean(0)
    return mean, (variances + jnp.square(means - mean)).mean(0), len(means) * x[..., 0].size


def blend(running: jax.Array, batch: jax.Array) -> jax.Array:
    moved = BATCH_NORM_MOMENTUM * running + (1.0 - BATCH_NORM_MOMENTUM) * batch
    return moved.astype(running.dtype)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The type for statistics and outputs of a network that computes in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)
