"""Runs a command of this program: as a script, as a module, or installed under a name of its own."""

import sys
from collections.abc import Callable

from absl import app, flags

from proda_jax.system import paths
from proda_jax.system.refusals import without_traceback


def run(
    main: Callable[[list[str]], None],
    module: str,
    flags_of: str | None = None,
    parse: Callable[[list[str]], list[str]] = paths.parse,
) -> None:
    """Parses the flags, with paths expanded, calls `main`, and ends with the exit status; refusals are a line.

    Args:
      main: gets the name of the command and what else is no flag.
      module: whose docstring introduces --help, unless the script has one itself.
      flags_of: module that defines the flags, by default the same.
      parse: turns a command line into what `main` gets.
    """
    for flag in flags.FLAGS.get_key_flags_for_module(flags_of or module):  # else --help would show the script's alone
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    script = sys.modules["__main__"]
    script.__doc__ = script.__doc__ or sys.modules[module].__doc__
    app.run(without_traceback(main), flags_parser=parse)
