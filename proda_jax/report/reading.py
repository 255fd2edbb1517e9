"""Files of a workdir that may be missing, unfinished or damaged: what cannot be read is noted, and the rest is used."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from proda_jax.system import digests
from proda_jax.system.files import parse_json, parse_json_lines

_SMALL = ("quality", "prototypes", "seen", "confusion")  # arrays of a snapshot that are kept in memory
# what reading a broken archive leads to, depending on where it is broken
_DAMAGED = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def note(path: epath.Path, reason: Any, problems: list[str]) -> None:
    """Adds to the problems that a file cannot be read, once."""
    problem = f"{path.parent.name}/{path.name} cannot be read ({reason})"
    if problem not in problems:
        problems.append(problem)


def json_object(path: epath.Path, problems: list[str]) -> dict | None:
    """The object that a JSON file holds; None where there is none, or no such file."""
    if not path.exists():
        return None
    try:
        contents = parse_json(path.read_text())
        if isinstance(contents, dict):
            return contents
        note(path, "not an object", problems)
    except (ValueError, OSError) as error:
        note(path, error, problems)
    return None


def json_lines(path: epath.Path, problems: list[str]) -> list[dict]:
    """The objects of a file of JSON lines in order of steps; those of the same step are one."""
    found: dict[int, dict] = {}
    try:
        lines = path.read_text().splitlines() if path.exists() else []
    except (ValueError, OSError) as error:
        note(path, error, problems)
        return []
    whole = bool(lines)
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            entry.pop(digests.KEY, None)
            found[int(entry["step"])] = found.get(int(entry["step"]), {}) | entry
        except (ValueError, KeyError, TypeError, AttributeError):
            note(path, f"line {number} is damaged", problems)
            whole = False
    if whole:
        try:
            parse_json_lines("\n".join(lines))
        except ValueError as error:
            note(path, error, problems)
    return [found[step] for step in sorted(found)]


def arrays_of(path: epath.Path, problems: list[str], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an .npz file holds; none without such a file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays}
    except FileNotFoundError:
        return {}
    except _DAMAGED as error:
        note(path, error, problems)
        return {}


def overview(path: epath.Path, problems: list[str]) -> tuple[set[str], dict[str, np.ndarray]]:
    """Names of the arrays that a snapshot holds, and those of them that are small."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return set(arrays.files), {name: arrays[name] for name in _SMALL if name in arrays}
    except _DAMAGED as error:
        note(path, error, problems)
        return set(), {}
