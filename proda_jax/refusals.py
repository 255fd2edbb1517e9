"""How a command ends when it refuses what it was given."""

import pathlib
import sys
import traceback
from collections.abc import Callable

_OURS = pathlib.Path(__file__).parents[1]  # of this program's packages


def without_traceback(command: Callable) -> Callable:
    """A command that ends with the message alone where this program itself refused something.

    Errors of libraries keep their traceback: they were not foreseen, and it says where they came from.
    """

    def run(*arguments):
        try:
            return command(*arguments)
        except (ValueError, FileNotFoundError, FloatingPointError) as error:
            raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
            if any(raised_in.is_relative_to(_OURS / package) for package in ("proda_jax", "data_prep")):
                sys.exit(f"error: {error}")
            raise

    return run
