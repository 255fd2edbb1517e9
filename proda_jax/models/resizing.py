"""Resizing of feature maps, logits and label maps on the device."""

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = jax.lax.Precision.HIGHEST


def align_corners_weights(size_in: int, size_out: int) -> np.ndarray:
    """Weights of one-dimensional linear interpolation whose first and last samples coincide with the input's.

    Args:
      size_in: number of input samples.
      size_out: number of output samples; a single one takes the first input sample, as PyTorch does.

    Returns:
      float32 [size_out, size_in]; each row sums to one and has at most two entries that are not zero.
    """
    positions = np.arange(size_out) * ((size_in - 1) / max(size_out - 1, 1))
    distance = np.abs(positions[:, None] - np.arange(size_in)[None, :])
    return np.maximum(1.0 - distance, 0.0).astype(np.float32)


def resize_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resizing with corners aligned, the convention of this model family (released code).

    Interpolation is linear in each axis, so it is written as two matrix products; their transposes are the backward
    pass, without a scatter.

    Args:
      x: [batch, height, width, channels].
      size: (height, width) of the result.

    Returns:
      float32 [batch, size[0], size[1], channels].
    """
    x = x.astype(jnp.float32)
    height, width = x.shape[1:3]
    if height != size[0]:
        x = jnp.einsum("Hh,bhwc->bHwc", align_corners_weights(height, size[0]), x, precision=HIGHEST)
    if width != size[1]:
        x = jnp.einsum("Ww,bhwc->bhWc", align_corners_weights(width, size[1]), x, precision=HIGHEST)
    return x


def transposed_resize_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The adjoint of `resize_align_corners`: <resize(a), x> = <a, transposed_resize(x)>.

    Args:
      x: [batch, height, width, channels], a map at the larger grid.
      size: (height, width) of the grid that `resize_align_corners` starts from.

    Returns:
      float32 [batch, size[0], size[1], channels].
    """
    x = x.astype(jnp.float32)
    height, width = x.shape[1:3]
    if width != size[1]:
        x = jnp.einsum("Ww,bhWc->bhwc", align_corners_weights(size[1], width), x, precision=HIGHEST)
    if height != size[0]:
        x = jnp.einsum("Hh,bHwc->bhwc", align_corners_weights(size[0], height), x, precision=HIGHEST)
    return x


def resize_nearest(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest-neighbour resizing: output index i reads input index floor(i * input size / output size).

    Args:
      labels: [batch, height, width, ...].
      size: (height, width) of the result.

    Returns:
      [batch, size[0], size[1], ...], the type of `labels`.
    """
    rows, columns = (np.arange(out) * source // out for source, out in zip(labels.shape[1:3], size, strict=True))
    return labels[:, rows][:, :, columns]
