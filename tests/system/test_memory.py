"""How much memory is free, on the machine and within its container, and what becomes of what is freed."""

import pathlib
import platform
import subprocess
import sys

import pytest

from proda_jax.system import memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   5000 kB\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 5000 * 1024),
        ({"memory.max": "max\n", "memory.current": "700\n"}, 5000 * 1024),
        ({"memory.max": "2000000\n", "memory.current": "1500000\n"}, 500000),
        ({"memory.max": "1000\n", "memory.current": "1500\n"}, 0),
    ],
)
def test_the_smaller_of_machine_and_container_counts(files, free, tmp_path, monkeypatch):
    files = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()} | {"/proc/meminfo": MEMINFO}

    def read_text(path: pathlib.Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    assert memory.free() == free
    del files["/proc/meminfo"]
    assert memory.free() == (None if free == 5000 * 1024 else free)


ROUNDS = """
import resource, sys, threading
from proda_jax.system import memory

assert memory.keep_freed() if sys.argv[1] == "kept" else True

def fill():
    for _ in range(6):
        b"x" * (100 << 20)  # of NumPy's arrays Linux makes large pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=fill)  # as XLA's threads do
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_large_arrays_that_are_freed_are_not_asked_of_the_system_again():
    counts = []
    for way in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", ROUNDS, way], capture_output=True, text=True, check=True)
        counts.append(int(done.stdout))
    assert counts[0] < 1000 < counts[1]  # pages; there would be 25,600 of 4 kB each time


def test_heaps_stay_as_they_are_where_there_is_an_accelerator(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(memory.pathlib, "Path", lambda path: tmp_path if path == "/dev" else pathlib.PosixPath(path))
    assert not memory.keep_freed()
