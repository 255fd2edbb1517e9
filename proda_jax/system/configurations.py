"""Finds configurations: those that come with the program by their names, others by the paths of their files."""

import difflib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any

import ml_collections
from absl import flags

from proda_jax import configs
from proda_jax.system import several

_FOLDER = pathlib.Path(configs.__file__).parent
_NOT_RUN = "base"  # the settings that others change


def accept_names(flag: str) -> None:
    """Lets a flag that was defined by `DEFINE_config_file` take names, too, such as 'studies/table8:demo'.

    Settings beside it may be of several data sets of a role, as `several.add` makes them; those that the configuration
    does not have are refused.
    """
    parser = flags.FLAGS[flag].parser
    parse_file = parser.parse

    def parse(argument: str) -> Any:
        file, colon, form = argument.partition(":")
        _keep_old_imports()
        config = parse_file(f"{find(file)}{colon}{form}")
        arguments = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
        several.add(config, arguments)
        check_settings(config, flag, arguments)
        return config

    parser.parse = parse


def check_settings(config: Any, flag: str, arguments: Iterable[str]) -> None:
    """Refuses settings on a command line that a configuration does not have, by their names.

    Args:
      config: the configuration; one that is none of `ml_collections` is not looked at.
      flag: what names it, such as 'config' of '--config.batch_size=2'.
      arguments: of the command line.

    Raises:
      ValueError: there is no such section, setting or place; with the nearest name.
    """
    of_it = re.compile(rf"--?(?:no)?{flag}\.([^=]*)")
    for given in filter(None, map(of_it.match, arguments)):
        if not re.fullmatch(r"\w+(\[\d+\]|\.\w+)*", given[1]):
            raise ValueError(f"--{flag}.{given[1]}: expected the names of a setting and its sections with points "
                             f"between them, such as --{flag}.data.source.images")  # fmt: skip
        _look_up(config, given[1], f"--{flag}.")


def _look_up(config: ml_collections.ConfigDict, setting: str, flag: str) -> None:
    """Follows a setting such as 'data.source[1].images' through a configuration."""
    value, at = config, ""
    for step in re.findall(r"\w+|\[\d+\]", setting):
        has = value if isinstance(value, ml_collections.ConfigDict) else ()
        if step.startswith("["):
            several = value if isinstance(value, tuple | list) else ()
            if not all(isinstance(section, ml_collections.ConfigDict) for section in several) or not several:
                raise ValueError(f"{flag}{setting}: {at} is set as a whole, without brackets, as {flag}{at}=...")
            if int(step[1:-1]) >= len(several):
                raise ValueError(f"{flag}{setting}: there are {len(several)} of {at}, counted from 0")
            value = several[int(step[1:-1])]
        elif step not in has:
            nearest = difflib.get_close_matches(step, has, n=1)
            known = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(has) or 'none, as it is a value'}"
            raise ValueError(f"{flag}{setting}: {at or 'the configuration'} has no setting {step!r}; {known}")
        else:
            value = value[step]
        at += step if step.startswith("[") or not at else f".{step}"


def find(wanted: str) -> pathlib.Path:
    """The file of a configuration.

    Args:
      wanted: path of a file; or the name of a configuration that comes with the program, as in `names`, or its path in
        a checkout, such as 'configs/demo.py', which need not be there. A file at hand comes first.

    Raises:
      ValueError: there is neither; with the nearest name, and all of them.
    """
    path = pathlib.Path(wanted)
    if path.is_file():
        return path
    name = path.as_posix().removeprefix("configs/").removesuffix(".py")
    if name in names():
        return _FOLDER / f"{name}.py"
    nearest = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"expected a file that exists, or the name of a shipped configuration, one of {', '.join(names())}"
                     f"{hint}")  # fmt: skip


def names() -> list[str]:
    """Names of the configurations that come with the program, such as 'demo' and 'studies/table8'."""
    found = (path.relative_to(_FOLDER).with_suffix("").as_posix()
             for path in _FOLDER.rglob("*.py") if "def get_config(" in path.read_text(encoding="utf8"))  # fmt: skip
    return sorted((name for name in found if name != _NOT_RUN), key=lambda name: (name.count("/"), name))


def _keep_old_imports() -> None:
    """Lets a file of one's own say `from configs import base`, as before configurations were part of the package."""
    there = importlib.util.find_spec("configs")
    if there is None or there.origin is None:  # a folder of that name without __init__.py is not meant
        sys.modules["configs"] = configs
