"""The folder that a run keeps everything in."""

from collections.abc import Iterable

from etils import epath

from proda_jax.system import hosts
from proda_jax.system.files import read_json, write_json


class Workdir:
    """A folder for each stage, which holds `checkpoints`, `history.jsonl` (its evaluations), `result.json` (once it is
    complete), and the pseudo labels and prototypes that were made from its network.

    Attributes:
      path: may be in a bucket.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self._finished: dict[str, dict] = {}

    def folder(self, stage: str) -> epath.Path:
        return self.path / stage

    def result(self, stage: str) -> dict | None:
        """The result of a stage, or None while it is not complete."""
        path = self.folder(stage) / "result.json"
        if stage in self._finished:  # on several hosts the file that the first has just written may not be seen yet
            return self._finished[stage]
        return read_json(path, "delete it, and give the same command again") if path.exists() else None

    def finish(self, stage: str, result: dict) -> None:
        """Writes the result of a stage, which makes it complete."""
        self._finished[stage] = result
        if hosts.is_first():
            write_json(self.folder(stage) / "result.json", result)

    def results(self, stages: Iterable[str]) -> list[dict]:
        """The results of those of the stages that are complete."""
        return [result for stage in stages if (result := self.result(stage)) is not None]
