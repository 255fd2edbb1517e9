"""Commands that tests start, without the seconds that imports take: see `standby.py`."""

import atexit
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
    place = tempfile.mkdtemp(prefix="standby")
    standby = subprocess.Popen(
        [sys.executable, HERE / "standby.py", f"{place}/socket"], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    atexit.register(standby.stdin.close)  # which ends it
    standby.stdout.readline()  # it listens
    return [sys.executable, "-I", "-S", str(HERE / "starter.py"), f"{place}/socket"]


def run(*arguments: str, anew: bool = False) -> subprocess.CompletedProcess:
    """Runs `python` with these arguments, on one device; `anew` as users do, in a process that imports everything."""
    command = [*([sys.executable] if anew else python()), *map(str, arguments)]
    environment = os.environ | {"XLA_FLAGS": QUICK}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def run_main(*flags: str, anew: bool = False) -> subprocess.CompletedProcess:
    """Runs `python main.py` with these flags, see `run`."""
    return run("main.py", *flags, anew=anew)
