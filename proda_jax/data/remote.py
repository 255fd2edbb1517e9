"""Paths in buckets: what epath cannot hide from libraries that read local files only."""

import hashlib
import os

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in a bucket, such as gs://bucket/folder."""
    return "://" in str(path)


def cache_folder() -> epath.Path:
    """The user's cache folder of this program, on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
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
        if held.exists() and held.stat().length == file.stat().length:
            continue
        unfinished = held.with_name(f"{held.name}.{os.getpid()}.tmp")
        file.copy(unfinished)
        unfinished.replace(held)
    return copy
