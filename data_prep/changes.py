"""Raw files that changed or moved since they were prepared: what differs, and what of the copy can be kept."""

import contextlib
import dataclasses
from collections import Counter

from etils import epath

from proda_jax.data.prepared import METADATA, Prepared
from proda_jax.data_prep import records
from proda_jax.data_prep.base import DataSet, LayoutError
from proda_jax.data_prep.examples import Example
from proda_jax.data_prep.records import Record, Stored
from proda_jax.system.files import write_json

Splits = dict[str, list[Record]]
MORE, FEWER, CHANGED = "more", "fewer", "changed"
_PLACES = ("raw_dir", "labels", "file_list")  # of an origin: where files lie, and not how they were prepared


@dataclasses.dataclass
class Changes:
    """How raw files differ from what was prepared: how many images in each way, and the first of each."""

    counts: Counter = dataclasses.field(default_factory=Counter)
    first: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, way: str, split: str, name: str) -> None:
        """Counts an image."""
        self.counts[way] += 1
        self.first.setdefault(way, f"{split}/{name}")

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[way]} {way} (such as {self.first[way]})" for way in (MORE, FEWER, CHANGED)
                         if self.counts[way])  # fmt: skip


class Copy:
    """A prepared copy beside the raw files as they are now."""

    def __init__(self, folder: epath.Path, data_set: DataSet):
        """Lists the raw files, if there are any left.

        Args:
          folder: of the prepared copy.
          data_set: the data set, which may have been moved.
        """
        self._folder, self._prepared = folder, Prepared(folder)
        self._stored = self._noted()
        self.splits: Splits | None = None
        with contextlib.suppress(LayoutError, ValueError, OSError):  # raw files may go once they are prepared
            self.splits = data_set.records()

    def _noted(self) -> dict[str, dict[str, tuple[int, Stored | None]]]:
        """{split: {name: (number, what was noted of it)}}; a copy of an older version has names alone."""
        noted = records.load(self._folder)
        if noted is None:
            names = self._prepared.metadata["names"]
            return {split: {name: (i, None) for i, name in enumerate(found)} for split, found in names.items()}
        return {split: {one.name: (i, one) for i, one in enumerate(found)} for split, found in noted.items()}

    @property
    def gone(self) -> list[str]:
        """Splits of which no raw files are left, as these may go once they are prepared."""
        return [split for split in self._stored if split not in (self.splits or {})]

    def changes(self, *, read: bool = False) -> Changes:
        """What differs.

        Args:
          read: whether a file with another time alone is read, to see whether it changed at all.
        """
        found = Changes()
        for split, here in (self.splits or {}).items():
            now = {record.name: record for record in here}
            for name, record in now.items():
                if name not in self._stored.get(split, {}):
                    found.add(MORE, split, name)
                elif not self._same(split, record, read):
                    found.add(CHANGED, split, name)
            for name in self._stored.get(split, {}):
                if name not in now:
                    found.add(FEWER, split, name)
        return found

    def _same(self, split: str, record: Record, read: bool) -> bool:
        """Whether a record's files are those that were prepared, as far as that shows; they may have moved."""
        stored = self._stored[split][record.name][1]
        if stored is None:
            return True
        if stored.counts.rotated and record.label is None:  # by a version that left photographs on their side
            return False
        try:
            now = records.states(record)
        except ValueError:
            return False
        if len(now) != len(stored.files) or any(a.length != b.length for a, b in zip(now, stored.files, strict=True)):
            return False
        if all(a.same_contents(b) for a, b in zip(now, stored.files, strict=True)):
            return True
        return read and self._digest(record) == stored.digest

    @staticmethod
    def _digest(record: Record) -> str:
        contents = [path.read_bytes() for path in record.files]
        return records.digest(*contents, *[b""] * (2 - len(contents)))

    def kept(self, data_set: DataSet):
        """Reads the example of a record: from the copy where its files are as they were, otherwise from them."""
        held = {split: self._prepared.records(split) for split in self._stored}
        split_of = {id(record): split for split, found in (self.splits or {}).items() for record in found}

        def example(record: Record) -> Example:
            split = split_of.get(id(record))
            number, stored = self._stored.get(split, {}).get(record.name, (0, None))
            if stored is None or not self._same(split, record, read=True):
                return data_set.example(record)
            encoded = held[split][number]
            now = dataclasses.replace(stored, files=records.states(record))
            return Example(encoded["image"], encoded.get("label", b""), now)

        return example

    def adopt(self, origin: dict) -> bool:
        """Takes raw files that moved, or were copied, for those that were prepared, if they hold the same.

        Args:
          origin: of the data set as it is now.

        Returns:
          Whether they do; the copy then knows where they lie.
        """
        before = self._prepared.metadata["origin"]
        differing = {key for key in origin if origin[key] != before.get(key)}
        if not differing <= set(_PLACES) or self.splits is None or records.load(self._folder) is None:
            return False
        if self.changes(read=True):
            return False
        stored = {split: [dataclasses.replace(self._stored[split][record.name][1], files=records.states(record))
                          for record in found] for split, found in self.splits.items()}  # fmt: skip
        with contextlib.suppress(OSError):  # a folder that may only be read is asked again the next time
            records.save(self._folder, stored)
            metadata = self._prepared.metadata | {"origin": before | origin}
            write_json(self._folder / METADATA, metadata)
        return True
