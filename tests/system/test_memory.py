"""How much memory is free, on the machine and within its container."""

import os
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


@pytest.fixture
def begun_anew(monkeypatch, tmp_path):
    """What the process would be begun with, where it may ask for huge pages."""
    begun = []
    monkeypatch.setattr(memory.os, "execv", lambda program, arguments: begun.append((program, arguments)))
    monkeypatch.setattr(memory.sys, "orig_argv", ["python", "-u", "main.py", "--config=demo"])
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory, "HUGE_PAGES", str(tmp_path / "enabled"))
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that what is set meanwhile is taken back
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    yield begun


def test_a_process_begins_anew_once_to_ask_for_huge_pages(begun_anew):
    memory.begin_with_huge_pages()
    memory.begin_with_huge_pages()  # as the process that was begun does
    assert begun_anew == [(sys.executable, [sys.executable, "-u", "main.py", "--config=demo"])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("reason", ["set", "jax", "debugger", "always", "no file", "musl", "older"])
def test_a_process_goes_on_where_asking_is_of_no_use_or_not_wished(reason, begun_anew, monkeypatch):
    if reason == "set":
        monkeypatch.setenv("GLIBC_TUNABLES", "")
    elif reason == "jax":
        monkeypatch.setitem(sys.modules, "jax", pytest)
    elif reason == "debugger":
        monkeypatch.setattr(memory.sys, "gettrace", lambda: print)
    elif reason == "always":
        pathlib.Path(memory.HUGE_PAGES).write_text("[always] madvise never\n")
    elif reason == "no file":
        pathlib.Path(memory.HUGE_PAGES).unlink()
    else:
        library = {"musl": ("", ""), "older": ("glibc", "2.9")}[reason]
        monkeypatch.setattr(memory.platform, "libc_ver", lambda: library)
    memory.begin_with_huge_pages()
    assert not begun_anew
