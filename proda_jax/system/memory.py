"""How much memory this process may still take, and what it does with what it no longer needs."""

import ctypes
import pathlib

_CGROUPS = (  # limit, use: version 2, and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

# of glibc's mallopt: what of the heap's end is given back, how many large pieces are mapped, how many heaps there are
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("nvidia[0-9]*", "accel*", "vfio/[0-9]*", "kfd")  # files of GPUs and TPUs in /dev


def keep_freed() -> bool:
    """Lets this process keep memory that it frees, for what it allocates next; to be called before threads begin.

    A step of training on a CPU takes its temporary arrays from the C library and frees them at its end. glibc gives
    pieces of that size back to the system, which hands out pages full of zeros at the next step: a third of the time of
    a step of the demo (docs/performance.md). One heap for all threads is part of it: others can have no large pieces.

    Returns:
      Whether that was arranged: not without glibc, and not where there is a GPU or TPU, for which threads that decode
      images are better off with heaps of their own.
    """
    if any(next(pathlib.Path("/dev").glob(pattern), None) for pattern in _ACCELERATORS):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    choices = ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1))
    return all([mallopt(option, value) == 1 for option, value in choices])


def free() -> int | None:
    """Bytes that are free, or would be given back, on this machine and within its container; None: nobody knows.

    Linux alone says so: elsewhere a container's limit and what its cache would give back are no files to read.
    """
    found = [_available()]
    for limit, used in _CGROUPS:
        try:
            found.append(int(pathlib.Path(limit).read_text()) - int(pathlib.Path(used).read_text()))
        except (OSError, ValueError):  # no such container, or one whose limit is 'max'
            continue
    return min((max(size, 0) for size in found if size is not None), default=None)


def _available() -> int | None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
