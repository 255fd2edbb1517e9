"""One example of a data set: its files read, decoded once to see that they can be, counted, and stored as they came."""

import contextlib
import dataclasses
import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from proda_jax.data import decode_pillow
from proda_jax.data.decoders import decoder
from proda_jax.data.label_spaces import LabelMap

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_MAGIC = b"\xff\xd8\xff"
_GREY, _PALETTE = 0, 3  # colour types in a PNG header
_ORIENTATION = 274  # EXIF tag
_MOST_VALUES = 1024  # that are counted one by one


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
      files: length and time of change of each file, to notice those that change; empty for rendered data.
      values: pixels of each raw label value, {value: pixels}; `others`: of rarer ones, where there are very many.
    """

    images: int = 0
    bytes: int = 0
    sizes: Counter = dataclasses.field(default_factory=Counter)
    other_label_sizes: int = 0
    rotated: int = 0
    files: list = dataclasses.field(default_factory=list)
    values: Counter = dataclasses.field(default_factory=Counter)
    others: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        total = Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))
        total.cap_values()
        return total

    def cap_values(self) -> None:
        """Counts only the most frequent values one by one; a photograph as a label has a million."""
        if len(self.values) > _MOST_VALUES:
            before = self.values.total()
            self.values = Counter(dict(self.values.most_common(_MOST_VALUES)))
            self.others += before - self.values.total()

    @classmethod
    def from_json(cls, values: dict) -> "Counts":
        found = cls(**{k: Counter(v) if isinstance(v, dict) else v for k, v in values.items()})
        found.values = Counter({int(value): pixels for value, pixels in found.values.items()})
        return found


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
    with naming(record.image):
        image = record.image.read_bytes()
        if not image.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
            raise ValueError("it is neither a PNG nor a JPEG file")
    if not record.label:
        return image, b""
    with naming(record.label):
        label = record.label.read_bytes()
        if not label.startswith(_PNG_MAGIC):
            raise ValueError("it is not a PNG file, and labels are read from PNG files only")
    return image, label


def file_states(record: Record) -> list:
    """Length and time of change of a record's files."""
    paths = [path for path in (record.image, record.label) if isinstance(path, epath.Path)]
    return [[state.length, state.mtime] for state in (path.stat() for path in paths)]


@contextlib.contextmanager
def naming(file: Any) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a ValueError that names it."""
    try:
        yield
    # decoders, zlib and our own reading of PNG chunks fail in many ways on damaged files
    except (ValueError, OSError, SyntaxError, IndexError, struct.error, zlib.error, *decoder().errors()) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} cannot be used: {reason}") from error


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
    meaning = checks.label_map
    with naming(record.image):
        check_complete(image)
        pixels = np.asarray(decoder().image(image))
    height, width = pixels.shape[:2]
    counts = Counts(images=1, sizes=Counter([f"{width} x {height}"]), rotated=int(_is_rotated(image)))
    counts.files = file_states(record)
    if label:
        with naming(record.label):
            check_complete(label)
            label = label if meaning.in_color else index_png(label)
            raw = np.asarray(decoder().raw_label(label, in_color=meaning.in_color))
            _count_label(raw, checks, counts)
        if counts.rotated and raw.shape == (width, height) != (height, width):
            raise ValueError(f"{record.label} cannot be used: it is upright, and {record.image} lies on its side, as "
                             "its EXIF data say: turn the image's pixels, too")  # fmt: skip
        counts.other_label_sizes = int(raw.shape != (height, width))
    if checks.store_scale != 1.0:
        size = (max(round(height * checks.store_scale), 1), max(round(width * checks.store_scale), 1))
        image = encode_png(np.asarray(decoder().resized(pixels, size, "bilinear")))
        label = label and encode_png(_smaller_label(label, size, in_color=meaning.in_color))
    counts.bytes = len(image) + len(label)
    return Example(image, label, record.name, counts)


def check_complete(encoded: bytes) -> None:
    """Refuses a PNG without its end, which TensorFlow's decoder forgives."""
    if encoded.startswith(_PNG_MAGIC) and encoded.rfind(_PNG_END) < 0:
        raise ValueError(f"it is cut off after {len(encoded)} bytes: copy or unpack it again")


def _count_label(raw: np.ndarray, checks: Checks, counts: Counts) -> None:
    if checks.label_map.in_color:
        values, pixels = np.unique(raw, return_counts=True)
    else:  # a fifth of the time
        pixels = np.bincount(raw.ravel())
        values = np.flatnonzero(pixels)
        pixels = pixels[values]
    counts.values = Counter(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
    if checks.strict and (unmapped := without_meaning(counts.values, checks.label_map)):
        value, number = unmapped.most_common(1)[0]
        raise ValueError(
            f"{number} of its pixels have value {value}, which means nothing in label space "
            f"{checks.label_map.space.name}: give it a class in label_values, or 'ignored'"
        )
    counts.cap_values()


def without_meaning(values: Counter, label_map: LabelMap) -> Counter:
    """Pixels of each value that is neither mapped to a class nor ignored on purpose, by the value's name."""
    return Counter({label_map.named(value): pixels for value, pixels in values.items() if not label_map.known[value]})


def _smaller_label(png: bytes, size: tuple[int, int], *, in_color: bool) -> np.ndarray:
    """Pixels of a stored label at another size: [height, width, 3] colours, or [height, width] values."""
    if in_color:
        return decode_pillow.resized(decode_pillow.image(png), size, "nearest")
    smaller = decode_pillow.resized(decode_pillow.raw_label(png, in_color=False), size, "nearest")
    return smaller.astype(np.uint8 if smaller.max() < 256 else np.uint16)


def _is_rotated(encoded: bytes) -> bool:
    return encoded.startswith(_JPEG_MAGIC) and Image.open(io.BytesIO(encoded)).getexif().get(_ORIENTATION, 1) != 1


def index_png(png: bytes) -> bytes:
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
            raise ValueError(
                "it is an image of colours, where one channel of class values is expected: say in label_values which "
                "colour is which class"
            )
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
    """A PNG of uint8 [height, width] or [height, width, 3], or of uint16 [height, width]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
