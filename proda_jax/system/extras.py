"""Packages that only some uses need, and the names under which pip installs them with this one."""

import importlib.util


def need(what: str, extra: str, *modules: str) -> None:
    """Refuses what cannot be done without packages that are not installed.

    Args:
      what: that is to be done, at the beginning of the message.
      extra: of this package, which brings them.
      modules: that it imports.

    Raises:
      ValueError: naming those that are missing, and pip's command.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{what} needs {' and '.join(missing)}, not installed here: pip install 'proda-jax[{extra}]'")
