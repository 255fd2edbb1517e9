"""One example of a data set: its files read, decoded once to see that they can be, counted, and stored as they came.

Pillow decodes, to the pixels that TensorFlow has in training (tests/data/test_decoders.py): TensorFlow by itself would
take two thirds of the memory.
"""

import contextlib
import dataclasses
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from proda_jax.data import decode_pillow, pixels
from proda_jax.data.label_spaces import LabelMap
from proda_jax.data.pixels import Range
from proda_jax.data_prep.counts import Counts, without_meaning
from proda_jax.data_prep.png import check_complete, depth, encode_png, index_png, is_png, palette
from proda_jax.data_prep.records import FileState, Record, Stored
from proda_jax.system.stand_ins import stand_in

# what decoders, zlib and our own reading of PNG chunks raise on damaged files
_DAMAGED = (ValueError, OSError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)

_OTHER_SHAPE = 1.1  # times that the proportion of a label's sides may be its image's, before that is told


@dataclasses.dataclass(frozen=True)
class Checks:
    """What is demanded of each example, and how it is stored.

    Attributes:
      label_map: meaning of raw label values, for counts, pictures and `strict`.
      strict: whether a label value without meaning is an error.
      value_range: values that are black and white in images of more than 8 bits, see `pixels.read`.
      store_scale: share of width and height at which images are stored; 1 keeps the files as they came, and labels
        always are kept.
    """

    label_map: LabelMap
    strict: bool = False
    store_scale: float = 1.0
    value_range: Range | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """What is stored of an example, and what was counted in it."""

    image: bytes
    label: bytes
    stored: Stored

    def of(self, files: tuple[FileState, ...], digest: str) -> "Example":
        """The same with a note of the files that it was made of."""
        return dataclasses.replace(self, stored=dataclasses.replace(self.stored, files=files, digest=digest))

    @property
    def counts(self) -> Counts:
        return self.stored.counts

    @property
    def features(self) -> dict:
        return {"image": self.image, "label": self.label, "name": self.stored.name}


def read_files(record: Record) -> tuple[bytes, bytes]:
    """Encoded image and label as they are in their files; the label is empty where there is none.

    Raises:
      ValueError: naming the file that is of another kind.
    """
    with naming(record.image):
        image = record.image.read_bytes()
        with pixels.opened(image):  # or it is refused, as what it is instead
            pass
    if not record.label:
        return image, b""
    with naming(record.label):
        label = record.label.read_bytes()
        if not is_png(label):
            raise ValueError(stand_in(label) or "it is not a PNG file, and labels are read from PNG files only")
    return image, label


@contextlib.contextmanager
def naming(file: Any) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a ValueError that names it."""
    try:
        yield
    except _DAMAGED as error:
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
        with pixels.opened(image) as opened:
            paged = pixels.has_pages(opened)
        rotated = bool(label) and pixels.is_rotated(image)
        image = _as_prediction_sees_it(image, checks.value_range, upright=not label)
        decoded = decode_pillow.image(image)
    height, width = decoded.shape[:2]
    counts = Counts(images=1, sizes=Counter([f"{width} x {height}"]), rotated=int(rotated), paged=int(paged))
    if paged:
        counts.first["paged"] = str(record.image)
    if label:
        with naming(record.label):
            check_complete(label)
            colors = None if meaning.in_color else palette(label)
            label = label if meaning.in_color else index_png(label)
            raw = decode_pillow.raw_label(label, in_color=meaning.in_color)
            _count_label(raw, checks, counts)
            if colors is not None and (said := _palette_says(colors, counts, meaning)):
                counts.other_palettes, counts.first["other_palettes"] = 1, f"{record.label} {said}"
        if counts.rotated and raw.shape == (width, height) != (height, width):
            raise ValueError(f"{record.label} cannot be used: it is upright, and {record.image} lies on its side, as "
                             "its EXIF data say: turn the image's pixels, too")  # fmt: skip
        _compare_sizes(record, raw.shape, (height, width), counts)
    if checks.store_scale != 1.0:
        size = (max(round(height * checks.store_scale), 1), max(round(width * checks.store_scale), 1))
        image = encode_png(decode_pillow.resized(decoded, size, "bilinear"))
    counts.bytes = len(image) + len(label)
    return Example(image, label, Stored(record.name, (), "", {}, counts))


def _as_prediction_sees_it(encoded: bytes, value_range: Range | None, *, upright: bool) -> bytes:
    """An image file whose plain pixels are those that prediction has of it; the file itself wherever that is so.

    Args:
      encoded: the file.
      value_range: see `Checks`.
      upright: whether the camera's orientation (EXIF) is followed; labels are drawn on pixels as they are stored.

    Raises:
      Unreadable: it cannot be read, or has 16 bits that would come out nearly black.
    """
    plain = pixels.plain(encoded, value_range, upright=upright)
    if plain and not (is_png(encoded) and depth(encoded) == 16):
        return encoded
    seen = pixels.read(encoded, value_range, upright=upright)  # which refuses what would be nearly black
    return encoded if plain else encode_png(seen)


def _compare_sizes(record: Record, label: tuple[int, int], image: tuple[int, int], counts: Counts) -> None:
    """Counts a label whose (height, width) or whose proportions are not its image's."""
    counts.other_label_sizes = int(label != image)
    proportion = label[1] / label[0] * image[0] / image[1]
    if not 1 / _OTHER_SHAPE < proportion < _OTHER_SHAPE:
        counts.other_label_shapes = 1
        counts.first["other_label_shapes"] = (
            f"{record.label} is {label[1]} x {label[0]}, its image {image[1]} x {image[0]}"
        )


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


def _palette_says(colors: np.ndarray, counts: Counts, meaning: LabelMap) -> str:
    """What a label's palette says against the settings: that a class is shown in the colour of another one.

    What is ignored may have any colour: Cityscapes' licence plates have that of cars.
    """
    space = meaning.space
    if space.made_up:
        return ""
    named = {tuple(color): name for color, name in zip(space.colors.tolist(), space.classes, strict=True)}
    for value in (value for value in counts.values if value < len(colors)):
        shown, train_id = named.get(tuple(colors[value].tolist())), int(meaning.table[value])
        if shown and train_id < len(space) and (space.colors[train_id] != colors[value]).any():
            return f"shows value {value} in the colour of {shown!r}, and it is taken for {space.classes[train_id]!r}"
    return ""
