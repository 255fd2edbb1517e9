"""Batch normalisation over all devices, with the convolution before it and the shortcut and rectifier that follow."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv, add_bias
from proda_jax.models.moments import batch_moments, channel_sums, moments_ahead
from proda_jax.models.precision import at_least_float32

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # share of the old running statistic that stays; PyTorch calls its complement, 0.1, momentum
WIDENING = 4  # outputs an input from which on a 1x1 convolution's moments are computed ahead of it


def is_batch_norm(module: str) -> bool:
    """Whether a module of this name is batch normalisation, by the convention that all our networks keep."""
    return re.search(r"(^|_)bn\d*$|^extra_norm$", module) is not None


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width, synchronised over the devices of `axis_name`.

    Given the convolution before it, and statistics that are known before its result is (running ones, and those of
    `moments_ahead`), it is part of that: the weights are scaled, and a bias is left to add, which XLA for GPUs computes
    together with convolution, shortcut and rectifier.

    Statistics are float32 whatever the compute type. The running variance is the unbiased one, as in PyTorch
    (flax.linen's is biased), so that converted checkpoints continue as they would have there.

    Attributes:
      use_running_statistics: instead of the batch's.
      axis_name: mapped axis over the devices, or None.
      epsilon: 'added' to the variance, or 'clamped': a batch's variance is not below it (released over several GPUs).
      epsilon_value: what is added.
      rectify: followed by a rectifier, after a shortcut is added where there is one.
      ceiling: what the rectifier lets through at most; 6 makes it a ReLU6.
      dtype: of the result, where no convolution is given.
    """

    use_running_statistics: bool
    axis_name: str | None = None
    epsilon: str = "added"
    epsilon_value: float = BATCH_NORM_EPSILON
    rectify: bool = False
    ceiling: float = math.inf
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
        finish_it = partial(finish, shortcut=shortcut, rectify=self.rectify, ceiling=self.ceiling)

        def by_statistics(mean: jax.Array, inverse_std: jax.Array) -> jax.Array:
            if conv is None:
                return finish_it(affine(x.astype(self.dtype), mean, inverse_std, scale, bias))
            return finish_it(add_bias(conv(x, scale * inverse_std), bias - mean * scale * inverse_std))

        if self.use_running_statistics:
            inverse_std = inverse_std_of(running_var.value, clamped=False, epsilon=self.epsilon_value)
            return by_statistics(running_mean.value, inverse_std)
        clamped, epsilon = self.epsilon == "clamped", self.epsilon_value
        if conv is not None and conv.kernel == 1 and channels >= WIDENING * x.shape[-1]:
            mean, var, count = moments_ahead(conv.read(x), conv.weights(x.shape[-1])[0], self.axis_name)
            result = by_statistics(mean, inverse_std_of(var, clamped, epsilon))
        else:
            x = x.astype(self.dtype) if conv is None else conv(x)
            rectify = self.rectify and shortcut is None
            options = (self.axis_name, rectify, clamped, self.ceiling, epsilon)
            result, mean, var, count = normalise(x, scale, bias, *options)
            result = result if shortcut is None else finish_it(result)
        if not self.is_initializing():
            running_mean.value = blend(running_mean.value, mean)
            running_var.value = blend(running_var.value, var * (count / jnp.maximum(count - 1, 1)))
        return result


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None, rectify: bool, clamped: bool,
    ceiling: float = math.inf, epsilon: float = BATCH_NORM_EPSILON,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Normalises each channel by its batch, and rectifies if asked to.

    On accelerators a network spends as much time on moving activations through this as on convolutions. Its backward
    pass is therefore written out: it keeps x, which is there anyway, and goes over it twice. Left to itself,
    differentiation keeps masks and float32 copies, and goes over them once more for the variance's dependence on the
    mean, whose gradient is zero.

    Args:
      x: [batch, height, width, channels], one device's share.
      scale, bias: [channels].
      axis_name: mapped axis over the devices, or None.
      rectify, clamped, ceiling, epsilon: see `BatchNorm`, where the last is `epsilon_value`.

    Returns:
      The result, like x; mean and biased variance [channels] and number of positions, of all devices. No gradient
      flows from these three.
    """
    return _normalise(x, scale, bias, axis_name, rectify, clamped, ceiling, epsilon)[0]


def _normalise(x, scale, bias, axis_name, rectify, clamped, ceiling, epsilon):
    mean, var, count = batch_moments(x, axis_name)
    inverse_std = inverse_std_of(var, clamped, epsilon)
    result = finish(affine(x, mean, inverse_std, scale, bias), None, rectify, ceiling)
    varies = var > epsilon if clamped else jnp.ones_like(var, bool)
    return (result, mean, var, jnp.float32(count)), (x, mean, inverse_std, varies, scale, bias)


def _normalise_gradient(axis_name, rectify, clamped, ceiling, epsilon, kept, given):
    """dx = scale / std * (dy - mean(dy) - z * mean(dy * z)), where z is x normalised and means are of all devices."""
    del clamped, epsilon
    x, mean, inverse_std, varies, scale, bias = kept
    dy = given[0]

    def let_through(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The gradient behind the rectifier, and how far x is from its mean, in float32 at least."""
        passed = dy
        if rectify:
            passes = is_between(affine(x, mean, inverse_std, scale, bias), ceiling)
            passed = jnp.where(passes, dy, jnp.zeros((), dy.dtype))
        return passed.astype(mean.dtype), x.astype(mean.dtype) - mean

    passed, deviation = let_through(x)
    sums = jnp.stack(channel_sums(passed, passed * deviation))
    means = sums / x[..., 0].size
    if axis_name is not None:
        means = jax.lax.pmean(means, axis_name)
    slope = jnp.where(varies, means[1] * inverse_std**2, 0.0)
    # computed once more, which is quicker than to write it and read it twice; the barrier keeps XLA from noticing that
    # it is the same
    passed, deviation = let_through(jax.lax.optimization_barrier(x))
    dx = (scale * inverse_std) * (passed - means[0] - deviation * slope)
    return dx.astype(x.dtype), (sums[1] * inverse_std).astype(scale.dtype), sums[0].astype(bias.dtype)


normalise.defvjp(_normalise, _normalise_gradient)


def inverse_std_of(var: jax.Array, clamped: bool, epsilon: float = BATCH_NORM_EPSILON) -> jax.Array:
    """One over the square root of a variance to which epsilon is added, or that is at least epsilon."""
    return jax.lax.rsqrt(jnp.maximum(var, epsilon) if clamped else var + epsilon)


def affine(x: jax.Array, mean: jax.Array, inverse_std: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * inverse_std * scale + bias in float32 at least, then as x came."""
    result = (x.astype(at_least_float32(x.dtype)) - mean) * (inverse_std * scale) + bias
    return result.astype(x.dtype)


def finish(x: jax.Array, shortcut: jax.Array | None, rectify: bool, ceiling: float = math.inf) -> jax.Array:
    """x plus shortcut, and rectified."""
    if shortcut is not None:
        x = x + shortcut  # in float32, XLA would keep a float32 copy of every shortcut
    return rectifier(x, ceiling) if rectify else x


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rectifier(x: jax.Array, ceiling: float = math.inf) -> jax.Array:
    """Zero where x is negative, `ceiling` where it is above that.

    Its gradient follows from the result, so that nothing else is kept of a convolution.
    """
    result = jnp.maximum(x, 0)
    return result if ceiling == math.inf else jnp.minimum(result, ceiling)


def is_between(x: jax.Array, ceiling: float) -> jax.Array:
    """Where a rectifier lets a gradient through; at its two ends it does not, as in PyTorch."""
    return x > 0 if ceiling == math.inf else (x > 0) & (x < ceiling)


def _rectifier_gradient(ceiling: float, result: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    result = jax.lax.optimization_barrier(result)  # or XLA compares x, and has to keep that, too
    return (jnp.where(is_between(result, ceiling), dy, 0),)


def _rectifier(x: jax.Array, ceiling: float) -> tuple[jax.Array, jax.Array]:
    result = rectifier(x, ceiling)
    return result, result


rectifier.defvjp(_rectifier, _rectifier_gradient)


def blend(running: jax.Array, batch: jax.Array) -> jax.Array:
    moved = BATCH_NORM_MOMENTUM * running + (1.0 - BATCH_NORM_MOMENTUM) * batch
    return moved.astype(running.dtype)
