"""How much memory is free, on the machine and within its container."""

import pathlib
import platform
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


@pytest.mark.skipif(not sys.platform.startswith("linux") or not platform.libc_ver()[0], reason="of glibc")
def test_freed_memory_goes_back_to_the_system():
    held = [bytearray(100_000) for _ in range(1000)]  # each below what malloc maps by itself
    last = bytearray(100_000)  # above them, so that their place is not the end of the heap
    memory.begin_peak()
    full = memory.peak()
    del held
    memory.give_back()
    memory.begin_peak()
    assert memory.peak() < full - 70_000_000, len(last)
