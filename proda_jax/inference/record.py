"""What results were made with, so that an interrupted prediction goes on with the same and never mixes two."""

import hashlib
import json
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from proda_jax.inference.images import Input
from proda_jax.inference.segmenter import Segmenter
from proda_jax.system.files import read_json, write_atomically

NAME = "prediction.json"


class Record:
    """The file `NAME` in a folder of results: the network, by a digest of its parameters, and the options.

    A result counts as one of its if it was written after the record was, and after its input was.
    """

    def __init__(self, output: epath.Path, kinds: Sequence[str]):
        self._output, self._kinds, self._path = output, kinds, output / NAME
        self._began: float | None = None

    def begin(self, segmenter: Segmenter, untagged_video: str) -> None:
        """Notes what results are made with from now on; older ones count no more."""
        write_atomically(self._path, json.dumps(_described(segmenter, untagged_video), indent=2))
        self._began = self._path.stat().mtime

    def check(self, segmenter: Segmenter, untagged_video: str) -> None:
        """Looks what the results there were made with; where there are none, begins.

        Raises:
          ValueError: they are another network's, or of other options, or nobody knows.
        """
        if not self._path.exists():
            if there := [kind for kind in self._kinds if (self._output / kind).exists()]:
                raise ValueError(f"--skip_existing: there is no {self._path} that says what made {there[0]}/: leave it "
                                 "out, and they are replaced, or name another --output")  # fmt: skip
            return self.begin(segmenter, untagged_video)
        found = read_json(self._path, "delete it, and leave --skip_existing out")
        wanted = _described(segmenter, untagged_video)
        if differing := [key for key in wanted if found.get(key) != wanted[key]]:
            key = differing[0]
            raise ValueError(f"--skip_existing: the results in {self._output} were made with another {key} "
                             f"({_short(found.get(key))}, not {_short(wanted[key])}): leave it out, and they are "
                             "replaced, or name another --output")  # fmt: skip
        self._began = self._path.stat().mtime

    def is_done(self, entry: Input) -> bool:
        """Whether everything that is wanted of an input is there, and newer than it."""
        try:
            since = max(self._began, entry.path.stat().mtime)
            return all(self._result(kind, entry).stat().mtime >= since for kind in self._kinds)
        except OSError:  # one is not there
            return False

    def _result(self, kind: str, entry: Input) -> epath.Path:
        ending = ".png" if not entry.is_video else ".mp4" if kind in ("colors", "overlays") else ".mkv"
        return self._output / kind / f"{entry.name}{ending}"


def _described(segmenter: Segmenter, untagged_video: str) -> dict:
    """What decides results, as JSON gives it back."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(segmenter.network[1])):
        digest.update(np.ascontiguousarray(leaf).data)
    described = {"network": digest.hexdigest(), "card": segmenter.card.as_json(), "untagged_video": untagged_video}
    return json.loads(json.dumps(described | segmenter.options))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}..."
