"""Paths that people give: expanded here, before they are used or recorded, whichever flag or setting holds them."""

import os
import re
from typing import Any

import ml_collections
from absl import app, flags

from proda_jax.system.refusals import end

BUCKET = "gs"  # the scheme of what can be read and written beside the machine's own disks
NO_PATHS = ("license",)  # flags that may hold an address
_ADDRESS = re.compile("([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def expanded(value: Any) -> Any:
    """A path with its home folder in place of '~' or '~name', as shells do it, but for '--flag=~/x'.

    Variables such as $HOME are the shell's, which replaces them after an equals sign, too. Paths in buckets stay as
    they are. A file whose name begins with '~' is './~...'.

    Args:
      value: a path, or a list or tuple of values; whatever is neither is returned as it is.

    Raises:
      ValueError: nobody of that name has a home here, or it is the address of something else than a bucket.
    """
    for item in value if isinstance(value, list | tuple) else (value,):
        address = _ADDRESS.match(item) if isinstance(item, str) else None
        if address and address[1].lower() != BUCKET:
            raise ValueError(f"{item}: files lie on this machine's disks or in Google's buckets (gs://...), and "
                             f"addresses ({address[0]}) are neither read nor written: fetch what is there")  # fmt: skip
    return _with_home(value)


def _with_home(value: Any) -> Any:
    """See `expanded`."""
    if isinstance(value, list | tuple):
        changed = [expanded(item) for item in value]
        return value if changed == list(value) else type(value)(changed)
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path.startswith("~"):
        return value
    home = os.path.expanduser(path)
    if home.startswith("~") and "/" in home:
        user = home[1:].partition("/")[0]
        raise ValueError(f"{path}: nobody called {user!r} has a home folder on this machine; write the whole path, or "
                         "./~ for a name that begins so")  # fmt: skip
    return home


def expand_settings(config: ml_collections.ConfigDict) -> None:
    """Expands whatever begins with '~' in a configuration and its sections, in place: nothing but a path does."""
    for name in config:
        value = config[name]
        sections = value if isinstance(value, tuple | list) else (value,)
        sections = [section for section in sections if isinstance(section, ml_collections.ConfigDict)]
        if sections:
            for section in sections:
                expand_settings(section)
        elif (path := expanded(value)) is not value:
            config[name] = path


def parse(arguments: list[str]) -> list[str]:
    """A command line for `absl.app.run`: parses flags, and expands all paths in them and in configurations.

    Args:
      arguments: the program and what follows.

    Returns:
      What is left, the program first.
    """
    program, *given = flags.FLAGS.read_flags_from_files(arguments, force_gnu=False)
    try:
        given = [_argument(text) for text in given]
    except ValueError as error:
        end(f"error: {error}")
    rest = app.parse_flags_with_usage([program, *given])
    try:
        for name in flags.FLAGS:
            _expand_flag(flags.FLAGS[name])
    except ValueError as error:
        end(f"error: {error}")
    return rest


def _argument(text: str) -> str:
    """One argument: '--flag=~/x', or '~/x' alone."""
    name, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    return name + equals + (_with_home if name.lstrip("-") in NO_PATHS else expanded)(value)


def _expand_flag(flag: flags.Flag) -> None:
    """What an argument's beginning does not show: later entries of lists, and settings in a configuration's file."""
    if isinstance(flag.value, ml_collections.ConfigDict):
        expand_settings(flag.value)
    # only what was given: nobody knows what defaults libraries' own flags have
    elif flag.present and flag.name not in NO_PATHS and (value := expanded(flag.value)) is not flag.value:
        flag.value = value
