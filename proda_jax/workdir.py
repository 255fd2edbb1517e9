"""The folder that a run keeps everything in."""

import json
from collections.abc import Iterable

from etils import epath


class Workdir:
    """A folder for each stage, which holds `checkpoints`, `history.jsonl` (its evaluations), `result.json` (once it is
    complete), and the pseudo labels and prototypes that were made from its network.

    Attributes:
      path: may be in a bucket.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    def folder(self, stage: str) -> epath.Path:
        return self.path / stage

    def result(self, stage: str) -> dict | None:
        """The result of a stage, or None while it is not complete."""
        path = self.folder(stage) / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def results(self, stages: Iterable[str]) -> list[dict]:
        """The results of those of the stages that are complete."""
        return [result for stage in stages if (result := self.result(stage)) is not None]
