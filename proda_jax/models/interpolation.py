"""Interpolation of maps whose positions are centres of equal parts of an image, not its corners.

That is what PyTorch calls `align_corners=False`, and what networks of other authors were trained with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.precision import at_least_float32

HIGHEST = jax.lax.Precision.HIGHEST


def triangle(distance: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation."""
    return np.maximum(1.0 - np.abs(distance), 0.0)


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The kernel of cubic convolution (Keys, 1981); `a` is its slope at distance 1."""
    d = np.abs(distance)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def linear_weights(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of linear interpolation; beyond the outermost centres it is constant."""
    positions = np.clip(centres(size_in, size_out, size_out / size_in), 0, size_in - 1)
    return triangle(positions[:, None] - np.arange(size_in))


def cubic_weights(size_in: int, size_out: int, scale: float | None = None) -> np.ndarray:
    """Weights [size_out, size_in] of cubic interpolation as PyTorch's `interpolate` has it without antialiasing.

    Args:
      size_in, size_out: number of samples before and after.
      scale: distance of two samples before, over that of two after; by default size_out / size_in.
    """
    positions = centres(size_in, size_out, scale or size_out / size_in)
    weights = np.zeros((size_out, size_in))
    for tap in range(-1, 3):
        index = np.floor(positions).astype(int) + tap
        # samples beyond the ends are those at the ends
        np.add.at(weights, (np.arange(size_out), np.clip(index, 0, size_in - 1)), cubic(positions - index, -0.75))
    return weights


def antialiased_cubic_weights(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of cubic interpolation as Pillow has it, and PyTorch with `antialias=True`.

    The kernel is another, as wide as two samples where these are farther apart than before, and cut off at the ends.
    """
    wide = max(size_in / size_out, 1.0)
    positions = centres(size_in, size_out, size_out / size_in)
    weights = cubic((positions[:, None] - np.arange(size_in)) / wide, -0.5)
    return weights / weights.sum(1, keepdims=True)


def centres(size_in: int, size_out: int, scale: float) -> np.ndarray:
    """Where the centres of samples after lie, in samples before."""
    return (np.arange(size_out) + 0.5) / scale - 0.5


def resize(
    x: jax.Array, size: tuple[int, int], weights: Callable[[int, int], np.ndarray] = linear_weights
) -> jax.Array:
    """Interpolates in each axis, as two matrix products.

    Args:
      x: [batch, height, width, channels].
      size: (height, width) of the result.
      weights: (size before, size after) -> [size after, size before], one of the functions above.

    Returns:
      [batch, *size, channels], computed in float32 at least, in the type of x.
    """
    if x.shape[1:3] == tuple(size):
        return x
    dtype = at_least_float32(x.dtype)
    rows, columns = (jnp.asarray(weights(n, m), dtype) for n, m in zip(x.shape[1:3], size, strict=True))
    resized = jnp.einsum("Hh,bhwc->bHwc", rows, x.astype(dtype), precision=HIGHEST)
    return jnp.einsum("Ww,bhwc->bhWc", columns, resized, precision=HIGHEST).astype(x.dtype)
