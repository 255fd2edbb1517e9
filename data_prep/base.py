"""What all data sets of this project share: pairs of files, found in the folders of an archive and read."""

from collections.abc import Sequence

from etils import epath

from proda_jax.data_prep.examples import Checks, Example, Record, checked, read_files
from proda_jax.system.files import is_remote
from proda_jax.system.paths import expanded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # in lower or upper case
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
      notes: what was left out of the raw folder, for the summary.
    """

    name: str
    version = "2.0.0"
    config: str | None = None
    layout = ""

    def __init__(self, *, checks: Checks, raw_dir: str | None = None):
        """Reads nothing yet.

        Args:
          checks: what is demanded of each file, and at which size it is stored.
          raw_dir: folder into which the data set's archives were unpacked.
        """
        self.raw_dir = resolved(raw_dir) if raw_dir else None
        self.checks = checks
        self.notes: list[str] = []

    def folder(self, data_dir: epath.PathLike) -> epath.Path:
        """Where its prepared copy lies in a folder of prepared data sets."""
        return epath.Path(data_dir).joinpath(*filter(None, (self.name, self.config, self.version)))

    def splits(self) -> dict[str, Sequence[Record]]:
        """The records of each split, in order; all labelled or none."""
        raise NotImplementedError

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """Encoded image and label of a record; the label is empty where there is none."""
        return read_files(record)

    def example(self, record: Record) -> Example:
        """The example of a record, checked."""
        return checked(record, *self.read(record), self.checks)

    @property
    def origin(self) -> dict:
        """What a prepared copy was made from, and how; another copy in its place has to agree."""
        return {
            "raw_dir": str(self.raw_dir) if self.raw_dir else None,
            "store_scale": self.checks.store_scale,
            "labels_in_color": self.checks.label_map.in_color,  # palettes are kept then, otherwise their indices
        }

    def checked_splits(self) -> dict[str, Sequence[Record]]:
        """The splits that hold something, whose records fit together."""
        splits = {name: records for name, records in self.splits().items() if records}
        if not splits:
            raise self.layout_error("no images")
        for name, records in splits.items():
            self._check(name, records)
        return splits

    def _check(self, split: str, records: Sequence[Record]) -> None:
        missing = [record.name for record in records if record.label is None]
        if 0 < len(missing) < len(records):
            raise self.layout_error(f"split {split} has no label for {len(missing)} of {len(records)} images, "
                                    f"the first being {missing[0]}")  # fmt: skip
        seen: dict[str, Record] = {}
        for record in records:
            if record.name in seen:
                raise self.layout_error(
                    f"split {split} has two images named {record.name}: {seen[record.name].image} and {record.image}"
                )
            seen[record.name] = record

    # Finding files

    def files(self, *parts: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[epath.Path]:
        """Image files in a folder of the archive, sorted; none where there is no such folder."""
        return [path for path in self.entries(*parts) if path.suffix.lower() in suffixes]

    def entries(self, *parts: str) -> list[epath.Path]:
        """What lies in a folder of the archive, sorted and without hidden files; nothing where there is no such."""
        if self.raw_dir is None:
            raise ValueError(f"{self.name} is prepared from files: pass raw_dir, a folder with {self.layout}")
        folder = self.raw_dir.joinpath(*parts)
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))

    def pairs(self, images: str, labels: str) -> list[Record]:
        """Records of a folder of images and the labels of the same name in another folder."""
        known: dict[str, epath.Path] = {}
        for path in self.files(*labels.split("/"), suffixes=LABEL_SUFFIXES):
            self.add(known, path.stem, path)
        return self.match(known, [(path.stem, path) for path in self.files(*images.split("/"))])

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
        here = "the folder holds " + (", ".join(path.name for path in self.entries()[:8]) or "nothing")
        if not self.raw_dir.exists():
            here = "there is no such folder"
        return LayoutError(f"{self.raw_dir} does not look like {self.name}: {found}; expected {self.layout}; {here}")


def resolved(path: str) -> epath.Path:
    """An absolute path; one in a bucket is that already."""
    return epath.Path(path) if is_remote(path) else epath.Path(expanded(path)).resolve()
