"""What functions return within a compiled step, which so need not be traced and compiled beside it once more."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock


@contextlib.contextmanager
def results_of(module: ModuleType, *names: str) -> Iterator[dict[str, Any]]:
    """What these functions of a module return meanwhile, by name; the first time that each is called."""
    found: dict[str, Any] = {}

    def kept(name: str):
        original = getattr(module, name)

        def function(*args, **kwargs):
            result = original(*args, **kwargs)
            found.setdefault(name, result)
            return result

        return function

    with mock.patch.multiple(module, **{name: kept(name) for name in names}):
        yield found
