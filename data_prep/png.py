"""PNG files: whether they are whole, and labels whose pixels have to become plain values."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from proda_jax.data.decode_pillow import raw_label

MAGIC = b"\x89PNG\r\n\x1a\n"
_END = b"IEND\xaeB`\x82"
_COLOR_TYPE = 25  # where it stands in the header
_GREY, _PALETTE = 0, 3


def is_png(encoded: bytes) -> bool:
    """Whether a file is a PNG."""
    return encoded.startswith(MAGIC)


def depth(png: bytes) -> int:
    """Bits of a channel."""
    return png[24]


def check_complete(encoded: bytes) -> None:
    """Refuses a PNG without its end, which TensorFlow's decoder forgives."""
    if is_png(encoded) and encoded.rfind(_END) < 0:
        raise ValueError(f"it is cut off after {len(encoded)} bytes: copy or unpack it again")


def index_png(png: bytes) -> bytes:
    """A label file as a PNG whose pixel values (first channel) are the raw label values.

    Decoders replace the values of a palette PNG by the colours of its palette. Such a file is turned into a grey PNG
    of its indices, by changing the header alone where the file has one byte a pixel.

    Raises:
      ValueError: the file holds colours instead of class values.
    """
    bits, color_type = depth(png), png[_COLOR_TYPE]
    if color_type == _PALETTE and bits == 8:
        return _with_header(png, bytes([bits, _GREY]))
    if bits < 8:
        pixels = Image.open(io.BytesIO(png))
        if color_type == _PALETTE:
            return encode_png(np.asarray(pixels))
        return encode_png(np.asarray(pixels.convert("L")) // (255 // (2**bits - 1)))  # Pillow spreads them over 0..255
    if color_type != _GREY:
        channels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))  # of 16 bits, the upper 8
        if (channels != channels[..., :1]).any() and (bits == 8 or _spread(png, channels[..., 0])):
            raise ValueError(
                "it is an image of colours, where one channel of class values is expected: say in label_values which "
                "colour is which class"
            )
    return png


def _spread(png: bytes, upper: np.ndarray) -> bool:
    """Whether 16 bits in colour are 8, spread over 0..65535; else the second channel may number objects (SYNTHIA).

    Args:
      png: the file.
      upper: the upper 8 bits of its first channel.
    """
    return bool(upper.any() and (raw_label(png, in_color=False) == upper.astype(int) * 257).all())


def palette(png: bytes) -> np.ndarray | None:
    """The colours of a PNG's palette, uint8 [colours, 3]; None: it has none."""
    if png[_COLOR_TYPE] != _PALETTE:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.getpalette(), np.uint8).reshape(-1, 3)


def _with_header(png: bytes, depth_and_color: bytes) -> bytes:
    """The PNG with another depth and colour type, and without the chunks that belong to a palette."""
    header = b"IHDR" + png[16:24] + depth_and_color + png[26:29]
    chunks, position = [png[:12] + header + struct.pack(">I", zlib.crc32(header))], 33
    while position < len(png):
        size = struct.unpack(">I", png[position : position + 4])[0] + 12
        if png[position + 4 : position + 8] not in (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT"):
            chunks.append(png[position : position + size])
        position += size
    return b"".join(chunks)


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [height, width] or [height, width, 3], or of uint16 [height, width]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
