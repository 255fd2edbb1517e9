"""Which settings a run reads to do something: checks, notes for the next start and pages for people do not count."""

import contextlib
import os
import sys
from collections.abc import Iterator

import ml_collections
from ml_collections.config_dict import config_dict

import proda_jax

_PACKAGE = os.path.dirname(proda_jax.__file__)
_NOTES = ("provenance.py", "card.py", "checks.py", "refusals.py", "paths.py")
_COPIES = ("views_of",)  # functions that copy a section with `dict`
_SINGLE = ("__getattr__", "get")  # by which the library reads one setting, and not a whole section to copy it


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """The names of settings that are read meanwhile, wherever their sections have been copied to."""
    found: set[str] = set()
    original = ml_collections.ConfigDict.__getitem__

    def read(self, key):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename == config_dict.__file__ and frame.f_code.co_name in _SINGLE:
            frame = frame.f_back
        if _counts(frame.f_code.co_filename, frame.f_code.co_name):
            found.add(key)
        return original(self, key)

    ml_collections.ConfigDict.__getitem__ = read
    try:
        yield found
    finally:
        ml_collections.ConfigDict.__getitem__ = original


def _counts(file: str, function: str) -> bool:
    if not file.startswith(_PACKAGE) or f"{os.sep}report{os.sep}" in file or os.path.basename(file) in _NOTES:
        return False
    if function in _COPIES:
        return False
    return not (os.path.basename(file) in ("ranges.py", "settings.py") and function.startswith("check"))
