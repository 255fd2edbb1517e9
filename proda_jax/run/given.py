"""Networks that are given instead of trained: a path where a stage names the one it starts from, or its teacher."""

from collections.abc import Iterator

import ml_collections
from etils import epath

from proda_jax.configs import base
from proda_jax.run.ranges import WEIGHTS
from proda_jax.system.files import read_json
from proda_jax.system.paths import expanded

_SETTINGS = ("init", "teacher", "labels_from")
_NAME = "given"


def name_networks(config: ml_collections.ConfigDict) -> None:
    """Gives each network that a stage names by its path a stage of its own, in place, which is taken from there.

    The path is one of a file of weights, of a folder that `save_pretrained` wrote, of a stage's folder, or of a run's
    workdir, whose last complete stage counts. The new stages are 'given', 'given2', ..., and come first.

    Raises:
      ValueError: there is no such path, or a workdir without a complete stage.
    """
    found: dict[str, str] = {}
    for stage, key in list(_named_by_path(config)):
        path = _network_in(config[stage][key], f"config.{stage}.{key}")
        if path not in found:
            free = (name for i in range(1, 100) if (name := _NAME if i == 1 else f"{_NAME}{i}") not in config)
            found[path] = next(free)
            with config.unlocked():
                config[found[path]] = base.supervised("random", 1)
                config[found[path]].weights = path
        config[stage][key] = found[path]
    config.stages = (*found.values(), *config.stages)


def _named_by_path(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    """(stage, setting) wherever a path stands in place of a stage's name."""
    for stage in (name for name in config.stages if name in config):
        for key in (key for key in _SETTINGS if isinstance(config[stage].get(key), str)):
            text = config[stage][key]
            if text not in config and text not in WEIGHTS and ("/" in text or epath.Path(text).exists()):
                yield stage, key


def _network_in(text: str, setting: str) -> str:
    """The file or folder that holds the network."""
    path = epath.Path(expanded(text))
    if not path.exists() and not epath.Path(f"{path}.index").exists():
        raise ValueError(f"{setting} = {text!r}: expected an earlier stage, or the path of a network; nothing is there")
    results = path / "results.json"
    if not (path.is_dir() and results.exists()):
        return str(path)
    complete = [stage["name"] for stage in read_json(results, "name the folder of one of its stages")["stages"]]
    if not complete:
        raise ValueError(f"{setting} = {text!r}: no stage of this run is complete; name the folder of one that has a "
                         "checkpoint")  # fmt: skip
    return str(path / complete[-1])
