"""Virtual environments with some of the packages that are installed here, and no network."""

import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement


def make(folder: pathlib.Path, without: Iterable[str] = ()) -> pathlib.Path:
    """Makes an environment; the path of its python.

    Args:
      folder: for the environment.
      without: distributions that it lacks; all others that are installed here are links.
    """
    left_out = {name.lower().replace("_", "-") for name in without}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for one in metadata.distributions():
        if one.metadata["Name"].lower().replace("_", "-") in left_out | {"proda-jax"}:
            continue
        for name in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            found = pathlib.Path(one.locate_file(name))
            if found.exists() and not (site / name).exists():
                (site / name).symlink_to(found)
    return folder / "bin" / "python"


def all_but(requirements: Iterable[str]) -> set[str]:
    """Distributions that are installed here and that these requirements do not need."""
    names = {one.metadata["Name"].lower().replace("_", "-") for one in metadata.distributions()}
    return names - set().union(*(needs(Requirement(text).name) for text in requirements))


@functools.cache
def needs(name: str) -> frozenset[str]:
    """A distribution and all that it needs here, without extras but those that its needs name."""
    found, waiting = set(), [(name, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        name = name.lower().replace("_", "-")
        if (name, extras) in found:
            continue
        found.add((name, extras))
        try:
            texts = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        for wanted in map(Requirement, texts):
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return frozenset(name for name, _ in found)
