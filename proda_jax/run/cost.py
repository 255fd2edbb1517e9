"""What a stage costs besides its steps: how often it was begun, what was done before and again, and memory."""

import contextlib
import time
from typing import Any

import jax
from etils import epath

from proda_jax.system import hosts, memory
from proda_jax.system.files import NotWritten, read_json, write_json

NAME = "cost.json"  # of a stage


class Cost(contextlib.AbstractContextManager):
    """What one stage costs, over all processes that were at it, from when this one begins with it until it leaves it.

    Attributes:
      noted: 'starts', how many processes were at it; seconds: 'preparing_seconds' until the first step could be taken
        (pseudo labels, prototypes, translations, its network), 'compiling_seconds' of its step, 'repeated_seconds' of
        steps that were lost with a process and taken again, as far as they were written down; bytes, None where
        nobody knows: 'step_bytes' that a step's program takes of a device, as it is compiled, 'device_bytes' that a
        device held at most, if it was more than before the stage, 'process_bytes' that a process held at most,
        with what earlier stages left in it.
    """

    def __init__(self, folder: epath.Path):
        """Begins with what earlier processes have noted.

        Raises:
          ValueError: that is damaged.
        """
        self._path = folder / NAME
        self.noted: dict[str, Any] = {
            "starts": 0, "preparing_seconds": 0.0, "compiling_seconds": 0.0, "repeated_seconds": 0.0,
            "step_bytes": None, "device_bytes": None, "process_bytes": None,
        }  # fmt: skip
        if hosts.is_first() and self._path.exists():
            self.noted |= read_json(self._path, "delete it, which forgets what the stage cost so far, and go on")
        self._began, self._is_prepared, self._held = time.time(), False, held_on_device()

    def __enter__(self) -> "Cost":
        memory.begin_peak()
        self.noted["starts"] += 1
        self._write()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self.prepared()  # as far as it came
        held = held_on_device()
        if held is not None and held > (self._held or 0):
            self._at_most("device_bytes", held)
        self._at_most("process_bytes", memory.peak())
        with contextlib.suppress(*(() if error is None else (NotWritten,))):  # which may be what it ends with
            self._write()

    def prepared(self) -> None:
        """All is there that its steps need."""
        if not self._is_prepared:
            self._add("preparing_seconds", time.time() - self._began)
        self._is_prepared = True

    def compiled(self, step: jax.stages.Compiled, seconds: float) -> None:
        """Its step was compiled."""
        self._add("compiling_seconds", seconds)
        found = step.memory_analysis()
        if found is not None:  # as not every device's compiler says it
            held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
            self._at_most("step_bytes", held + found.temp_size_in_bytes)

    def repeats(self, seconds: float) -> None:
        """Steps that took as long are taken again, as the process that took them saved none of them."""
        self._add("repeated_seconds", seconds)
        self._write()

    def _add(self, what: str, seconds: float) -> None:
        self.noted[what] = round(self.noted[what] + seconds, 1)

    def _at_most(self, what: str, found: int | None) -> None:
        if found is not None:
            self.noted[what] = max(found, self.noted[what] or 0)

    def _write(self) -> None:
        if hosts.is_first():
            write_json(self._path, self.noted)


def held_on_device() -> int | None:
    """Bytes that one of this process' devices has held at most so far; None where they do not say, as CPUs."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return None if None in found else max(found)
