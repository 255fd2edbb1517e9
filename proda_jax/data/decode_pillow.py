"""Decodes image and label files as `decode` does, to the same pixels, without TensorFlow.

Files are read with Pillow, sizes changed in NumPy as TensorFlow changes them. Every function takes and gives arrays.
Preparation decodes by it, which has no other use for TensorFlow, and training where TensorFlow is not installed.
"""

import numpy as np

from proda_jax.data import png_pixels
from proda_jax.data.label_spaces import LabelMap
from proda_jax.data.pixels import opened

_DEPTH, _COLOR_TYPE = 24, 25  # where a PNG's header holds them
_GREY_WITH_ALPHA = 4


def image(encoded: bytes) -> np.ndarray:
    """Pixels of a PNG (8 or 16 bits, grey, palette, with alpha) or JPEG file, uint8 [height, width, 3]."""
    if (found := png_pixels.pixels(encoded)) is not None:
        return found
    with opened(encoded) as file:
        if file.mode == "I;16":
            return np.repeat((np.asarray(file) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        if file.mode == "P" and "transparency" in file.info:  # whose colours count all the same
            del file.info["transparency"]
        return np.asarray(file.convert("RGB"))


def raw_label(png: bytes, *, in_color: bool) -> np.ndarray:
    """Raw values of a label PNG, int32 [height, width].

    Args:
      png: an encoded PNG; unless colours are wanted, one of 8 or 16 bits without a palette.
      in_color: values are colours, see `label_spaces.color_number`; otherwise they are the first channel's.
    """
    return _raw(png, in_color).astype(np.int32)


def _raw(png: bytes, in_color: bool) -> np.ndarray:
    """`raw_label` in the type in which the file has it."""
    if in_color:
        red, green, blue = np.moveaxis(image(png).astype(np.int32), -1, 0)
        return red * 65536 + green * 256 + blue
    if png[_DEPTH] == 16:
        return _sixteen_bits(png)
    with opened(png) as file:
        pixels = np.asarray(file)
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def _sixteen_bits(png: bytes) -> np.ndarray:
    """First channel of a PNG of 16 bits, uint16 [height, width]; of more than one channel, Pillow keeps 8 bits."""
    with opened(png) as file:
        if file.mode == "I;16":
            return np.asarray(file)
    if png[_COLOR_TYPE] == _GREY_WITH_ALPHA:  # four bytes a pixel, as red, green, blue and alpha have
        high, low = np.moveaxis(_unpacked(png, "RGBA", "RGBA")[..., :2].astype(np.uint16), -1, 0)
    else:  # each number has its upper byte first: taken for the other order, it gives its lower one
        mode = file.mode
        high, low = (_unpacked(png, mode, f"{mode};16{order}")[..., 0].astype(np.uint16) for order in "BL")
    return high * 256 + low


def _unpacked(png: bytes, mode: str, layout: str) -> np.ndarray:
    """The bytes of a PNG's pixels, taken to be laid out in memory as one of Pillow's modes says."""
    with opened(png) as file:
        file._mode = mode
        file.tile = [tile._replace(args=layout) for tile in file.tile]
        return np.asarray(file)


def label(png: bytes, label_map: LabelMap) -> np.ndarray:
    """Train ids of a label PNG, uint8 [height, width]."""
    return np.take(label_map.table, _raw(png, label_map.in_color))


def label_size(label: np.ndarray) -> np.ndarray:
    """Height and width of a label, int32 [2]."""
    return np.array(label.shape, np.int32)


def resized(pixels: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """Pixels at `size`, uint8 [height, width, channels]; 'bilinear' averages where it shrinks, 'nearest' picks."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    changed = pixels
    for axis in (0, 1):
        change = _averaged if method == "bilinear" else _nearest
        changed = change(changed, size[axis], axis)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8) if method == "bilinear" else changed


def _nearest(pixels: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Picks along one axis the pixel in which the centre of a new one lies (tf.image.resize)."""
    old = pixels.shape[axis]
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(size))
    return np.take(pixels, np.minimum(np.floor(centres).astype(int), old - 1), axis)


def _averaged(pixels: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Averages along one axis with a triangle as wide as a new pixel and its neighbours (tf.image.resize, antialiased).

    In float32, one pixel after another, so that the sums are TensorFlow's.
    """
    old, one = pixels.shape[axis], np.float32(1)
    scale = one / (np.float32(size) / np.float32(old))
    width = max(scale, one)  # half of the triangle's base
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale
    first = np.maximum(np.ceil(centres - width - np.float32(0.5)), 0).astype(int)
    last = np.minimum(np.floor(centres + width - np.float32(0.5)), old - 1).astype(int)
    taps = first[:, None] + np.arange((last - first).max() + 1)
    weights = one - np.abs((taps.astype(np.float32) + np.float32(0.5) - centres[:, None]) * (one / width))
    weights = np.where(taps <= last[:, None], np.maximum(weights, 0), 0).astype(np.float32)
    total = np.zeros(size, np.float32)
    for k in range(taps.shape[1]):
        total += weights[:, k]
    weights *= (one / total)[:, None]
    shape = [1] * pixels.ndim
    shape[axis] = size
    changed = np.float32(0)
    for k in range(taps.shape[1]):
        held = np.take(pixels, np.minimum(taps[:, k], old - 1), axis).astype(np.float32)
        changed = changed + held * weights[:, k].reshape(shape)
    return changed
