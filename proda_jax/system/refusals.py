"""Refusals of what cannot work, and how a command ends with one."""

import difflib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

_OURS = pathlib.Path(__file__).parents[2]  # of this program's packages


def refuse(setting: str, value: object, expected: str) -> NoReturn:
    """Refuses a setting, such as 'data.label_space'; says what was expected."""
    raise ValueError(f"config.{setting} = {value!r}: expected {expected}")


def choose(setting: str, value: str, choices: Iterable[str], besides: str = "") -> None:
    """Refuses what is not among the choices, and suggests the nearest of them; `besides` says what else there is."""
    choices = list(choices)
    if value in choices:
        return
    nearest = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    refuse(setting, value, f"one of {', '.join(choices) or 'nothing'}{besides}{hint}")


def without_traceback(command: Callable) -> Callable:
    """A command that ends with the message alone where this program itself refused something.

    Errors of libraries keep their traceback: they were not foreseen, and it says where they came from.
    """

    def run(*arguments):
        try:
            return command(*arguments)
        except Exception as error:
            if is_refusal(error):
                end(f"error: {error}")
            if of_several_hosts():
                end(traceback.format_exc())
            raise

    return run


def is_refusal(error: Exception) -> bool:
    """Whether this program itself raised it, as what it was given cannot work."""
    if not isinstance(error, ValueError | OSError | FloatingPointError):
        return False
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return any(raised_in.is_relative_to(_OURS / package) for package in ("proda_jax", "data_prep"))


def of_several_hosts() -> bool:
    """Whether this process has joined others; JAX is not imported for that, since a wrong flag is refused at once."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def end(message: str) -> NoReturn:
    """Ends the program with a message.

    One of several hosts ends without the farewell of JAX, for which it would wait until the others have ended, and they
    for it to come along; so they hear that it is gone.
    """
    if of_several_hosts():
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(message)
