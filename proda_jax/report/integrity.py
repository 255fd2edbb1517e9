"""Compares what lies in a workdir with the digests that were written with it; reads as much of it as is quick."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from proda_jax.data.translations import Translations
from proda_jax.system import checkpoint_digests, digests
from proda_jax.system.files import is_remote, read_npz

QUICK = 100e6  # bytes that are read unless all is wanted: a second or two
CHECKPOINTS, ARCHIVES, LABELS, TRANSLATIONS = "checkpoints", "archives", "pseudo labels", "translated images"


@dataclasses.dataclass
class Integrity:
    """What has been compared so far.

    Attributes:
      left: bytes that may still be read; None stands for all there are. In a bucket nothing is read unless all is.
      whole: how many of each kind are what was written.
      without: how many have no digest, as older versions wrote none.
      unread: how many were not read, as they are too large.
      unread_bytes: their size.
    """

    left: float | None = QUICK
    whole: Counter = dataclasses.field(default_factory=Counter)
    without: Counter = dataclasses.field(default_factory=Counter)
    unread: Counter = dataclasses.field(default_factory=Counter)
    unread_bytes: int = 0

    def checkpoint(self, path: epath.Path) -> str:
        """What is wrong with a checkpoint; '' if nothing is known to be."""
        try:
            if checkpoint_digests.read(path) is None:
                self.without[CHECKPOINTS] += 1
            elif self._may_read(CHECKPOINTS, path, size_of(path)):
                checkpoint_digests.check_all(path)
                self.whole[CHECKPOINTS] += 1
            return ""
        except (digests.Damaged, OSError) as error:
            return str(error)

    def archive(self, path: epath.Path) -> str:
        """What is wrong with an .npz file; '' if nothing is known to be, or it is not there."""
        return self._file(path, ARCHIVES, read_npz)

    def store(self, folder: epath.Path) -> list[str]:
        """Names of the files of a store, of pseudo labels or translated images, that are damaged."""
        paths = sorted(path for path in folder.iterdir() if path.suffix in _OF_STORES)
        return [path.name for path in paths if self._file(path, *_OF_STORES[path.suffix])]

    def _file(self, path: epath.Path, kind: str, read: Callable[[epath.Path], Any]) -> str:
        """What is wrong with a file of a kind that can be read; '' if nothing is known to be, or it is not there."""
        try:
            if self._may_read(kind, path, path.stat().length):
                read(path)
                self.whole[kind] += 1
            return ""
        except FileNotFoundError:
            return ""
        except Exception as error:  # what a damaged archive leads to depends on where it is damaged
            return str(error)

    def in_words(self) -> str:
        """All of that in a sentence; '' where there was nothing to compare."""
        parts = []
        if self.whole:
            parts.append(f"as they were written: {listed(self.whole)}")
        if self.without:
            parts.append(f"no digest: {listed(self.without)} of an older version")
        if self.unread:
            parts.append(f"not read: {listed(self.unread)}, {self.unread_bytes / 1e6:,.0f} MB (--verify reads all)")
        return "; ".join(parts)

    def _may_read(self, kind: str, path: epath.Path, size: int) -> bool:
        if self.left is None:
            return True
        if is_remote(path) or size > self.left:
            self.unread[kind] += 1
            self.unread_bytes += size
            return False
        self.left -= size
        return True


# kind of the files of a store, and how they are read, by the ending of their names
_OF_STORES = {".npz": (LABELS, read_npz),
              Translations.ending: (TRANSLATIONS, lambda path: Translations.decode(path.read_bytes()))}  # fmt: skip


def listed(counts: Counter) -> str:
    """'3 checkpoints, 60 pseudo labels'."""
    return ", ".join(f"{count} {kind if count > 1 else kind.removesuffix('s')}" for kind, count in counts.items())


def size_of(folder: epath.Path) -> int:
    """Bytes in a folder and in those in it; what vanishes meanwhile does not count."""
    return sum(size for size in _sizes(folder))


def _sizes(folder: epath.Path) -> Iterator[int]:
    try:
        for path in folder.iterdir():
            if path.is_dir():
                yield from _sizes(path)
            else:
                yield path.stat().length
    except (FileNotFoundError, NotADirectoryError):
        return
