"""What a stage notes as it goes: its metrics and its evaluations, a line of JSON each."""

import time

import numpy as np
from etils import epath

from proda_jax.report.score_tables import best_of
from proda_jax.system import hosts
from proda_jax.system.files import json_lines, parse_json_lines, write_atomically

WRITE_AFTER = 20.0  # seconds between two writes of the metrics: buckets only take whole files


class Lines:
    """A file with a line for some of a stage's steps: {'step', 'seconds', ...}.

    Attributes:
      entries: the lines.
      repeated: seconds of steps that were noted once and will be taken again.
    """

    def __init__(self, path: epath.Path, step: int):
        """Reads the lines up to `step`; later ones belong to steps that will be taken again."""
        self._path = path
        try:
            lines = parse_json_lines(path.read_text()) if path.exists() else []
            self.entries = [entry for entry in lines if entry["step"] <= step]
            self.repeated = max([entry["seconds"] - self.seconds for entry in lines], default=0.0)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged: delete it, which forgets what is in it, and go on") from None

    @property
    def seconds(self) -> float:
        """That the stage had taken at the last line."""
        return self.entries[-1]["seconds"] if self.entries else 0.0

    def write(self) -> None:
        if not hosts.is_first():
            return
        if self.entries:
            write_atomically(self._path, json_lines(self.entries))
        else:  # what is there is of steps that will be taken again
            self._path.unlink(missing_ok=True)


class History(Lines):
    """Evaluations of a stage: {'step', 'seconds', 'miou', 'iou', ...}."""

    def add(self, entry: dict) -> None:
        self.entries.append(entry)
        self.write()

    @property
    def best(self) -> dict:
        return best_of(self.entries)


class Metrics(Lines):
    """Metrics of logged steps: {'step', 'seconds', 'images_per_second', 'source_ce', ...}."""

    def __init__(self, path: epath.Path, step: int):
        super().__init__(path, step)
        self._written = time.time()
        self.go_on()

    def go_on(self) -> None:
        """Training begins, or goes on after a pause: what was before is no measure of its speed."""
        self._since, self._images = time.time(), 0

    def count(self, images: int) -> None:
        """A step was taken with this many images, of both domains and on all hosts."""
        self._images += images

    def add(self, step: int, seconds: float, metrics: dict[str, float]) -> dict:
        """Adds a line, and writes the file now and then.

        Args:
          step: that is logged, after its metrics have arrived from the device.
          seconds: that the stage has taken.
          metrics: of the step.

        Returns:
          The line; what is not finite is None in it.
        """
        rate = self._images / max(time.time() - self._since, 1e-6)
        line = {"step": step, "seconds": round(seconds, 2), "images_per_second": round(rate, 3)}
        line |= {name: value if np.isfinite(value) else None for name, value in metrics.items()}
        self.entries.append(line)
        self.go_on()
        if time.time() - self._written > WRITE_AFTER:
            self.write()
        return line

    def write(self) -> None:
        super().write()
        self._written = time.time()

    def close(self) -> None:
        """Writes what is not written yet, however the stage ends."""
        self.write()
