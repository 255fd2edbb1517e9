"""Which decoder reads image and label files: TensorFlow's where that can be imported, otherwise Pillow's.

Both give the same pixels.
"""

import functools
from types import ModuleType

import numpy as np

from proda_jax.data import decode, decode_pillow, png_pixels


@functools.cache
def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported, which takes seconds; there is none for the newest Python, as a rule."""
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return False
    decode.hide_accelerators()
    return True


def decoder() -> ModuleType:
    """`decode` or `decode_pillow`."""
    return decode if has_tensorflow() else decode_pillow


def image(encoded: bytes) -> np.ndarray:
    """Pixels of an image file, by whatever decoder is the quickest for it, uint8 [height, width, 3], RGB."""
    if not has_tensorflow():
        return decode_pillow.image(encoded)
    found = png_pixels.pixels(encoded)
    return np.asarray(decode.image(encoded)) if found is None else found
