"""Two resolutions: class scores of a detail crop and of the context around it, joined by an attention (HRDA).

Hoyer et al., ECCV 2022. The context is the image at half its size, the detail a part of it at full size; both go
through one network. Its attention says for each class where the detail is trusted.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from proda_jax.models.interpolation import resize

Box = tuple[int, int, int, int]  # top, bottom, left and right of the detail crop, pixels of the image at full size


def attention_inside(attention: jax.Array, box: Box, stride: int = 8) -> jax.Array:
    """The attention [batch, h, w, classes], zero outside of the detail crop; `stride`: full-size pixels of a cell."""
    top, bottom, left, right = (int(edge / stride) for edge in box)
    rows, columns = jnp.arange(attention.shape[1]), jnp.arange(attention.shape[2])
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None, :]
    return jnp.where(inside[..., None], attention, 0.0)


def fuse(context: jax.Array, detail: jax.Array, attention: jax.Array) -> jax.Array:
    """a * detail + (1 - a) * context, on the detail's grid (Equation 9 of HRDA).

    Args:
      context: class scores of the context, [batch, h, w, classes].
      detail: class scores on a grid twice as fine, [batch, 2h, 2w, classes]; see `placed`.
      attention: in [0, 1], [batch, h, w, classes].
    """
    size = detail.shape[1:3]
    return resize(attention, size) * detail + resize((1.0 - attention) * context, size)


def placed(detail: jax.Array, box: Box, size: tuple[int, int], stride: int = 4) -> jax.Array:
    """Class scores of a detail crop in zeros of this size [batch, *size, classes]; `stride`: pixels of a cell."""
    top, bottom, left, right = (int(edge / stride) for edge in box)
    return jnp.pad(detail, ((0, 0), (top, size[0] - bottom), (left, size[1] - right), (0, 0)))


def average_windows(
    windows: Sequence[jax.Array], places: Sequence[tuple[int, int]], size: tuple[int, int]
) -> jax.Array:
    """Mean class scores of overlapping windows (sliding inference).

    Args:
      windows: [batch, h, w, classes] each, which cover the image.
      places: row and column of the first cell of each.
      size: height and width of the result.
    """
    total, count = 0.0, 0.0
    for window, (top, left) in zip(windows, places, strict=True):
        height, width = window.shape[1:3]
        pads = ((0, 0), (top, size[0] - top - height), (left, size[1] - left - width), (0, 0))
        total, count = total + jnp.pad(window, pads), count + jnp.pad(jnp.ones_like(window[..., :1]), pads)
    return total / count
