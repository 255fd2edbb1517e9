"""Digests of what files hold: a few characters, written with the contents and compared when these are read.

Those of our own files are over names, types, shapes and values, and never over the files' bytes: a digest stays the
same however a library lays the values out, on however many devices they were. They tell of damage, not of ill will.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

KEY = "digest"  # what a file calls its own
_KIND, _LENGTH = "sha256:", 32  # hexadecimal digits, of SHA-256's 64


class Damaged(ValueError):
    """What was read is not what was written; the message does not name the file."""


def of_bytes(*parts: bytes | memoryview) -> str:
    """The digest of some bytes, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return _KIND + found.hexdigest()[:_LENGTH]


def of_file(path: epath.PathLike) -> str:
    """The digest of all bytes of a file, here or in a bucket; they are never in memory at once.

    Raises:
      OSError: it cannot be read.
    """
    found = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return _KIND + found.hexdigest()[:_LENGTH]


def of_json(value: Any) -> str:
    """The digest of a value that JSON can hold; the order of keys does not count, nor whether a list is a tuple."""
    plain = json.loads(json.dumps(value))  # with keys that are strings, by which they are sorted
    return of_bytes(json.dumps(plain, sort_keys=True).encode())


def of_array(array: np.ndarray) -> str:
    """The digest of an array: its type, its shape, and its values whatever their order in memory."""
    array = np.asarray(array)
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    values = memoryview(plain.reshape(-1).view(np.uint8))
    return of_bytes(f"{array.dtype.name} {array.shape} ".encode(), values)


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of named arrays, in any order."""
    return of_json({name: of_array(array) for name, array in arrays.items()})


def taken(held: Mapping[str, Any], of: Callable[[dict], str]) -> dict[str, Any]:
    """What a file holds beside its digest, if it is what that is the digest of.

    Args:
      held: with the digest under `KEY`; files of older versions have none, and are taken as they are.
      of: the digest of the rest.

    Raises:
      Damaged: the digest is that of something else, or has lost its name.
    """
    rest = {name: value for name, value in held.items() if name != KEY}
    if KEY not in held and any(_text(value).startswith(_KIND) for value in rest.values()):
        raise Damaged(f"its digest is not called {KEY!r}")
    if KEY in held and _text(held[KEY]) != of(rest):
        raise Damaged("its contents have changed since it was written")
    return rest


def _text(value: Any) -> str:
    """A value that is text; '' for others."""
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value.item()
    return value if isinstance(value, str) else ""
