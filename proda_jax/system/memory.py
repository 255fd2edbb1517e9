"""How much memory this process may still take, how much it has taken at most, and what it does not need any more."""

import contextlib
import ctypes
import os
import pathlib
import platform
import sys

_CGROUPS = (  # limit, use: version 2, and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def free() -> int | None:
    """Bytes that are free, or would be given back, on this machine and within its container; None: nobody knows.

    Linux alone says so: elsewhere a container's limit and what its cache would give back are no files to read.
    """
    found = [_bytes("/proc/meminfo", "MemAvailable")]
    for limit, used in _CGROUPS:
        try:
            found.append(int(pathlib.Path(limit).read_text()) - int(pathlib.Path(used).read_text()))
        except (OSError, ValueError):  # no such container, or one whose limit is 'max'
            continue
    return min((max(size, 0) for size in found if size is not None), default=None)


def begin_peak() -> None:
    """Counts `peak` anew from now on, where the system lets it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    except OSError:
        return


def peak() -> int | None:
    """Bytes of memory that this process held at most since `begin_peak`, or else since it began; None: nobody knows."""
    return _bytes("/proc/self/status", "VmHWM")


def give_back() -> None:
    """Returns memory that was freed to the system, as far as the C library can: glibc's keeps much of it otherwise."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # of other libraries, other systems
        ctypes.CDLL(None).malloc_trim(0)


def begin_with_huge_pages() -> None:
    """Begins this process anew with a malloc that asks for pages of 2 MB, where the system gives them to those who ask.

    XLA for CPUs takes the temporary arrays of each step from malloc and gives them back, and the system fills each page
    anew: with pages of 4 KB a fifth of a step's time (docs/performance.md). glibc reads the setting when a process
    begins, so there is no other way. Whoever sets GLIBC_TUNABLES, to nothing even, has what they say; where JAX is
    imported already it is too late, and a debugger would be left behind.
    """
    unwanted = TUNABLES in os.environ or "jax" in sys.modules or sys.gettrace() is not None
    if unwanted or not sys.executable or not _huge_pages_are_for_the_asking():
        return
    os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _huge_pages_are_for_the_asking() -> bool:
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in pathlib.Path(HUGE_PAGES).read_text()
    except OSError:
        return False


def _bytes(path: str, name: str) -> int | None:
    """What one of Linux's files of 'name: number kB' says of a name, in bytes; None: it is not there."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None
