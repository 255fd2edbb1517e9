"""Examples before they are read, and what is noted of them once they are stored: their files and what was counted."""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from etils import epath

from proda_jax.data_prep.archives import Member
from proda_jax.data_prep.counts import Counts
from proda_jax.system.files import state, write_atomically

NAME = "records.jsonl.gz"  # beside a prepared data set


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a split, before it is read.

    Attributes:
      name: unique within the split.
      image: image file, maybe in an archive (or, for rendered data, what to render).
      label: label file, None where the archive has none.
    """

    name: str
    image: Any
    label: Any = None

    @property
    def files(self) -> list[epath.Path | Member]:
        """Its files, image first; none for rendered data."""
        return [path for path in (self.image, self.label) if isinstance(path, epath.Path | Member)]


@dataclasses.dataclass(frozen=True)
class FileState:
    """What tells a file from a changed one, without reading it.

    Attributes:
      path: where it is.
      length: bytes.
      time: of its last change, nanoseconds since 1970; of a file in an archive what `Member.state` has.
    """

    path: str
    length: int
    time: int

    @classmethod
    def of(cls, path: epath.Path | Member) -> "FileState":
        if isinstance(path, Member):
            return cls(str(path), *path.state)
        return cls(str(path), *state(path))

    def same_contents(self, other: "FileState") -> bool:
        """Whether both are the same file, as far as that shows; it may have moved."""
        return (self.length, self.time) == (other.length, other.time)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is noted of an example that is stored.

    Attributes:
      name: of its record.
      files: of which it was made, image first; none for rendered data.
      digest: of what these files held.
      made_with: settings that decided what is stored of it, besides those of the whole data set.
      counts: what was counted in it.
    """

    name: str
    files: tuple[FileState, ...]
    digest: str
    made_with: dict
    counts: Counts

    def as_json(self) -> dict:
        fields = {f.name: f.default_factory() if f.default is dataclasses.MISSING else f.default
                  for f in dataclasses.fields(Counts)}  # fmt: skip
        counts = {name: value for name, value in vars(self.counts).items() if value != fields[name]}
        return vars(self) | {"files": [dataclasses.astuple(file) for file in self.files], "counts": counts}

    @classmethod
    def from_json(cls, values: dict) -> "Stored":
        files = tuple(FileState(*file) for file in values["files"])
        return cls(**values | {"files": files, "counts": Counts.from_json(values["counts"])})


def states(record: Record) -> tuple[FileState, ...]:
    """The states of a record's files.

    Raises:
      ValueError: naming one that is gone or out of reach.
    """
    return tuple(_state(path) for path in record.files)


def _state(path: epath.Path) -> FileState:
    try:
        return FileState.of(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror or error}") from None


def digest(*contents: bytes) -> str:
    """Differs for other contents."""
    found = hashlib.blake2b(digest_size=16)
    for part in contents:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def save(folder: epath.PathLike, splits: dict[str, Iterable[Stored]]) -> None:
    """Writes what is noted of each split's examples, in order."""
    lines = [json.dumps({"split": split} | stored.as_json()) for split, found in splits.items() for stored in found]
    write_atomically(epath.Path(folder) / NAME, gzip.compress("\n".join(lines).encode(), mtime=0))


def label_values(folder: epath.PathLike, split: str) -> list[Counter] | None:
    """Pixels of each raw value in the label of each example of a split; None where not all of them are noted."""
    found = (load(folder) or {}).get(split)
    return None if found is None or any(one.counts.others for one in found) else [one.counts.values for one in found]


def load(folder: epath.PathLike) -> dict[str, list[Stored]] | None:
    """What `save` wrote; None where an older version prepared the folder, which noted nothing.

    Raises:
      ValueError: it is damaged.
    """
    path = epath.Path(folder) / NAME
    if not path.exists():
        return None
    splits: dict[str, list[Stored]] = {}
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {folder} and give the same command again") from None
    for line in lines:
        values = json.loads(line)
        splits.setdefault(values.pop("split"), []).append(Stored.from_json(values))
    return splits
