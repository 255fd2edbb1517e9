"""What a network made of each image, on disk: one file an image, and a note of where they came from."""

import hashlib
import json
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from etils import epath

from proda_jax.system.files import read_json, write_atomically, write_json
from proda_jax.system.progress import progress

ORIGIN = "origin.json"
READERS = 8  # threads, as buckets answer late
LONGEST_NAME = 180  # most disks allow 255 bytes, of which an unfinished file needs some


class Store:
    """A folder with a file for each image; files have sums of their own, by which damage is noticed.

    Attributes:
      what: what they are, for messages.
      ending: of their names.
    """

    what: ClassVar[str]
    ending: ClassVar[str]

    def __init__(self, folder: epath.PathLike, origin: dict):
        """Opens or creates a store.

        Args:
          folder: may be in a bucket.
          origin: what they are made from (stage, its checkpoint, settings).

        Raises:
          ValueError: the folder holds some of another origin.
        """
        self.folder, self.origin = epath.Path(folder), json.loads(json.dumps(origin))
        note = self.folder / ORIGIN
        if note.exists():
            found = read_json(note, f"delete {self.folder}, and what it holds is made again")
            if found != self.origin:
                differing = {k: (found.get(k), self.origin.get(k)) for k in found | self.origin
                             if found.get(k) != self.origin.get(k)}  # fmt: skip
                raise ValueError(
                    f"{self.folder} holds {self.what} of another origin; (found, expected): {differing}. "
                    "Delete that folder, or use another workdir"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(note, self.origin)

    @staticmethod
    def encode(values: np.ndarray) -> bytes:
        """The contents of an image's file."""
        raise NotImplementedError

    @staticmethod
    def decode(contents: bytes) -> np.ndarray:
        """The inverse of `encode`; raises an exception of some sort where the contents are damaged."""
        raise NotImplementedError

    def path(self, name: str) -> epath.Path:
        """An image's file: one a name, also with subfolders, and no longer than disks allow."""
        quoted = urllib.parse.quote(name, safe=" ")
        if len(quoted) > LONGEST_NAME:
            quoted = f"{quoted[: LONGEST_NAME - 65]}-{hashlib.sha256(name.encode()).hexdigest()}"
        return self.folder / f"{quoted}{self.ending}"

    def remove_damaged(self, names: Sequence[str]) -> None:
        """Reads the files that are there, and removes those that are damaged, so that they count as missing."""
        kept = sorted(set(names) - set(self.missing(names)))
        with ThreadPoolExecutor(READERS) as pool, progress(f"checking {self.what}", len(kept), leave=False) as bar:
            for name, reason in zip(kept, pool.map(self._damage, kept), strict=True):
                if reason:
                    print(f"{self.path(name)} is damaged ({reason}): it is made again")
                    self.path(name).unlink()
                bar.update()

    def _damage(self, name: str) -> str:
        """What is wrong with one image's file; '' where nothing is."""
        try:
            self.read(name)
        except ValueError as error:
            return str(error.__cause__)
        return ""

    def missing(self, names: Sequence[str]) -> list[str]:
        """Names without a file: what an interrupted generation still has to do."""
        present = {path.name for path in self.folder.iterdir()}
        return [name for name in names if self.path(name).name not in present]

    def write(self, name: str, values: np.ndarray) -> None:
        """Writes one image's file, which appears whole or not at all."""
        write_atomically(self.path(name), self.encode(values))

    def read(self, name: str) -> np.ndarray:
        """What was made of one image.

        Raises:
          ValueError: the file is missing or damaged.
        """
        path = self.path(name)
        try:
            return self.decode(path.read_bytes())
        except Exception as error:  # what a damaged file leads to depends on where it is damaged
            raise ValueError(
                f"{path} cannot be read ({error}): give the same command again, which makes it anew"
            ) from error
