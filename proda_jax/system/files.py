"""Files that appear whole or not at all, and paths in buckets where a library reads local files only."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from absl import logging
from etils import epath

from proda_jax.system import digests
from proda_jax.system.paths import expanded

MAKE_ROOM = "What was written before is kept: see to the disk, and give the same command again"


# None: an error that epath found, such as a folder of that name
NOT_THE_DISK = (None, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)


class NotWritten(OSError):
    """A file could not be written, as the disk is full or may only be read; an older one of its name is as it was.

    Attributes:
      reason: the system's.
    """

    def __init__(self, path: epath.PathLike, error: OSError):
        self.reason = error.strerror or str(error)
        remedy = "" if error.errno in NOT_THE_DISK else f". {MAKE_ROOM}"
        super().__init__(f"{path} could not be written ({self.reason}){remedy}")
        self.errno = error.errno


def write_atomically(path: epath.PathLike, contents: str | bytes) -> None:
    """Writes a file that appears whole or not at all, in place of an older one of that name.

    Raises:
      NotWritten: with the system's reason.
    """
    path = epath.Path(path)
    write_together(path.parent, {path.name: contents})


def write_together(folder: epath.PathLike, files: Mapping[str, str | bytes]) -> None:
    """Writes files of one folder of which none appears before all are written, in place of older ones of their names.

    They appear in order: where the last is there for the first time, the others are.

    Raises:
      NotWritten: with the system's reason.
    """
    folder = epath.Path(folder)
    unfinished = {folder / name: unfinished_name(folder / name) for name in files}
    path = next(iter(unfinished))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, contents in zip(unfinished, files.values(), strict=True):
            unfinished[path].write_bytes(contents.encode() if isinstance(contents, str) else contents)
        for path, beside in unfinished.items():
            beside.replace(path)
    except OSError as error:
        for beside in unfinished.values():
            with contextlib.suppress(OSError):
                beside.unlink()
        raise NotWritten(path, error) from error


def write_if_new(path: epath.PathLike, contents: bytes) -> None:
    """Writes a file like `write_atomically`, unless it holds the same already."""
    path = epath.Path(path)
    if not path.exists() or path.read_bytes() != contents:
        write_atomically(path, contents)


def unfinished_name(path: epath.Path) -> epath.Path:
    """Where a file is written before it takes its name; no other process or thread writes there."""
    name, process = path.name, f".{os.getpid()}.{threading.get_ident()}.tmp"
    if len(os.fsencode(name)) + len(process) > 255:  # bytes, which disks allow
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(name + process)


def check_writable(folder: epath.PathLike, what: str) -> None:
    """Makes a folder if need be, and refuses one in which no file can be written.

    Args:
      folder: that is going to be written to.
      what: the setting that names it, for the message.

    Raises:
      ValueError: with the system's reason.
    """
    folder = epath.Path(folder)
    probe = unfinished_name(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{what} = {folder} cannot be written to ({reason}): name another folder") from None


class Busy(ValueError):
    """Another process is at what was to be done."""


@contextlib.contextmanager
def alone(path: epath.PathLike, others: str, *, wait: bool) -> Iterator[None]:
    """Keeps other processes of this machine out while something is done.

    The system gives the lock back when its holder ends, however it ends. Buckets know no locks: nobody is kept out.

    Args:
      path: file to lock, made if need be.
      others: what to say where another process is at it.
      wait: until it is done; otherwise it is an error.

    Raises:
      Busy: another process is at it, and `wait` is not set.
    """
    if is_remote(path):
        yield
        return
    path = epath.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:  # a folder that may only be read, where there is nothing to do
        yield
        return
    with file:
        try:
            if not _locks(file):
                if not wait:
                    raise Busy(others)
                print(others)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logging.warning("no lock on %s (%s): nobody keeps a second process out", path, error.strerror)
        yield


def _locks(file: IO) -> bool:
    """Takes the lock of an open file, if nobody has it; asks for a moment, since `is_locked` may be looking."""
    for pause in (0.01, 0.1, 0.4, 0.0):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(pause)
    return False


def is_locked(path: epath.PathLike) -> bool | None:
    """Whether a process is at what `alone` keeps others away from; None where that cannot be told, as in a bucket.

    Nothing is made or written. That nobody has the lock is seen by getting a share of it, for some microseconds; a run
    that begins just then asks again. (Linux lists locks in /proc, but not those of other machines and containers.)
    """
    if is_remote(path):
        return None
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file that may not be read, or a file system that knows no locks
        return None


def json_text(value: Mapping[str, Any], indent: int | None = 2) -> str:
    """The contents of a JSON file that holds an object with its digest."""
    return json.dumps({**value, digests.KEY: digests.of_json(value)}, indent=indent)


def write_json(path: epath.PathLike, value: Mapping[str, Any]) -> None:
    """Writes an object as JSON with its digest; see `write_atomically`."""
    write_atomically(path, json_text(value))


def parse_json(text: str) -> Any:
    """What a JSON file holds, without its digest, which older ones and those of others do not have.

    Raises:
      ValueError: it is damaged.
    """
    value = json.loads(text)
    return digests.taken(value, digests.of_json) if isinstance(value, dict) else value


def read_json(path: epath.PathLike, remedy: str) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: it is damaged; with what to do about it.
    """
    try:
        return parse_json(epath.Path(path).read_text())
    except ValueError as error:  # undecodable text, too
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None


def json_lines(entries: Sequence[Mapping[str, Any]]) -> str:
    """Objects as lines of JSON; the first has the digest of all besides, so that a line that is missing shows."""
    digest = {digests.KEY: digests.of_json(entries)}
    return "".join(json.dumps({**entry, **digest} if i == 0 else entry) + "\n" for i, entry in enumerate(entries))


def parse_json_lines(text: str) -> list[dict[str, Any]]:
    """The objects of `json_lines`, or of lines without a digest, as older versions wrote them.

    Raises:
      ValueError: they are damaged, or there are none, for which no file is written.
    """
    entries = [json.loads(line) for line in text.splitlines()]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise digests.Damaged("it is empty, or its lines hold no objects")
    first = digests.taken(entries[0], lambda first: digests.of_json([first, *entries[1:]]))
    return [first, *entries[1:]]


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    """The contents of an .npz file, with their digest; in memory, as zip archives seek while they are written, and
    buckets cannot."""
    contents = io.BytesIO()
    digest = {digests.KEY: np.array(digests.of_arrays(arrays))}
    (np.savez_compressed if compressed else np.savez)(contents, **arrays, **digest)
    return contents.getvalue()


def parse_npz(contents: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without pickled objects.

    Raises:
      Exception: of many kinds, depending on where it is damaged.
    """
    with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
        return digests.taken(dict(arrays), digests.of_arrays)


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """See `parse_npz`."""
    return parse_npz(epath.Path(path).read_bytes())


def is_readable(path: epath.Path) -> bool:
    """Whether an .npz file is there and whole; one that is damaged is named, as it is going to be made again."""
    try:
        return bool(read_npz(path))
    except FileNotFoundError:
        return False
    except Exception as error:  # what a damaged archive leads to depends on where it is damaged
        print(f"{path} is damaged ({error}): it is made again")
        return False


def state(path: epath.PathLike) -> tuple[int, int]:
    """What tells a file from a changed one without reading it: bytes, and the time of its last change in nanoseconds.

    Raises:
      OSError: there is none.
    """
    if is_remote(path):
        found = epath.Path(path).stat()
        return found.length, int(found.mtime * 1e9)
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in a bucket, such as gs://bucket/folder."""
    return "://" in str(path)


def cache_folder() -> epath.Path:
    """The user's cache folder of this program, on this machine."""
    base = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return epath.Path(base) / "proda_jax"


def local_copy(folder: epath.PathLike) -> epath.Path:
    """The folder itself where it is local, otherwise a copy in the user's cache folder, made on first use.

    ArrayRecord files are read at random places, for which their library wants a local disk.
    """
    folder = epath.Path(folder)
    if not is_remote(folder):
        return folder
    copy = cache_folder() / "data" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    copy.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        held = copy / file.name
        now = file.stat()
        if held.exists() and held.stat().length == now.length and held.stat().mtime >= now.mtime:
            continue
        unfinished = unfinished_name(held)
        unfinished.write_bytes(file.read_bytes())
        unfinished.replace(held)
    return copy
