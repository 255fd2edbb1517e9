"""Resizing of feature maps, logits and label maps on the device."""

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.resizing import HIGHEST, align_corners_weights


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
