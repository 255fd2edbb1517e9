"""Batch normalisation over all devices, with the convolution before it and the shortcut and rectifier that follow."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv, add_bias

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # share of the old running statistic that stays; PyTorch calls its complement, 0.1, momentum


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width, synchronised over the devices of `axis_name`.

    Given the convolution before it, with running statistics it is part of that: the weights are scaled, and a bias is
    left to add, which XLA for GPUs computes together with convolution, shortcut and rectifier.

    Statistics are float32 whatever the compute type. The running variance is the unbiased one, as in PyTorch
    (flax.linen's is biased), so that converted checkpoints continue as they would have there.

    Attributes:
      use_running_statistics: instead of the batch's.
      axis_name: mapped axis over the devices, or None.
      epsilon: 'added' to the variance, or 'clamped': a batch's variance is not below it (released over several GPUs).
      rectify: followed by a rectifier, after a shortcut is added where there is one.
      dtype: of the result, where no convolution is given.
    """

    use_running_statistics: bool
    axis_name: str | None = None
    epsilon: str = "added"
    rectify: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, shortcut: jax.Array | None = None, conv: Conv | None = None) -> jax.Array:
        """Normalises x, or what the convolution `conv` makes of x.

        Raises:
          ValueError: the convolution has a bias, which normalisation takes away.
        """
        if conv is not None and conv.use_bias:
            raise ValueError(f"{conv.name}: a convolution with a bias in front of a batch normalisation")
        channels = x.shape[-1] if conv is None else conv.channels
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.use_running_statistics:
            mean, per_std = running_mean.value, jax.lax.rsqrt(running_var.value + BATCH_NORM_EPSILON)
            if conv is None:
                return affine(x.astype(self.dtype), mean, per_std, scale, bias, shortcut, self.rectify)
            x = add_bias(conv(x, scale * per_std), bias - mean * scale * per_std)
            return finish(x, shortcut, self.rectify)
        x = x.astype(self.dtype) if conv is None else conv(x)
        result, mean, var, count = normalise(
            x, scale, bias, shortcut, self.axis_name, self.rectify, self.epsilon == "clamped"
        )
        if not self.is_initializing():
            running_mean.value = blend(running_mean.value, mean)
            running_var.value = blend(running_var.value, var * (count / jnp.maximum(count - 1, 1)))
        return result


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    shortcut: jax.Array | None,
    axis_name: str | None,
    rectify: bool,
    clamped: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its batch, adds a shortcut and rectifies, as asked for.

    On accelerators a network spends as much time on moving activations through this as on convolutions. Its backward
    pass is therefore written out: it keeps x and, where a shortcut is added, the result, both of which the
    convolutions around it keep anyway, and goes over them twice. Left to itself, differentiation keeps masks and
    float32 copies, and goes over them once more for the variance's dependence on the mean, whose gradient is zero.

    Args:
      x: [batch, height, width, channels], one device's share.
      scale, bias: [channels].
      shortcut: like x, or None.
      axis_name: mapped axis over the devices, or None.
      rectify, clamped: see `BatchNorm`.

    Returns:
      The result, like x; mean and biased variance [channels] and number of positions, of all devices. No gradient
      flows from these three.
    """
    return _normalise(x, scale, bias, shortcut, axis_name, rectify, clamped)[0]


def _normalise(x, scale, bias, shortcut, axis_name, rectify, clamped):
    mean, var, count = batch_moments(x, axis_name)
    per_std = jax.lax.rsqrt(jnp.maximum(var, BATCH_NORM_EPSILON) if clamped else var + BATCH_NORM_EPSILON)
    result = affine(x, mean, per_std, scale, bias, shortcut, rectify)
    varies = var > BATCH_NORM_EPSILON if clamped else jnp.ones_like(var, bool)
    rectified = None if shortcut is None else result  # without a shortcut, x says where the rectifier is open
    return (result, mean, var, jnp.float32(count)), (x, mean, per_std, varies, scale, bias, rectified)


def _normalise_gradient(axis_name, rectify, clamped, kept, given):
    """dx = scale / std * (dy - mean(dy) - z * mean(dy * z)), where z is x normalised and means are of all devices."""
    del clamped
    x, mean, per_std, varies, scale, bias, rectified = kept
    dy = given[0]

    def let_through(x: jax.Array, dy: jax.Array) -> jax.Array:
        if not rectify:
            return dy
        is_open = (affine(x, mean, per_std, scale, bias) if rectified is None else rectified) > 0
        return jnp.where(is_open, dy, jnp.zeros((), dy.dtype))

    passed = let_through(x, dy)
    to_shortcut = None if rectified is None else passed
    deviation = x.astype(mean.dtype) - mean
    sums = jnp.stack(channel_sums(passed.astype(mean.dtype), passed * deviation))
    means = sums / x[..., 0].size
    if axis_name is not None:
        means = jax.lax.pmean(means, axis_name)
    slope = jnp.where(varies, means[1] * per_std**2, 0.0)
    if rectified is None:
        # what is let through is computed once more, which is quicker than to write it and read it twice; the barrier
        # keeps XLA from noticing that it is the same
        x = jax.lax.optimization_barrier(x)
        passed, deviation = let_through(x, dy), x.astype(mean.dtype) - mean
    dx = (scale * per_std) * (passed - means[0] - deviation * slope)
    return dx.astype(x.dtype), (sums[1] * per_std).astype(scale.dtype), sums[0].astype(bias.dtype), to_shortcut


normalise.defvjp(_normalise, _normalise_gradient)


def affine(
    x: jax.Array,
    mean: jax.Array,
    per_std: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    shortcut: jax.Array | None = None,
    rectify: bool = False,
) -> jax.Array:
    """(x - mean) * per_std * scale + bias in float32 at least, then as x came plus shortcut, and rectified."""
    result = (x.astype(at_least_float32(x.dtype)) - mean) * (per_std * scale) + bias
    return finish(result.astype(x.dtype), shortcut, rectify)


def finish(x: jax.Array, shortcut: jax.Array | None, rectify: bool) -> jax.Array:
    """x plus shortcut, and rectified."""
    if shortcut is not None:
        x = x + shortcut  # in float32, XLA would keep a float32 copy of every shortcut
    return rectifier(x) if rectify else x


@jax.custom_vjp
def rectifier(x: jax.Array) -> jax.Array:
    """Zero where x is negative. Its gradient follows from the result, so that nothing else is kept of a convolution."""
    return jnp.maximum(x, 0)


def _rectifier_gradient(result: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    result = jax.lax.optimization_barrier(result)  # or XLA compares x, and has to keep that, too
    return (jnp.where(result > 0, dy, 0),)


def _rectifier(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = rectifier(x)
    return result, result


rectifier.defvjp(_rectifier, _rectifier_gradient)


def batch_moments(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, int]:
    """Mean, biased variance [channels] and number of positions of x [batch, height, width, channels], all devices.

    In float32 the variance is that of the deviations: E[x^2] - E[x]^2 loses enough digits to turn activations around
    zero, which shows as errors of 0.5% in the gradients of early layers. Where x is bfloat16 those digits are not
    there to lose, and one pass over x is enough.
    """
    values, positions = x.astype(at_least_float32(x.dtype)), x[..., 0].size
    if values.dtype == x.dtype:
        mean = values.mean((0, 1, 2))
        var = jnp.square(values - mean).mean((0, 1, 2))
    else:
        total, squares = channel_sums(values, jnp.square(values))
        mean = total / positions
        var = jnp.maximum(squares / positions - jnp.square(mean), 0.0)
    if axis_name is None:
        return mean, var, positions
    # together, as one message is sooner there than two; every device holds the same number of positions
    means, variances = jnp.moveaxis(jax.lax.all_gather(jnp.stack([mean, var]), axis_name), 1, 0)
    mean = means.mean(0)
    return mean, (variances + jnp.square(means - mean)).mean(0), len(means) * positions


def channel_sums(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums [channels] of two arrays [batch, height, width, channels].

    As one reduction, a GPU reads once what both are computed from; XLA for CPUs is slower at one than at two.
    """
    return jax.lax.platform_dependent(first, second, cuda=one_reduction, default=two_reductions)


def one_reduction(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """`channel_sums` as one reduction of all arrays."""
    zeros = tuple(jnp.zeros((), array.dtype) for array in arrays)
    return jax.lax.reduce(arrays, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0, 1, 2))


def two_reductions(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """`channel_sums` as a reduction of each array."""
    return tuple(array.sum((0, 1, 2)) for array in arrays)


def blend(running: jax.Array, batch: jax.Array) -> jax.Array:
    moved = BATCH_NORM_MOMENTUM * running + (1.0 - BATCH_NORM_MOMENTUM) * batch
    return moved.astype(running.dtype)


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The type for statistics and outputs of a network that computes in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)
