"""One example of a data set: its files read, decoded once to see that they can be, counted, and stored as they came."""

import dataclasses
import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from proda_jax.data import decode
from proda_jax.data.label_spaces import IGNORE, LabelMap

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_GREY, _PALETTE = 0, 3  # colour types in a PNG header
_ORIENTATION = 274  # EXIF tag


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a split, before it is read.

    Attributes:
      name: unique within the split.
      image: image file (or, for rendered data, what to render).
      label: label file, None where the archive has none.
    """

    name: str
    image: Any
    label: Any = None


@dataclasses.dataclass(frozen=True)
class Checks:
    """What is demanded of each example, and how it is stored.

    Attributes:
      label_map: meaning of raw label values, for counts, pictures and `strict`.
      strict: whether a label value without meaning is an error.
      store_scale: share of width and height at which images and labels are stored; 1 keeps the files as they came.
    """

    label_map: LabelMap
    strict: bool = False
    store_scale: float = 1.0


@dataclasses.dataclass
class Counts:
    """What a number of examples hold; JSON-serialisable.

    Attributes:
      images: number of images; `bytes`: of the files that are stored.
      sizes: images of each size, {'width x height': number}.
      other_label_sizes: labels whose size differs from their image's, which are resized when they are read.
      rotated: JPEG images whose EXIF orientation asks for a rotation, which is not done.
      pixels: {class: pixels}; `ignored`: pixels that count nowhere.
      unmapped: pixels of each label value that has no meaning, {value: pixels}.
    """

    images: int = 0
    bytes: int = 0
    sizes: Counter = dataclasses.field(default_factory=Counter)
    other_label_sizes: int = 0
    rotated: int = 0
    pixels: Counter = dataclasses.field(default_factory=Counter)
    ignored: int = 0
    unmapped: Counter = dataclasses.field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

    @classmethod
    def from_json(cls, values: dict) -> "Counts":
        return cls(**{k: Counter(v) if isinstance(v, dict) else v for k, v in values.items()})


@dataclasses.dataclass(frozen=True)
class Example:
    """What is stored of an example, and what was counted in it."""

    image: bytes
    label: bytes
    name: str
    counts: Counts

    @property
    def features(self) -> dict:
        return {"image": self.image, "label": self.label, "name": self.name}


def read_files(record: Record) -> tuple[bytes, bytes]:
    """Encoded image and label as they are in their files; the label is empty where there is none.

    Raises:
      ValueError: naming the file that is of another kind.
    """
    image = record.image.read_bytes()
    if not image.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
        raise ValueError(f"image file {record.image} is neither a PNG nor a JPEG file")
    label = record.label.read_bytes() if record.label else b""
    if record.label and not label.startswith(_PNG_MAGIC):
        raise ValueError(f"label file {record.label} is not a PNG file: labels are read from PNG files only")
    return image, label


def checked(record: Record, image: bytes, label: bytes, checks: Checks) -> Example:
    """An example: decoded once, as training will, counted, and made smaller if that is wanted.

    Args:
      record: where it comes from.
      image, label: encoded files; the label is empty where there is none.
      checks: what is demanded, and how it is stored.

    Raises:
      ValueError: naming the file that is damaged, holds colours where class values are expected, or has a label value
        without meaning although `checks.strict` is set.
    """
    in_color = checks.label_map.in_color
    pixels = _decoded(record.image, image, decode.image)
    height, width = pixels.shape[:2]
    counts = Counts(images=1, sizes=Counter([f"{width} x {height}"]), rotated=int(_is_rotated(image)))
    if label:
        label = label if in_color else index_png(record.label, label)
        raw = _decoded(record.label, label, lambda png: decode.raw_label(png, in_color=in_color))
        counts.other_label_sizes = int(raw.shape != (height, width))
        _count_label(record, raw, checks, counts)
    if checks.store_scale != 1.0:
        size = (max(round(height * checks.store_scale), 1), max(round(width * checks.store_scale), 1))
        image = encode_png(decode.resized(pixels, size, "bilinear").numpy())
        label = label and encode_png(_smaller_label(label, size))
    counts.bytes = len(image) + len(label)
    return Example(image, label, record.name, counts)


def _decoded(file: Any, encoded: bytes, decoder: Callable) -> np.ndarray:
    import tensorflow as tf

    try:
        # TensorFlow's PNG decoder forgives a missing end
        if encoded.startswith(_PNG_MAGIC) and b"IEND" not in encoded[-64:]:
            raise ValueError(f"it ends after {len(encoded)} bytes")
        return decoder(encoded).numpy()
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is damaged or cut off ({reason}): copy or unpack it again") from error


def _count_label(record: Record, raw: np.ndarray, checks: Checks, counts: Counts) -> None:
    classes = checks.label_map.space.classes
    of_class = np.bincount(checks.label_map.table[raw].ravel(), minlength=IGNORE + 1)
    counts.pixels = Counter({c: int(n) for c, n in zip(classes, of_class, strict=False) if n})
    counts.ignored = int(of_class[IGNORE])
    unmapped = raw[~checks.label_map.known[raw]]
    if not len(unmapped):
        return
    for value, pixels in zip(*np.unique(unmapped, return_counts=True), strict=True):
        counts.unmapped[_value_name(int(value), in_color=checks.label_map.in_color)] = int(pixels)
    if checks.strict:
        value, pixels = counts.unmapped.most_common(1)[0]
        raise ValueError(
            f"label file {record.label} has {pixels} pixels of value {value}, which means nothing in label space "
            f"{checks.label_map.space.name}: give it a class in label_values, or 'ignored'"
        )


def _value_name(value: int, *, in_color: bool) -> str:
    return str((value >> 16, value >> 8 & 255, value & 255)) if in_color else str(value)


def _smaller_label(png: bytes, size: tuple[int, int]) -> np.ndarray:
    """Pixels of a stored label at another size, of the same channels and depth."""
    import tensorflow as tf

    sixteen = png[24] == 16
    pixels = tf.io.decode_png(png, dtype=tf.uint16 if sixteen else tf.uint8)
    smaller = tf.image.resize(pixels, size, "nearest").numpy()
    # Pillow writes no 16-bit colours, and only the first channel of such labels is read
    if sixteen:
        return np.minimum(smaller[..., 0], 255).astype(np.uint8)
    return smaller[..., 0] if smaller.shape[-1] == 1 else smaller


def _is_rotated(encoded: bytes) -> bool:
    return encoded.startswith(_JPEG_MAGIC) and Image.open(io.BytesIO(encoded)).getexif().get(_ORIENTATION, 1) != 1


def index_png(path: Any, png: bytes) -> bytes:
    """A label file as a PNG whose pixel values (first channel) are the raw label values.

    Decoders replace the values of a palette PNG by the colours of its palette. Such a file is turned into a grey PNG
    of its indices, by changing the header alone where the file has one byte a pixel.

    Raises:
      ValueError: the file holds colours instead of class values.
    """
    depth, color_type = png[24], png[25]
    if color_type == _PALETTE and depth == 8:
        return _with_header(png, bytes([depth, _GREY]))
    if depth < 8:
        pixels = Image.open(io.BytesIO(png))
        if color_type == _PALETTE:
            return encode_png(np.asarray(pixels))
        return encode_png(np.asarray(pixels.convert("L")) // (255 // (2**depth - 1)))  # Pillow spreads them over 0..255
    if depth == 8 and color_type != _GREY:
        channels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        if (channels != channels[..., :1]).any():
            raise ValueError(f"label file {path} is an image of colours, where one channel of class values is "
                             "expected: say in label_values which colour is which class")  # fmt: skip
    return png


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
    """An 8-bit PNG of [height, width] or [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
