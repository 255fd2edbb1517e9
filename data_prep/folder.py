"""TFDS builder of a user's own files: images, and labels where there are any."""

import dataclasses
from collections.abc import Sequence

import tensorflow_datasets as tfds
from etils import epath

from proda_jax.data_prep.base import IMAGE_SUFFIXES, LABEL_SUFFIXES, LayoutError, SegmentationBuilder, resolved
from proda_jax.data_prep.records import Record

_OTHER_SUFFIXES = (".tif", ".tiff", ".bmp", ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Files of a folder and its subfolders, and what each has in common with its counterpart.

    Attributes:
      folder: where they lie.
      before, after: what a file's name begins and ends with, without its suffix.
      suffixes: in lower case.
    """

    folder: epath.Path
    before: str
    after: str
    suffixes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, suffixes: tuple[str, ...]) -> "Pattern":
        """Reads a folder, or a folder and a file name with one '*' for what image and label have in common."""
        path = resolved(text)
        if "*" not in path.name:
            return cls(path, "", "", suffixes)
        before, after = path.name.split("*", 1)
        stem, dot, suffix = after.rpartition(".")
        return cls(path.parent, before, stem if dot else after, (f".{suffix}".lower(),) if dot else suffixes)

    def files(self) -> dict[str, epath.Path]:
        """{name: file}, in the order of names; a name is the path below the folder without what the pattern fixes.

        Raises:
          LayoutError: two files have the same name.
        """
        found: dict[str, epath.Path] = {}
        for below, path in _walk(self.folder, ""):
            stem = path.stem
            fits = stem.startswith(self.before) and stem.endswith(self.after) and path.suffix.lower() in self.suffixes
            if not fits or len(stem) < len(self.before) + len(self.after):
                continue
            name = below + stem[len(self.before) : len(stem) - len(self.after)]
            if name in found:
                raise LayoutError(f"{found[name]} and {path} are two files of the same name: remove or rename one")
            found[name] = path
        return dict(sorted(found.items()))

    def others(self) -> list[epath.Path]:
        """Images of kinds that are not read, such as TIFF."""
        return [path for _, path in _walk(self.folder, "") if path.suffix.lower() in _OTHER_SUFFIXES]

    def __str__(self) -> str:
        return f"{self.folder}/{self.before}*{self.after}{{{','.join(self.suffixes)}}}"


def _walk(folder: epath.Path, below: str):
    """(path below the first folder, file) of every file that is not hidden."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES + _OTHER_SUFFIXES:  # no folder: asking takes long in a bucket
            yield below, path
        elif path.is_dir():
            yield from _walk(path, f"{below}{path.name}/")


class Folder(SegmentationBuilder, skip_registration=True):
    """One split, of the name that the configuration gives it."""

    name = "folder"

    def __init__(self, *, split: str, images: str, labels: str | None = None, **kwargs):
        """Makes the builder.

        Args:
          split: name of the data set and its one split.
          images: folder of images, or a folder and a file name with '*'.
          labels: the same for label PNGs, or None.
          **kwargs: of `SegmentationBuilder`.
        """
        self._split = split
        self._images = Pattern.parse(images, IMAGE_SUFFIXES)
        self._labels = Pattern.parse(labels, LABEL_SUFFIXES) if labels else None
        super().__init__(config=tfds.core.BuilderConfig(name=split), **kwargs)

    @property
    def origin(self) -> dict:
        """What a prepared copy was made from."""
        labels = str(self._labels) if self._labels else None
        return super().origin | {"raw_dir": str(self._images), "labels": labels}

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of the one split."""
        for pattern in filter(None, (self._images, self._labels)):
            if not pattern.folder.is_dir():
                raise LayoutError(f"there is no folder {pattern.folder}, which the files of {self._split} should be in")
        images = self._images.files()
        labels = self._labels.files() if self._labels else {}
        for pattern, found in ((self._images, images), (self._labels, labels)):
            if pattern and not found:
                held = ", ".join(sorted(path.name for path in pattern.folder.iterdir())[:8]) or "nothing"
                raise LayoutError(f"there are no files {pattern}: the folder holds {held}")
        if self._labels and not labels.keys() & images.keys():
            raise LayoutError(
                f"none of the {len(labels)} labels {self._labels} has the name of one of the {len(images)} images "
                f"{self._images}: {_first(labels)} against {_first(images)}; what differs can be left out of the names "
                "with a pattern, such as photos/*_rgb.png and labels/*_label.png"
            )
        if others := self._images.others():
            self.notes.append(f"{len(others)} files are neither PNG nor JPEG and were left out, such as {others[0]}")
        return {self._split: self.match(labels, list(images.items()))}

    def layout_error(self, found: str) -> LayoutError:
        """The error for files that do not fit together."""
        return LayoutError(f"{self._images} with labels {self._labels}: {found}")


def _first(names: dict) -> str:
    return repr(next(iter(names))) if names else "none"
