"""What happens when somebody, or the machine's owner, wants the program to stop."""

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 75  # "try again later" of sysexits.h: the same command goes on


class Stopped(BaseException):
    """The program was asked to stop, and everything that is worth keeping is kept."""


class Interruption:
    """Turns the first SIGTERM or SIGINT into a wish that training fulfils after its step; the second ends at once.

    Between stages, while labels are made or data are prepared, the first one stops the program right away: what is
    done there is in files already.
    """

    def __init__(self):
        self.wished = False
        self._training = False

    def install(self) -> None:
        """Listens to the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def __enter__(self) -> "Interruption":
        """Training begins: a wish to stop waits for the end of a step."""
        self._training = True
        return self

    def __exit__(self, *_) -> None:
        self._training = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.wished:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.wished = True
        if not self._training:
            raise Stopped(name)
        print(f"\n{name}: finishing this step and saving; once more stops at once", file=sys.stderr, flush=True)
