"""Public data sets that are folders of images and labels: where the files of each split lie, as tables.

Of none of them were real files at hand. Layouts rest on code that reads the data sets and on their pages; where files
lie otherwise, preparation says what was expected and what is there.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image

from proda_jax.data_prep.archives import Member
from proda_jax.data_prep.base import IMAGE_SUFFIXES, LABEL_SUFFIXES, DataSet
from proda_jax.data_prep.examples import naming
from proda_jax.data_prep.png import encode_png, is_png
from proda_jax.data_prep.records import Record

# Of files without their endings, below the raw folder: '*' stands for any part of a name, '**' for any folders or none.
# An image and its label have in common what these stand for. Several patterns: the first that finds files.
Patterns = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set's files lie.

    Attributes:
      splits: {split: (images, labels)}; None where the labels are withheld.
      red: whether a label's values are its red channel, whatever the others hold.
    """

    splits: Mapping[str, tuple[Patterns, Patterns]]
    red: bool = False

    def __str__(self) -> str:
        """For error messages: the first two splits."""
        shown = [f"{split}: {_first(images)}.* with {_first(labels)}.png" for split, (images, labels)
                 in list(self.splits.items())[:2]]  # fmt: skip
        return ", ".join(shown) + (", ..." if len(self.splits) > 2 else "") + ", unpacked or in zip or tar archives"


def _acdc() -> Layout:
    """References are images of the same places in clear weather; since 2024 there are labels of them."""
    found = {}
    for ref in ("", "_ref"):
        for split in ("train", "val", "test"):
            for weather in ("fog", "night", "rain", "snow"):
                labels = f"gt/{weather}/{split}{ref}/*/*_gt{ref}_labelTrainIds"
                images = f"rgb_anon/{weather}/{split}{ref}/*/*_rgb{ref}_anon"
                found[f"{weather}_{split}{ref}"] = images, None if split == "test" else labels
    return Layout(found)


def _of_splits(images: str, labels: str, unlabelled: tuple[str, ...] = ("test",)) -> Layout:
    found = {split: (images.format(split), labels.format(split)) for split in ("train", "val")}
    return Layout(found | {split: (images.format(split), None) for split in unlabelled})


def _idd(id_type: str) -> Layout:
    """The labels that its tools make with this `--id-type`."""
    return _of_splits("leftImg8bit/{}/*/*_leftImg8bit", f"gtFine/{{}}/*/*_gtFine_label{id_type}s")


def _mapillary(version: str, *older: str) -> Layout:
    found = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        labels = (f"{folder}/{version}/labels/*", *(f"{folder}/{name}" for name in older))
        found[split] = f"{folder}/images/*", labels
    return Layout(found | {"test": ("testing/images/*", None)})


def _foggy() -> Layout:
    found = {}
    for split in ("train", "val", "test"):
        for beta in ("0.005", "0.01", "0.02"):
            images = f"leftImg8bit_foggy/{split}/*/*_leftImg8bit_foggy_beta_{beta}"
            labels = None if split == "test" else f"gtFine/{split}/*/*_gtFine_labelIds"
            found[f"{split}_beta_{beta.replace('.', '_')}"] = images, labels
    return Layout(found)


def _virtual_kitti() -> Layout:
    variations = ("clone", "fog", "morning", "overcast", "rain", "sunset", "15-deg-left", "15-deg-right", "30-deg-left",
                  "30-deg-right")  # fmt: skip
    frames = "Scene*/{}/frames/{}/*/{}_*"
    return Layout({
        ("deg_" + name.replace("-deg-", "_") if "deg" in name else name):
        (frames.format(name, "rgb", "rgb"), frames.format(name, "classSegmentation", "classgt"))
        for name in variations
    })  # fmt: skip


def _loveda() -> Layout:
    found = {}
    for place in ("urban", "rural"):
        for split in ("train", "val", "test"):
            folder = f"{split.capitalize()}/{place.capitalize()}"
            labels = None if split == "test" else f"{folder}/masks_png/*"
            found[f"{place}_{split}"] = f"{folder}/images_png/*", labels
    return Layout(found)


_CARLA = Layout({"train": ("rgb/**/*", "semantic/**/*")}, red=True)
PRESETS: dict[str, Layout] = {
    "acdc": _acdc(),
    "dark_zurich": Layout(
        {f"{time}_train": (f"rgb_anon/train/{time}/*/*_rgb_anon", None) for time in ("night", "twilight", "day")}
        | {"val": ("rgb_anon/val/night/*/*_rgb_anon", "gt/val/night/*/*_gt_labelTrainIds"),
           "test": ("rgb_anon/test/night/*/*_rgb_anon", None)}
    ),
    "nighttime_driving": Layout({"test": ("leftImg8bit/test/night/*_leftImg8bit",
                                          "gtCoarse_daytime_trainvaltest/test/night/*_gtCoarse_labelTrainIds")}),
    "bdd100k": _of_splits("bdd100k/images/10k/{}/*", "bdd100k/labels/sem_seg/masks/{}/*"),
    "mapillary_1_2": _mapillary("v1.2", "labels/*"),
    "mapillary_2_0": _mapillary("v2.0"),
    "idd": _idd("id"),
    "idd_level3": _idd("level3Id"),
    "idd_cs_train_ids": _idd("csTrainId"),
    "urbansyn": Layout({"train": ("rgb/rgb_*", "ss/ss_*")}),
    "synscapes": Layout({"train": ("img/rgb-2k/*", "img/class/*")}),
    "viper": _of_splits("{}/img/*/*", "{}/cls/*/*"),
    "virtual_kitti_2": _virtual_kitti(),
    "carla_0_9_5": _CARLA,
    "carla_0_9_6": _CARLA,
    "carla_0_9_14": _CARLA,
    "foggy_cityscapes": _foggy(),
    "muses": _of_splits("frame_camera/{}/*/*/*_frame_camera", "gt_semantic/{}/*/*/*_gt_labelTrainIds"),
    "loveda": _loveda(),
}  # fmt: skip


class Preset(DataSet):
    """One of `PRESETS`."""

    def __init__(self, name: str, **kwargs):
        """Reads nothing yet.

        Args:
          name: of the data set.
          **kwargs: of `DataSet`.
        """
        self.name, self._layout, self.layout = name, PRESETS[name], str(PRESETS[name])
        super().__init__(**kwargs)

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each split of which there are images."""
        return {split: self._records(split, *patterns) for split, patterns in self._layout.splits.items()}

    def own_values(self, record: Record, label: bytes) -> bytes:
        """A label; of raw images of a simulator the channel that holds its values."""
        if not (label and self._layout.red):
            return label
        with naming(record.label):
            if not is_png(label):
                raise ValueError("it is not a PNG file, and labels are read from PNG files only")
            pixels = np.asarray(Image.open(io.BytesIO(label)))
            return encode_png(np.ascontiguousarray(pixels[..., 0])) if pixels.ndim == 3 else label

    def _records(self, split: str, images: Patterns, labels: Patterns) -> list[Record]:
        if not (found := self._found(images, IMAGE_SUFFIXES)):
            return []
        known = self._found(labels, LABEL_SUFFIXES)
        if labels and not known:
            alike = {name: other.splits[split] for name, other in PRESETS.items() if split in other.splits}
            there = [f"; those of {name} are there" for name, (same, others) in alike.items()
                     if same == images and self._found(others, LABEL_SUFFIXES)]  # fmt: skip
            self.notes.append(f"{split} has no labels: there is no {_first(labels)}.png{''.join(there)}")
        return self.match(known, sorted(found.items()))

    def _found(self, patterns: Patterns, suffixes: tuple[str, ...]) -> dict[str, epath.Path | Member]:
        """{what the pattern leaves open: file}."""
        for pattern in (patterns,) if isinstance(patterns, str) else patterns or ():
            fixed, _, _ = pattern.partition("*")
            folder = fixed.rpartition("/")[0]
            expression, found = _expression(pattern.removeprefix(folder).strip("/")), {}
            for place, path in self.files(folder, suffixes).items():
                if matched := expression.fullmatch(place.rpartition(".")[0]):
                    self.add(found, "/".join(filter(None, (part.strip("/") for part in matched.groups()))), path)
            if found:
                return found
        return {}


def _first(patterns: Patterns) -> str:
    return patterns if isinstance(patterns, str) else (patterns or ("no label",))[0]


@functools.cache
def _expression(pattern: str) -> re.Pattern:
    parts = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*)", pattern)))
