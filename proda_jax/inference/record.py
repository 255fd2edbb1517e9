"""What results were made with, so that an interrupted prediction goes on with the same and never mixes two."""

import hashlib
import json
import threading
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from proda_jax.inference.images import Input
from proda_jax.inference.segmenter import Segmenter
from proda_jax.system import digests
from proda_jax.system.files import json_lines, parse_json_lines, read_json, write_atomically

NAME = "prediction.json"
INPUTS = "inputs.jsonl"
WRITE_AFTER = 20.0  # seconds between two writes of `INPUTS`: buckets only take whole files


class Record:
    """What results in a folder were made with, and of.

    The file `NAME` has the network, by a digest of its parameters, and the options. `INPUTS` has a line for each input
    that is done: its name, a digest of what it holds, and which kinds of results were written of it.
    """

    def __init__(self, output: epath.Path, kinds: Sequence[str]):
        self._output, self._kinds, self._path = output, kinds, output / NAME
        self._done: dict[str, tuple[str, tuple[str, ...]]] = {}  # by name: digest, kinds
        self._looked_at: dict[str, str] = {}  # digests of inputs that are being predicted
        self._writing = threading.Lock()
        self._written = time.monotonic()

    def begin(self, segmenter: Segmenter, untagged_video: str) -> None:
        """Notes what results are made with from now on; older ones count no more."""
        (self._output / INPUTS).unlink(missing_ok=True)  # first, as they were done by what `NAME` says
        write_atomically(self._path, json.dumps(_described(segmenter, untagged_video), indent=2))

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
        self._read()

    def _read(self) -> None:
        """Takes over the inputs that are done; an older version noted none."""
        path = self._output / INPUTS
        try:
            lines = parse_json_lines(path.read_text()) if path.exists() else []
            self._done = {line["name"]: (line["contents"], tuple(line["kinds"])) for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and all files are predicted again") from None

    def is_done(self, entry: Input) -> bool:
        """Whether everything that is wanted of an input is there, and was made of the file that it is now."""
        try:
            made_of, kinds = self._done[entry.name]
            if not set(self._kinds) <= set(kinds):
                return False
            if not all(any(path.exists() for path in self._results(kind, entry)) for kind in self._kinds):
                return False
            return made_of == digests.of_file(entry.path)
        except (KeyError, OSError):  # nobody noted it, or it is not there
            return False

    def look(self, entry: Input) -> None:
        """Remembers the file that an input is, before it is read.

        Raises:
          OSError: it cannot be read.
        """
        self._looked_at[entry.name] = digests.of_file(entry.path)

    def note(self, entry: Input) -> None:
        """Notes that all results of an input are written; from any thread."""
        with self._writing:
            now = self._looked_at.pop(entry.name)
            before, kinds = self._done.get(entry.name, ("", ()))
            more = kinds if before == now else ()
            self._done[entry.name] = now, tuple(dict.fromkeys((*more, *self._kinds)))
            if time.monotonic() - self._written > WRITE_AFTER:
                self._write()

    def close(self) -> None:
        """Writes what is not written yet, however the prediction ends."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        if self._done:
            lines = [{"name": name, "contents": held, "kinds": kinds} for name, (held, kinds) in self._done.items()]
            write_atomically(self._output / INPUTS, json_lines(lines))
        self._written = time.monotonic()

    def _results(self, kind: str, entry: Input) -> list[epath.Path]:
        """Where a result of an input is; that of a video that is called an image, in the second place."""
        of_video = ".mp4" if kind in ("colors", "overlays") else ".mkv"
        endings = (of_video,) if entry.is_video else (".png", of_video)
        return [self._output / kind / f"{entry.name}{ending}" for ending in endings]


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
