"""Several data sets of a role on the command line: '--config.data.source[1].images=...'."""

import re
from collections.abc import Iterable

import ml_collections

from proda_jax.configs import base
from proda_jax.system.refusals import choose

_OF_A_ROLE = re.compile(r"--?(?:no)?config\.(data\.(source|target|validation))(?![\w])([^=]*)")
_FILES = ("images", "labels", "file_list", "raw_dir")  # which are each data set's own
_NONE = "none"  # the name of a data set that there is not


def add(config: ml_collections.ConfigDict, arguments: Iterable[str]) -> None:
    """Adds the data sets that a command line has settings of, so that these can be set, in place.

    `data.source[0]` is the source of the configuration, or the first of its sources; `data.source[1]` and those after
    it begin with its settings, but for the files. A 'folder' gets a name of its own, such as 'source_1'. Where the
    configuration has no such data set but knows its size, [0] makes it a 'folder'.

    Args:
      config: a configuration; without a section `data` nothing is done.
      arguments: of the command line, '--config.data.source[1].images=...' among them.

    Raises:
      ValueError: a setting that is of no data set, by its name.
    """
    given: dict[str, dict[int | None, str]] = {}  # by role: {place: a setting of it}
    for found in filter(None, map(_OF_A_ROLE.match, arguments)):
        name, role, rest = found.groups()
        if "data" in config:
            given.setdefault(role, {})[_place(name, rest, config.data[role])] = f"{name}{rest}"
    for role, settings in given.items():
        _add(config, role, settings)


def _place(name: str, rest: str, have: object) -> int | None:
    """Which data set of a role '[1].images' is of; None: of the only one."""
    first = next(iter(have), None) if isinstance(have, tuple | list) else have
    if first is None:
        raise ValueError(f"--config.{name}{rest}: this configuration has no {name} that settings could change; give it "
                         "one in its file, as configs/custom.py does")  # fmt: skip
    if not rest.startswith("["):
        return None
    place = re.fullmatch(r"\[(\d+)\]\.(\w+)", rest)
    if place is None:
        raise ValueError(f"--config.{name}{rest}: expected the data set's place from 0 and one of its settings, such "
                         f"as --config.{name}[1].images")  # fmt: skip
    choose(f"{name}{rest}", place[2], first)
    return int(place[1])


def _add(config: ml_collections.ConfigDict, role: str, settings: dict[int | None, str]) -> None:
    """Adds what a role lacks; `settings` has one setting of each place that is given."""
    have = config.data[role]
    parts = list(have) if isinstance(have, tuple | list) else [have]
    places = sorted(place for place in settings if place is not None)
    if None in settings and (places or isinstance(have, tuple | list)):
        key = settings[None].removeprefix(f"data.{role}")
        raise ValueError(f"--config.{settings[None]}: there are several, so say of which this is: "
                         f"--config.data.{role}[0]{key}")  # fmt: skip
    if not places:
        return
    made = 0 if parts[0].name == _NONE else len(parts)
    for place in places:
        if place > made:
            raise ValueError(f"--config.{settings[place]}: there is no data.{role}[{made}] before it: places are "
                             f"counted from 0, without gaps; set data.{role}[{made}] first")  # fmt: skip
        if place == made:
            parts[made:] = [_another(parts[0], role, place)]
            made += 1
    base.give(config, **{role: tuple(parts)})


def _another(first: ml_collections.ConfigDict, role: str, place: int) -> ml_collections.ConfigDict:
    """A data set with the settings of the first, but for its files."""
    name, split = first.name, first.split
    if name == _NONE:
        name = "folder"
    elif name == "folder":
        split = f"{role}_{place}"
    added = base.dataset(name, split, first.image_size)
    added.update({key: first[key] for key in added if key not in (*_FILES, "name", "split")})
    return added
