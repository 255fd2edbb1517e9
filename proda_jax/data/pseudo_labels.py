"""Pseudo labels on disk: one file an image, and a note of where they came from."""

import hashlib
import json
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from proda_jax.data.source import Batch
from proda_jax.system.files import npz, read_json, read_npz, write_atomically, write_json
from proda_jax.system.progress import progress

ORIGIN = "origin.json"
READERS = 8  # threads, as buckets answer late
LONGEST_NAME = 180  # most disks allow 255 bytes, of which an unfinished file needs some


class PseudoLabels:
    """A folder of pseudo labels.

    Soft labels are float16 [grid height, grid width, classes], a grid of every 8th pixel for most (1.3 MB for a
    Cityscapes image); hard labels are uint8 [height, width], IGNORE where not confident, and compressed.
    """

    def __init__(self, folder: epath.PathLike, origin: dict):
        """Opens or creates a store.

        Args:
          folder: may be in a bucket.
          origin: what the labels are made from (stage, its checkpoint, settings).

        Raises:
          ValueError: the folder holds labels of another origin.
        """
        self.folder, self.origin = epath.Path(folder), json.loads(json.dumps(origin))
        note = self.folder / ORIGIN
        if note.exists():
            found = read_json(note, f"delete {self.folder}, and its labels are made again")
            if found != self.origin:
                differing = {k: (found.get(k), self.origin.get(k)) for k in found | self.origin
                             if found.get(k) != self.origin.get(k)}  # fmt: skip
                raise ValueError(
                    f"{self.folder} holds pseudo labels of another origin; (found, expected): {differing}. "
                    "Delete that folder, or use another workdir"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(note, self.origin)

    def path(self, name: str) -> epath.Path:
        """The file of an image's labels: one a name, also with subfolders, and no longer than disks allow."""
        quoted = urllib.parse.quote(name, safe=" ")
        if len(quoted) > LONGEST_NAME:
            quoted = f"{quoted[: LONGEST_NAME - 65]}-{hashlib.sha256(name.encode()).hexdigest()}"
        return self.folder / f"{quoted}.npz"

    def remove_damaged(self, names: Sequence[str]) -> None:
        """Reads the labels that are there, and removes files that are damaged, so that they count as missing."""
        kept = sorted(set(names) - set(self.missing(names)))
        with ThreadPoolExecutor(READERS) as pool, progress("checking pseudo labels", len(kept), leave=False) as bar:
            for name, reason in zip(kept, pool.map(self._damage, kept), strict=True):
                if reason:
                    print(f"{self.path(name)} is damaged ({reason}): it is made again")
                    self.path(name).unlink()
                bar.update()

    def _damage(self, name: str) -> str:
        """What is wrong with one image's labels; '' where nothing is."""
        try:
            self.read(name)
        except ValueError as error:
            return str(error.__cause__)
        return ""

    def missing(self, names: Sequence[str]) -> list[str]:
        """Names without a file: what an interrupted generation still has to do."""
        present = {path.name for path in self.folder.iterdir()}
        return [name for name in names if self.path(name).name not in present]

    def write(self, name: str, label: np.ndarray) -> None:
        """Writes one image's labels; the file appears whole or not at all."""
        compressed = label.dtype != np.float16  # probabilities hardly compress
        write_atomically(self.path(name), npz(compressed, label=label))

    def read(self, name: str) -> np.ndarray:
        """One image's labels.

        Raises:
          ValueError: the file is missing or damaged.
        """
        path = self.path(name)
        try:
            return read_npz(path)["label"]
        except Exception as error:  # what a damaged archive leads to depends on where it is damaged
            raise ValueError(
                f"{path} cannot be read ({error}): give the same command again, which makes it anew"
            ) from error


def with_pseudo_labels(
    batches: Iterator[Batch], store: PseudoLabels, names: Sequence[str], key: str
) -> Iterator[Batch]:
    """Adds each record's pseudo labels to its batch under `key`: [batch, ...]."""
    for batch in batches:
        yield batch | {key: np.stack([store.read(names[record]) for record in batch["record"]])}
