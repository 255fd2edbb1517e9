"""Potsdam and Vaihingen (ISPRS, 2D semantic labelling): large aerial images, cut into crops of 512 pixels.

Labels are stored as positions of classes, 255 for black, by which the noBoundary files part two objects. Splits are
those that mmsegmentation made usual. A colour of no class becomes 254, which has no meaning either: it is counted and
named like all such values, and ignored. No real files were at hand.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

from proda_jax.data import pixels
from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.examples import naming
from proda_jax.data_prep.png import encode_png
from proda_jax.data_prep.records import Record

CROP = 512  # pixels
_BOUNDARY, _STRANGE = 255, 254
_SUFFIXES = (".tif", ".tiff", ".png")
_TILES_HELD = 4  # decoded, of up to 108 MB each


class _Tiles(DataSet):
    """Tiles of one of the two data sets.

    Attributes:
      images: {what splits begin with: expression for an image's file, with the tile's number}.
      label: the same for label files, the preferred first.
      validation: tiles of the split 'val'; all others with a label are of 'train'.
    """

    images: dict[str, str]
    label: str
    validation: tuple[str, ...]

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each split, one a crop."""
        files, splits = self.files("", _SUFFIXES), {}
        labels = _by_tile(self.label, files)
        for begin, expression in self.images.items():
            for tile, image in _by_tile(expression, files).items():
                if tile not in labels:
                    self.notes.append(f"{image} has no label, and was left out")
                    continue
                split = f"{begin}{'val' if tile in self.validation else 'train'}"
                with naming(image):
                    with pixels.opened(image.read_bytes()) as whole:
                        width, height = whole.size
                splits.setdefault(split, []).extend(
                    Record(f"{tile}_{row}_{column}", image, labels[tile])
                    for row in _starts(height) for column in _starts(width)
                )  # fmt: skip
        return splits

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """The crop of a record and its label."""
        row, column = (int(part) for part in record.name.split("_")[-2:])
        cut = np.s_[row : row + CROP, column : column + CROP]
        with naming(record.image):
            image = encode_png(np.ascontiguousarray(_pixels(record.image, self.checks.value_range)[cut]))
        with naming(record.label):
            return image, encode_png(_classes(_pixels(record.label)[cut], strict=self.checks.strict))


class Potsdam(_Tiles):
    """The splits 'train' and 'val' of RGB tiles; 'irrg_train', 'irrg_val' of those in infrared, red and green."""

    name = "potsdam"
    images = {"": r"top_potsdam_(\d+_\d+)_RGB", "irrg_": r"top_potsdam_(\d+_\d+)_IRRG"}
    label = r"top_potsdam_(\d+_\d+)_label(?:_noBoundary)?"
    validation = ("5_15", "6_15", "6_13", "3_13", "4_14", "6_14", "5_14", "2_13", "4_15", "2_14", "5_13", "4_13",
                  "3_14", "7_13")  # fmt: skip
    layout = ("top_potsdam_*_RGB.tif or _IRRG.tif and top_potsdam_*_label_noBoundary.tif anywhere, unpacked or in "
              "archives (2_Ortho_RGB.zip or 3_Ortho_IRRG.zip, 5_Labels_all_noBoundary.zip)")  # fmt: skip


class Vaihingen(_Tiles):
    """The splits 'train' and 'val'; images are infrared, red and green."""

    name = "vaihingen"
    images = {"": r"top_mosaic_09cm_area(\d+)"}
    label = r"top_mosaic_09cm_area(\d+)_noBoundary"
    validation = ("10", "12", "14", "16", "2", "20", "22", "24", "27", "29", "31", "33", "35", "38", "4", "6", "8")
    layout = ("top/top_mosaic_09cm_area*.tif and top_mosaic_09cm_area*_noBoundary.tif anywhere, unpacked or in "
              "archives (the ground truth that is eroded, COMPLETE)")  # fmt: skip


def _by_tile(expression: str, files: dict) -> dict:
    """{number of the tile: file}, of several the one whose name is longest; labels lie beside images of one name."""
    found: dict = {}
    for place, path in files.items():
        matched = re.fullmatch(expression, path.stem)
        if matched and "gts_for_participants" not in place:
            tile = matched.group(1)
            if tile not in found or len(path.name) > len(found[tile].name):
                found[tile] = path
    return found


def _starts(size: int) -> list[int]:
    """Where crops begin; the last one ends with the tile."""
    return sorted({min(start, max(size - CROP, 0)) for start in range(0, size, CROP)})


@functools.lru_cache(maxsize=_TILES_HELD)
def _pixels(path, value_range: pixels.Range | None = None) -> np.ndarray:
    return pixels.read(path.read_bytes(), value_range, upright=False)


def _classes(colors: np.ndarray, *, strict: bool = False) -> np.ndarray:
    """Positions of classes, uint8 [h, w], of their colours [h, w, 3].

    Raises:
      ValueError: naming a colour that no class has, where that is `strict`.
    """
    numbers = colors.astype(np.int32) @ (1 << 16, 1 << 8, 1)
    found = np.full(numbers.shape, -1)
    for position, color in enumerate(LABEL_SPACES["isprs6"].colors.astype(np.int32)):
        found[numbers == color @ (1 << 16, 1 << 8, 1)] = position
    found[numbers == 0] = _BOUNDARY
    strange = found < 0
    if strict and strange.any():
        first = tuple(map(int, colors[strange][0]))
        raise ValueError(f"{int(strange.sum())} pixels have colours of no class, such as {first}")
    found[strange] = _STRANGE
    return found.astype(np.uint8)
