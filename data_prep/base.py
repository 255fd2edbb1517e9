"""What all data sets of this project share: pairs of files, found in the folders of an archive and read."""

import os
import unicodedata
from collections.abc import Sequence

from etils import epath

from proda_jax.data import pixels
from proda_jax.data_prep.archives import Member, members, packed_as_a_whole, place_below
from proda_jax.data_prep.examples import Checks, Example, checked, read_files
from proda_jax.data_prep.records import Record, digest, states
from proda_jax.system.files import is_remote
from proda_jax.system.folders import PassedOver, listing, shown
from proda_jax.system.paths import expanded

IMAGE_SUFFIXES = pixels.ENDINGS  # in lower or upper case
LABEL_SUFFIXES = (".png",)


class LayoutError(ValueError):
    """A raw folder does not look as its archive does."""


class DataSet:
    """Base of the data sets: each lists the records of its splits, and reads them if they are no files.

    Attributes:
      name: of the data set, and of the folder of its prepared copy.
      version: of what is stored; a copy of another one is not used.
      config: name of a variant, which has a folder of its own below `name`; None where there is one form only.
      layout: expected layout of the raw folder, for error messages.
      partly_labelled: whether images without a label stand beside labelled ones.
      notes, passed_over: what was left out of the raw folder, for the summary.
    """

    name: str
    version = "2.0.0"
    config: str | None = None
    layout = ""
    partly_labelled = False

    def __init__(self, *, checks: Checks, raw_dir: str | None = None, skip_unlabelled: bool = False):
        """Reads nothing yet.

        Args:
          checks: what is demanded of each file, and at which size it is stored.
          raw_dir: folder into which the data set's archives were unpacked.
          skip_unlabelled: whether images without a label are left out, of splits that have labels, and not refused.
        """
        self.raw_dir = resolved(raw_dir) if raw_dir else None
        self.checks = checks
        self.skip_unlabelled = skip_unlabelled
        self.notes: list[str] = []
        self.passed_over = PassedOver()
        self._members: list[tuple[str, Member]] | None = None  # of archives, once they are asked for

    def folder(self, data_dir: epath.PathLike) -> epath.Path:
        """Where its prepared copy lies in a folder of prepared data sets."""
        return epath.Path(data_dir).joinpath(*filter(None, (self.name, self.config, self.version)))

    def splits(self) -> dict[str, Sequence[Record]]:
        """The records of each split, in order."""
        raise NotImplementedError

    def records(self) -> dict[str, list[Record]]:
        """The same, checked, and without images that have no label where these are to be left out.

        Raises:
          LayoutError: there are none, labels are missing, or two records of a split have the same name.
        """
        self.notes, self.passed_over = [], PassedOver()
        splits = {name: list(records) for name, records in self.splits().items() if records}
        if not splits:
            raise self.layout_error("no images")
        if self.raw_dir is not None and not is_remote(self.raw_dir):
            for path in packed_as_a_whole(self.raw_dir):
                self.passed_over.add("archives that are compressed as a whole: unpack what is wanted of them", path)
        for name, found in splits.items():
            self._check_names(name, found)
            splits[name] = self._labelled(name, found)
        self.notes += [f"passed over: {line}" for line in self.passed_over.lines()]
        return splits

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """Encoded image and label of a record; the label is empty where there is none."""
        return read_files(record)

    def example(self, record: Record) -> Example:
        """The example of a record, checked."""
        files = states(record)  # before it is read, so that a change meanwhile is noticed
        image, label = self.read(record)
        example = checked(record, image, self.own_values(record, label), self.checks)
        return example.of(files, digest(image, label))

    def own_values(self, record: Record, label: bytes) -> bytes:
        """A record's label, with the raw values that the data set is known for, where the file has others."""
        return label

    @property
    def origin(self) -> dict:
        """What a prepared copy was made from, and how; another copy in its place has to agree."""
        seen = {"value_range": list(self.checks.value_range)} if self.checks.value_range else {}
        return seen | {
            "raw_dir": str(self.raw_dir) if self.raw_dir else None,
            "store_scale": self.checks.store_scale,
            "labels_in_color": self.checks.label_map.in_color,  # palettes are kept then, otherwise their indices
        }

    def _labelled(self, split: str, records: list[Record]) -> list[Record]:
        """The records of a split, of which some have labels: all, or those alone that have one."""
        missing = [record.name for record in records if record.label is None]
        if self.partly_labelled or not 0 < len(missing) < len(records):
            return records
        lacking = f"no label for {len(missing)} of {len(records)} images, the first being {missing[0]}"
        if not self.skip_unlabelled:
            raise self.layout_error(f"split {split} has {lacking}; skip_unlabelled=True leaves them out")
        self.notes.append(f"left out of {split}: {lacking}")
        return [record for record in records if record.label is not None]

    def _check_names(self, split: str, records: Sequence[Record]) -> None:
        seen: dict[str, Record] = {}
        for record in records:
            if record.name in seen:
                raise self.layout_error(
                    f"split {split} has two images named {record.name}: {seen[record.name].image} and {record.image}"
                )
            seen[record.name] = record

    # Finding files

    def files(self, folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, epath.Path]:
        """{place below a folder of the archive: file} in order; none where there is no such folder.

        Files may be in archives, too, that lie in the raw folder; unpacked ones of the same place come first. What is
        passed over in folders is counted; among images, files of other kinds, too.
        """
        found = self._packed(folder, suffixes) | self._unpacked(folder, suffixes)
        return dict(sorted(found.items()))

    def _packed(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, Member]:
        if self._members is None:
            root = self.raw_folder()
            self._members = list(members(root)) if root.is_dir() and not is_remote(root) else []
        found = ((place_below(place, folder), member) for place, member in self._members)
        return {
            unicodedata.normalize("NFC", place): member for place, member in found
            if place and os.path.splitext(place)[1].lower() in suffixes
        }  # fmt: skip

    def _unpacked(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, epath.Path]:
        root = self.raw_folder(folder)
        if not root.is_dir():
            return {}
        try:
            found = listing(root, suffixes)
        except OSError as error:
            raise self.layout_error(f"{root} cannot be read ({error.strerror or error})") from None
        self.pass_over(found.passed_over if suffixes == LABEL_SUFFIXES else found.everything_passed_over())
        return found.files

    def pass_over(self, passed_over: PassedOver) -> None:
        """Adds to what was passed over."""
        for reason, number in passed_over.counts.items():
            self.passed_over.counts[reason] += number
            self.passed_over.first.setdefault(reason, passed_over.first[reason])

    def raw_folder(self, below: str = "") -> epath.Path:
        """A folder of the archive."""
        if self.raw_dir is None:
            raise ValueError(f"{self.name} is prepared from files: pass raw_dir, a folder with {self.layout}")
        return self.raw_dir / below

    def pairs(self, images: str, labels: str) -> list[Record]:
        """Records of a folder of images and the labels of the same name in another folder; not of folders in them."""
        known: dict[str, epath.Path] = {}
        for below, path in self.files(labels, LABEL_SUFFIXES).items():
            if "/" not in below:
                self.add(known, _stem(below), path)
        found = self.files(images).items()
        return self.match(known, [(_stem(below), path) for below, path in found if "/" not in below])

    def add(self, known: dict[str, epath.Path], name: str, path: epath.Path) -> None:
        """Adds a label to those known by name; refuses a second one of the same name."""
        if name in known:
            raise self.layout_error(f"there are two labels named {name}: {known[name]} and {path}")
        known[name] = path

    def match(self, labels: dict[str, epath.Path], images: Sequence[tuple[str, epath.Path]]) -> list[Record]:
        """Records of (name, image) with the label of that name; notes labels that have no image."""
        orphans = sorted(labels.keys() - {name for name, _ in images})
        if orphans and images:
            self.notes.append(f"{len(orphans)} labels without an image were left out, such as {labels[orphans[0]]}")
        return [Record(name, path, labels.get(name)) for name, path in images]

    def labelled_pairs(self, images: str, labels: str) -> list[Record]:
        """The same for a data set that is of no use without labels."""
        records = self.pairs(images, labels)
        if records and all(record.label is None for record in records):
            raise self.layout_error(f"{images} has {len(records)} images, but {labels} has no label for any of them")
        return records

    def layout_error(self, found: str) -> LayoutError:
        """The error for a raw folder that is empty or holds something else."""
        here = "there is no such folder"
        if self.raw_dir.is_dir():
            here = f"the folder holds {held(self.raw_dir)}"
        return LayoutError(f"{self.raw_dir} does not look like {self.name}: {found}; expected {self.layout}; {here}")


def held(folder: epath.Path) -> str:
    """What a folder holds, for messages: some names, hidden ones aside."""
    names = sorted(shown(path.name) for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:8]) + ", ..." * (len(names) > 8) or "nothing"


def _stem(place: str) -> str:
    return os.path.splitext(place)[0]


def resolved(path: str) -> epath.Path:
    """An absolute path; one in a bucket is that already."""
    return epath.Path(path) if is_remote(path) else epath.Path(expanded(path)).resolve()
