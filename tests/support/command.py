"""Commands that tests start, without the seconds that imports take: see `standby.py`."""

import fcntl
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

from quick import QUICK

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent


@functools.cache
def python() -> list[str]:
    """What stands in a command for `python`, in front of 'main.py' or '-m' and a module; needs Linux to be quick."""
    if sys.platform != "linux":
        return [sys.executable]
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())  # whose processes share the one that stands by
    place = pathlib.Path(tempfile.gettempdir(), f"standby-{session}")
    place.mkdir(mode=0o700, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _joined(place / "alive"):
            _started(place)
    return [sys.executable, "-I", "-S", str(HERE / "starter.py"), str(place / "socket")]


def _joined(alive: pathlib.Path) -> bool:
    """Whether a process stands by, which from now on does so until this one ends, too."""
    try:
        os.open(alive, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # there is none yet, or it is gone
        return False
    return True


def _started(place: pathlib.Path) -> None:
    """Starts the process that stands by; it ends when nobody holds the other end of its input any more."""
    for name in ("alive", "socket"):
        (place / name).unlink(missing_ok=True)
    os.mkfifo(place / "alive")
    os.open(place / "alive", os.O_RDWR)  # which waits for nobody
    with open(place / "alive") as waited_for:
        standby = subprocess.Popen(
            [sys.executable, HERE / "standby.py", place / "socket"], cwd=ROOT, stdin=waited_for,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    standby.stdout.readline()  # it listens


def run(*arguments: str, anew: bool = False) -> subprocess.CompletedProcess:
    """Runs `python` with these arguments, on one device; `anew` as users do, in a process that imports everything."""
    command = [*([sys.executable] if anew else python()), *map(str, arguments)]
    environment = os.environ | {"XLA_FLAGS": QUICK}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def run_main(*flags: str, anew: bool = False) -> subprocess.CompletedProcess:
    """Runs `python main.py` with these flags, see `run`."""
    return run("main.py", *flags, anew=anew)
