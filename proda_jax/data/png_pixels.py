"""Pixels of large PNG files, the same as TensorFlow's and Pillow's in half of the time.

Most of a decoder's time goes into zlib. libdeflate inflates a whole file at once and takes a third of it; what the
filters of rows left is then put together by a loop that Numba compiles once and keeps. Whatever is not of the plain
kind, or damaged, is left to the other decoders, which say what is wrong with it.
"""

import functools
import struct
from collections.abc import Callable

import numpy as np

LARGE = 2**19  # pixels from which on it pays to load Numba
_MAGIC = b"\x89PNG\r\n\x1a\n"
_ALIGNMENT = 64  # bytes, of TensorFlow's tensors
_DENSEST = 1032  # bytes that a byte can be inflated to: a header that promises more is damaged
_CHANNELS = {0: 1, 2: 3, 6: 4}  # of color types: grey, RGB, RGBA


def pixels(encoded: bytes) -> np.ndarray | None:
    """Pixels of a PNG file of 8 bits and at least `LARGE` pixels, uint8 [height, width, 3], RGB without alpha.

    Returns:
      None where another decoder has to be asked: another format, a small image, other depths, palettes, interlaced or
      damaged files, or packages that are not installed.
    """
    if not encoded.startswith(_MAGIC) or len(encoded) < 33:
        return None
    width, height, depth, color, compression, filtering, interlaced = struct.unpack_from(">IIBBBBB", encoded, 16)
    if width * height < LARGE or (depth, compression, filtering, interlaced) != (8, 0, 0, 0):
        return None
    channels = _CHANNELS.get(color)
    if channels is None or height * width > _DENSEST * len(encoded) or (packages := _packages()) is None:
        return None
    deflate, unfilter = packages
    try:
        rows = deflate.zlib_decompress(_compressed(encoded, deflate.crc32), height * (1 + width * channels))
        filtered = np.frombuffer(rows, np.uint8).reshape(height, 1 + width * channels)
    except (ValueError, struct.error, deflate.DeflateError):
        return None
    if filtered[:, 0].max() > 4:
        return None
    found = _aligned(height * width * channels).reshape(height, width * channels)
    unfilter(filtered, found, channels)
    found = found.reshape(height, width, channels)
    return found if channels == 3 else np.ascontiguousarray(np.broadcast_to(found[..., :3], (height, width, 3)))


def _aligned(size: int) -> np.ndarray:
    """Bytes where TensorFlow takes them as they are; it copies what begins elsewhere."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + size]


def _compressed(png: bytes, crc32: Callable) -> bytes:
    """What the file's IDAT chunks hold.

    Raises:
      ValueError: a checksum is wrong, a chunk is unknown and must not be passed over, or the end is missing.
      struct.error: the file is cut off.
    """
    view, at, parts = memoryview(png), len(_MAGIC), []
    while True:
        length, kind = struct.unpack_from(">I4s", png, at)
        end = at + 8 + length
        if crc32(view[at + 4 : end]) != struct.unpack_from(">I", png, end)[0]:
            raise ValueError("checksum")
        if kind == b"IEND":
            return b"".join(parts)
        if kind == b"IDAT":
            parts.append(view[at + 8 : end])
        elif kind[0] & 32 == 0 and kind not in (b"IHDR", b"PLTE"):  # a capital: nobody may pass it over
            raise ValueError("chunk")
        at = end + 4


@functools.cache
def _packages():
    """libdeflate's package and `png_rows.unfilter`, or None where one of the two packages is missing."""
    try:
        import deflate

        from proda_jax.data.png_rows import unfilter
    except ImportError:
        return None
    return deflate, unfilter
