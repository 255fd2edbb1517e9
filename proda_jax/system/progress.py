"""What people see while something takes time, all of it on stderr: bars in a terminal, widgets in a notebook, and plain
lines where stderr goes to a file, to SLURM or to CI. Imports nothing heavy, as it speaks before JAX is there.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm  # its widget, in a notebook

SOON = 1.0  # seconds after which a phase says what it is
EVERY = 30.0  # seconds between two lines of a log
_NARROWEST = 8  # columns of a bar

_silent = False


def silence() -> None:
    """From now on this process shows nothing: of several hosts, the first one speaks."""
    global _silent
    _silent = True


def say(message: str) -> None:
    """A line on stderr; bars that are being drawn stay below it."""
    if _silent:
        return
    if is_live():
        tqdm.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def phase(what: str | Callable[[], str], *, leave: bool = True) -> Iterator[None]:
    """Says what is being done, unless it is done within a second.

    Args:
      what: is being done; a function is asked when it is said.
      leave: whether it stays in a terminal; what comes again and again does not.
    """
    passing = []

    def announce() -> None:
        words = f"{what if isinstance(what, str) else what()} ..."
        if leave or not is_live():
            say(words)
        else:
            passing.append(tqdm(desc=words, bar_format="{desc}", leave=False, disable=_silent))

    timer = threading.Timer(SOON, announce)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for line in passing:
            line.close()


def is_live() -> bool:
    """Whether what is shown can be replaced, as in a terminal or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress(title: str, total: int, units: str = "images", **options: Any) -> "Progress":
    """Shows how far something has come; see `Progress`."""
    return (Bar if is_live() else Lines)(title, total, units, **options)


class Progress:
    """How far something has come, and how long the rest takes, of which the first unit, compiled, is no measure."""

    def __init__(self, title: str, total: int, units: str, *, done: int = 0, leave: bool = True):
        """Begins.

        Args:
          title: what is going on.
          total: number of units.
          units: what they are called.
          done: units that were done before.
          leave: whether it is a thing of its own, whose end stays in a terminal, and not a part of another.
        """
        self.title, self.total, self.units, self.done, self.leave = title, total, units, done, leave
        self._values, self._doing = [], ""
        self._first: tuple[int, float] | None = None  # units and time after the first unit of this process
        self._lock = threading.Lock()

    def update(self, units: int = 1) -> None:
        """So many more units are done; from any thread."""
        with self._lock:
            self.done += units
            if self.done > self.total:  # a video need not say how many frames it has
                self.extend(self.done - self.total)
            if self._first is None:
                self._first = self.done, time.monotonic()
            self._draw()

    def extend(self, units: int) -> None:
        """There are so many more units to do."""
        self.total += units

    def show(self, values: Sequence[str]) -> None:
        """Values and what they are, which are shown from now on; the first of them where there is no room for all."""
        self._values = list(values)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Says what else is being done."""
        self._doing = what
        with self._announced():
            yield
        self._doing = ""

    def compiling(self) -> contextlib.AbstractContextManager:
        """For a call that compiles its program when it is made for the first unit, and says so then."""
        return self.during("compiling") if self._first is None else contextlib.nullcontext()

    def words(self) -> list[str]:
        """What there is to say besides how many units are done."""
        if self._first is None or not self._first[0] < self.done < self.total:
            return self._values
        each = (time.monotonic() - self._first[1]) / (self.done - self._first[0])  # the rest is evaluated, too
        return [f"{tqdm.format_interval((self.total - self.done) * each)} left", *self._values]

    def _description(self) -> str:
        return f"{self.title} ({self._doing})" if self._doing else self.title

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # What bars and lines do in their own way

    def refresh(self) -> None:
        """Shows how things stand."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends."""
        raise NotImplementedError

    def _draw(self) -> None:
        """Shows how things stand, unless that was done a moment ago."""
        raise NotImplementedError

    def _announced(self) -> contextlib.AbstractContextManager:
        """Says `_doing` for as long as the context lasts."""
        raise NotImplementedError


class Bar(Progress):
    """In a terminal or notebook."""

    def __init__(self, title: str, total: int, units: str, **options: Any):
        super().__init__(title, total, units, **options)
        self._bar = tqdm(
            total=total, initial=self.done, desc=title, unit=units, leave=self.leave, disable=_silent, mininterval=0.2,
            dynamic_ncols=True, bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}{postfix}",
        )  # fmt: skip

    def extend(self, units: int) -> None:
        super().extend(units)
        self._bar.total = self.total

    def show(self, values: Sequence[str]) -> None:
        super().show(values)
        self._bar.set_postfix_str(self._fitting(), refresh=False)

    def refresh(self) -> None:
        self._bar.set_postfix_str(self._fitting())

    def close(self) -> None:
        self._bar.close()

    def _draw(self) -> None:
        self._bar.set_postfix_str(self._fitting(), refresh=False)
        self._bar.update(self.done - self._bar.n)

    @contextlib.contextmanager
    def _announced(self) -> Iterator[None]:
        self._bar.set_description_str(self._description(), refresh=False)
        self.refresh()
        yield
        self._bar.set_description_str(self.title, refresh=False)

    def _fitting(self) -> str:
        """As many words as the terminal's width has room for."""
        try:
            room = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0 where nobody has set it
        except (OSError, ValueError):  # not a terminal
            return ", ".join(self.words())
        room -= len(f"{self._description()} 100%|| {self.total}/{self.total} {self.units}") + _NARROWEST
        words, fitting = self.words(), 0
        while fitting < len(words) and (room := room - len(words[fitting]) - 2) >= 0:
            fitting += 1
        return ", ".join(words[:fitting])


class Lines(Progress):
    """In a log: a line at the beginning, every half minute, and at the end; of a part, one unless it soon ends."""

    def __init__(self, title: str, total: int, units: str, **options: Any):
        super().__init__(title, total, units, **options)
        self._due = time.monotonic() + (0.0 if self.leave else EVERY)
        self._said: tuple[int, list[str]] | None = None  # units done and values at the last line
        self._announcing = contextlib.ExitStack()
        if not self.leave:
            self._announcing.enter_context(phase(lambda: f"{self._description()}: {total} {units}"))

    def refresh(self) -> None:
        if self._said != (self.done, self._values):
            percent = 100 * self.done // max(self.total, 1)
            say(", ".join([f"{self.title}: {self.done}/{self.total} {self.units} ({percent} %)", *self.words()]))
        self._due, self._said = time.monotonic() + EVERY, (self.done, self._values)

    def show(self, values: Sequence[str]) -> None:
        super().show(values)
        if time.monotonic() >= self._due:
            self.refresh()

    def close(self) -> None:
        self._announcing.close()
        if self.leave and (self._said is None or self._said[0] != self.done):
            self.refresh()

    def _draw(self) -> None:
        if time.monotonic() >= self._due and not self._values:  # otherwise a line waits for the next ones
            self.refresh()

    def _announced(self) -> contextlib.AbstractContextManager:
        return phase(self._description()) if self.leave else contextlib.nullcontext()  # a part is announced as it is
