"""Finds configurations: those that come with the program by their names, others by the paths of their files."""

import difflib
import importlib.util
import pathlib
import sys
from typing import Any

from absl import flags

from proda_jax import configs
from proda_jax.system import several

_FOLDER = pathlib.Path(configs.__file__).parent
_NOT_RUN = "base"  # the settings that others change


def accept_names(flag: str) -> None:
    """Lets a flag that was defined by `DEFINE_config_file` take names, too, such as 'studies/table8:demo'.

    Settings beside it may be of several data sets of a role, as `several.add` makes them.
    """
    parser = flags.FLAGS[flag].parser
    parse_file = parser.parse

    def parse(argument: str) -> Any:
        file, colon, form = argument.partition(":")
        _keep_old_imports()
        config = parse_file(f"{find(file)}{colon}{form}")
        several.add(config, flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False))
        return config

    parser.parse = parse


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
