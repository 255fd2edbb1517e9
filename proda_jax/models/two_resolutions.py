"""Two resolutions: logits of a detail crop and of the context around it, joined by an attention (HRDA).

Hoyer et al., ECCV 2022. The context is the image at half its size, the detail a part of it at full size; both go
through one network. Its attention says for each class where the detail is trusted.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.interpolation import linear_weights, resize
from proda_jax.models.resizing import align_corners_weights

Size = tuple[int, int]  # height, width


def halved(images: jax.Array) -> jax.Array:
    """The context: images [batch, height, width, channels] of even sizes at half of them, pixels averaged."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def padded(images: jax.Array, unit: int) -> jax.Array:
    """Images whose last rows and columns are repeated until height and width are multiples of `unit`."""
    more = ((0, -size % unit) for size in images.shape[1:3])
    return jnp.pad(images, ((0, 0), *more, (0, 0)), mode="edge")


def crop(maps: jax.Array, places: jax.Array, size: Size) -> jax.Array:
    """Parts of this size of `maps` [batch, height, width, ...], each from its place, top and left [batch, 2], on."""

    def cut(one: jax.Array, place: jax.Array) -> jax.Array:
        start = (*place, *[jnp.int32(0)] * (one.ndim - 2))
        return jax.lax.dynamic_slice(one, start, (*size, *one.shape[2:]))

    return jax.vmap(cut)(maps, jnp.asarray(places, jnp.int32))


def attention_inside(attention: jax.Array, places: jax.Array, size: Size) -> jax.Array:
    """The attention [batch, h, w, classes], zero outside of each image's detail crop.

    Args:
      attention: in [0, 1].
      places: top and left of the crops, positions of the attention's grid, [batch, 2].
      size: their height and width there.
    """
    inside = []
    for axis, length in enumerate(size):
        index, first = jnp.arange(attention.shape[1 + axis]), places[:, axis, None]
        inside.append((index >= first) & (index < first + length))
    return jnp.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], attention, 0.0)


def interpolation_between(coarse: Size, fine: Size) -> Callable[[int, int], np.ndarray]:
    """How a map becomes one twice as fine: corners aligned where both grids have a position at each corner."""
    corners = all(m == 2 * n - 1 for n, m in zip(coarse, fine, strict=True))
    return align_corners_weights if corners else linear_weights


def fuse(context: jax.Array, detail: jax.Array, attention: jax.Array) -> jax.Array:
    """a * detail + (1 - a) * context, on the detail's grid (Equation 9 of HRDA).

    Args:
      context: logits of the context, [batch, h, w, classes].
      detail: logits on a grid twice as fine, [batch, 2h, 2w, classes], or 2h - 1 and 2w - 1; see `placed`.
      attention: in [0, 1], [batch, h, w, classes].
    """
    size = detail.shape[1:3]
    weights = interpolation_between(context.shape[1:3], size)
    return resize(attention, size, weights) * detail + resize((1.0 - attention) * context, size, weights)


def placed(detail: jax.Array, places: jax.Array, size: Size) -> jax.Array:
    """Logits of detail crops [batch, h, w, classes] in zeros of this size, from `places` [batch, 2] on."""

    def place(one: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(jnp.zeros((*size, one.shape[-1]), one.dtype), one, (*at, jnp.int32(0)))

    return jax.vmap(place)(detail, jnp.asarray(places, jnp.int32))


def starts(size: int, window: int, unit: int) -> list[int]:
    """Where windows begin that cover an axis, each half a window after the one before, in multiples of `unit`."""
    step = max(window // 2 // unit * unit, unit)
    return [*range(0, size - window, step), size - window]


def average_windows(windows: Sequence[jax.Array], places: Sequence[tuple[int, int]], size: Size) -> jax.Array:
    """Mean logits of overlapping windows (sliding inference).

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
