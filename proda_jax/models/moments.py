"""Mean and variance of each channel over the batch of all devices: of what is there, or is yet to be computed."""

from functools import partial

import jax
import jax.numpy as jnp

from proda_jax.models.convolution import add_bias, pointwise
from proda_jax.models.precision import at_least_float32

HIGHEST = jax.lax.Precision.HIGHEST
Moments = tuple[jax.Array, jax.Array, int]  # mean and biased variance [channels], number of positions, of all devices


def batch_moments(x: jax.Array, axis_name: str | None) -> Moments:
    """Moments of x [batch, height, width, channels], one device's share.

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
    return of_all_devices(mean, var, positions, axis_name)


def moments_ahead(x: jax.Array, kernel: jax.Array, axis_name: str | None) -> Moments:
    """Moments of what a 1x1 convolution will make of x, before it does: they follow from mean and covariance of x.

    The last convolution of a bottleneck has four outputs an input. Its result would have to be in memory, and gone over
    once, before it can be normalised, and once more in the backward pass. The covariance of its inputs takes a pass
    over a quarter of that, and a quarter of the convolution's arithmetic.

    Args:
      x: [batch, height, width, channels], one device's share.
      kernel: [1, 1, channels, output channels].
      axis_name: mapped axis over the devices, or None.
    """
    return of_all_devices(*_ahead(x, kernel), x[..., 0].size, axis_name)


@jax.custom_vjp
def _ahead(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _ahead_and_kept(x, kernel)[0]


def _ahead_and_kept(x, kernel):
    kernel, dtype = kernel[0, 0], at_least_float32(x.dtype)
    mean = x.astype(dtype).mean((0, 1, 2))
    deviations = (x - mean).astype(x.dtype)
    covariance = jnp.einsum(
        "bhwi,bhwj->ij", deviations, deviations, precision=HIGHEST, preferred_element_type=dtype
    ) / x[..., 0].size  # fmt: skip
    spread = jnp.matmul(covariance, kernel, precision=HIGHEST)
    var = jnp.maximum(jnp.sum(kernel * spread, 0), 0.0)  # rounding may leave less where outputs hardly vary
    return (jnp.matmul(mean, kernel, precision=HIGHEST), var), (x, mean, kernel, spread)


def _ahead_gradient(kept, given):
    x, mean, kernel, spread = kept
    d_mean, d_var = given
    d_kernel = mean[:, None] * d_mean + 2.0 * spread * d_var
    # dx = (x - mean) mixed + d(mean of x) / positions, as one 1x1 convolution with a bias
    positions = x[..., 0].size
    mixed = (jnp.matmul(kernel * d_var, kernel.T, precision=HIGHEST) * (2.0 / positions)).astype(x.dtype)
    offset = jnp.matmul(kernel, d_mean, precision=HIGHEST) / positions
    offset -= jnp.matmul(mean, mixed.astype(mean.dtype), precision=HIGHEST)
    return add_bias(pointwise(x, mixed[None, None]), offset), d_kernel[None, None]


_ahead.defvjp(_ahead_and_kept, _ahead_gradient)


def of_all_devices(mean: jax.Array, var: jax.Array, positions: int, axis_name: str | None) -> Moments:
    """Moments over all devices, from each one's own; all hold the same number of positions."""
    if axis_name is None:
        return mean, var, positions
    return *_joined(mean, var, axis_name), positions * jax.lax.axis_size(axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _joined(mean: jax.Array, var: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
    return _joined_and_kept(mean, var, axis_name)[0]


def _joined_and_kept(mean, var, axis_name):
    # together, as one message is sooner there than two
    means, variances = jnp.moveaxis(jax.lax.all_gather(jnp.stack([mean, var]), axis_name), 1, 0)
    of_all = means.mean(0)
    return (of_all, (variances + jnp.square(means - of_all)).mean(0)), mean - of_all


def _joined_gradient(axis_name, apart, given):
    d_mean, d_var = jax.lax.pmean(jnp.stack(given), axis_name)
    return d_mean + 2.0 * apart * d_var, d_var


_joined.defvjp(_joined_and_kept, _joined_gradient)


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
