"""Reads what a workdir holds, whatever its state: running, killed, damaged, of an older version. Changes nothing.

Neither JAX nor the data are needed.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from etils import epath

from proda_jax.data.translations import FOLDER, Translations
from proda_jax.report.integrity import Integrity
from proda_jax.system.files import is_locked, is_remote, parse_json, parse_json_lines
from proda_jax.system.paths import expanded

_RECENT = 20  # logged steps over which the speed is taken
AGAIN = "it is written anew when the run goes on"


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the folder of a stage holds; None and empty where there is nothing.

    Attributes:
      settings: its section of the configuration, as far as it is known.
      begun: whether it has a folder.
      result: see `Workdir`.
      history: its evaluations.
      metrics: its logged steps.
      checkpoint: step of the newest checkpoint that looks whole.
      saved: when that was written, seconds since 1970.
      changed: when the stage was last heard of.
      labels: images with pseudo labels made from its network, by the name of their folder.
      translated: source images that its network has translated; None where it has none to translate.
      held: whether a process of a study is at it; None if nobody can tell.
    """

    name: str
    settings: dict[str, Any]
    begun: bool
    result: dict | None
    history: list[dict]
    metrics: list[dict]
    checkpoint: int | None
    saved: float | None
    changed: float | None
    labels: dict[str, int]
    translated: int | None = None
    held: bool | None = None

    @property
    def steps(self) -> int | None:
        """How many steps it takes; None if nobody knows."""
        return 0 if self.settings.get("weights") is not None else self.settings.get("steps")

    @property
    def step(self) -> int:
        """The last step that is known to be done."""
        if self.result is not None:
            return self.result.get("steps", 0)
        return max([line["step"] for line in self._last_lines()] + [self.checkpoint or 0])

    @property
    def seconds(self) -> float:
        """How long it has been trained."""
        return max([line.get("seconds", 0.0) for line in (*self._last_lines(), self.result or {})])

    @property
    def seconds_per_step(self) -> float | None:
        """Of the steps that were logged last, with what was evaluated and saved meanwhile; None if too few were."""
        lines = self.metrics[-_RECENT:] if len(self.metrics) > 1 else self.history[-_RECENT:]
        lines = [line for line in lines if "seconds" in line]
        steps = lines[-1]["step"] - lines[0]["step"] if lines else 0
        return (lines[-1]["seconds"] - lines[0]["seconds"]) / steps if steps > 0 else None

    def _last_lines(self) -> list[dict]:
        return self.history[-1:] + self.metrics[-1:]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a workdir holds.

    Attributes:
      config: the configuration; None where an older version has run, or nothing yet.
      stages: in the order in which they run, as far as it is known.
      running: whether a process is at it; None if nobody can tell.
      targets: number of target images, which get pseudo labels; None if nobody knows.
      sources: number of source images, which may be translated; None if nobody knows.
      damaged: what cannot be read or is not what was written, and what to do about it.
      integrity: how much of it was compared with its digests.
    """

    path: epath.Path
    config: dict | None
    stages: list[Stage]
    running: bool | None
    targets: int | None
    sources: int | None
    damaged: list[str]
    integrity: Integrity


def inspect(workdir: epath.PathLike, integrity: Integrity | None = None) -> Inspection:
    """Reads a workdir.

    Args:
      workdir: its folder.
      integrity: how much is compared with its digests; what is quick by default.

    Raises:
      ValueError: there is no such folder, or it holds no run.
    """
    path, damaged, integrity = epath.Path(workdir), [], integrity or Integrity()
    if not path.is_dir():
        raise ValueError(f"--workdir = {path} does not exist: name the folder of a run")
    config = _json(path / "config.json", damaged, AGAIN)
    for name in ("data.json", "results.json"):
        _json(path / name, damaged, AGAIN)
    check_archive(path / "samples.npz", damaged, integrity)
    begun = sorted((folder for folder in path.iterdir() if (folder / "settings.json").exists()),
                   key=lambda folder: _time(folder / "settings.json") or 0.0)  # fmt: skip
    known = (config or {}).get("stages", ())
    names = [*known, *(folder.name for folder in begun if folder.name not in known)]
    if not names:
        raise ValueError(f"--workdir = {path} holds no run: there is neither config.json nor the folder of a stage")
    stages = [_stage(path / name, (config or {}).get(name), damaged, integrity) for name in names]
    for name in names:  # what is large comes last, and of that what matters least
        _check_older_checkpoints(path / name / "checkpoints", damaged, integrity)
    for store in (store for name in names for store in _stores(path / name)):
        _check_store(store, damaged, integrity)
    locked = is_locked(path / "lock")
    running = True if any(stage.held for stage in stages) else locked  # a study's processes hold stages alone
    targets, sources = (_images(path, config, role) for role in ("target", "source"))
    return Inspection(path, config, stages, running, targets, sources, damaged, integrity)


def experiments(workdir: epath.PathLike, integrity: Integrity | None = None) -> dict[str, Inspection]:
    """The experiments of a study's workdir by the names of their folders; none if it is that of a run."""
    path, integrity = epath.Path(workdir), integrity or Integrity()
    if (path / "config.json").exists():
        return {}
    seeds = sorted(folder for folder in _inside(path) if folder.name.startswith("seed"))
    folders = [folder for seed in seeds for folder in (seed, *sorted(_inside(seed)))
               if (folder / "config.json").exists()]  # fmt: skip
    return {str(folder.relative_to(path)): inspect(folder, integrity) for folder in folders}


def tables(workdir: epath.PathLike) -> dict[str, dict]:
    """The tables that studies of a workdir have written so far, by their names."""
    folders = sorted(path for path in _inside(epath.Path(workdir)) if path.is_dir())
    found = {folder.name: _json(folder / "study.json", [], "") for folder in folders}
    return {name: table for name, table in found.items() if table is not None}


def _stage(folder: epath.Path, section: dict | None, damaged: list[str], integrity: Integrity) -> Stage:
    note = _json(folder / "settings.json", damaged, f"delete {folder} to run this stage again") or {}
    prefix = f"{folder.name}."
    settings = section or {key.removeprefix(prefix): note[key] for key in note if key.startswith(prefix)}
    _json(folder / "environment.json", damaged, AGAIN)
    _json(folder / "cost.json", damaged, "delete it, which forgets what the stage cost so far, and go on")
    for archive in (*_inside(folder), *_inside(folder / "snapshots")):
        check_archive(archive, damaged, integrity)
    checkpoint = _newest_checkpoint(folder / "checkpoints", damaged, integrity)
    saved = _time(folder / "checkpoints" / str(checkpoint)) if checkpoint is not None else None
    files = [folder / name for name in ("settings.json", "metrics.jsonl", "history.jsonl", "result.json")]
    stores = _stores(folder)
    for store in stores:
        _json(store / "origin.json", damaged, f"delete {store}, and what it holds is made again")
        _json(store / "class_thresholds.json", damaged, "delete it, and it is made again")
    return Stage(
        name=folder.name,
        settings=settings,
        begun=folder.is_dir(),
        result=_json(folder / "result.json", damaged, "delete it, and give the same command again"),
        history=_lines(folder / "history.jsonl", damaged, "delete it, which forgets the scores so far, and go on"),
        metrics=_lines(folder / "metrics.jsonl", damaged, "delete it, which forgets the losses so far, and go on"),
        checkpoint=checkpoint,
        saved=saved,
        changed=max(filter(None, [saved, *map(_time, (*files, *stores))]), default=None),
        labels={store.name: _count(store, ".npz") for store in stores if store.name != FOLDER},
        translated=next((_count(store, Translations.ending) for store in stores if store.name == FOLDER), None),
        held=is_locked(folder / "lock"),
    )


def _stores(stage: epath.Path) -> list[epath.Path]:
    """Folders of pseudo labels, and of translated images, that were made with a stage's network."""
    return sorted(path for path in _inside(stage) if path.name.startswith(("soft_labels_", "hard_labels_", FOLDER)))


def _count(store: epath.Path, ending: str) -> int:
    return sum(path.suffix == ending for path in _inside(store))


def _newest_checkpoint(folder: epath.Path, damaged: list[str], integrity: Integrity) -> int | None:
    """Step of the newest checkpoint that looks whole; those after it are named, and what was put aside."""
    damaged += [f"{path}, put aside: delete it when nothing is missed" for path in sorted(_inside(folder))
                if path.suffix == ".damaged"]  # fmt: skip
    for path in _checkpoints(folder):
        if not (wrong := _missing_of(path) or integrity.checkpoint(path)):
            return int(path.name)
        if path.exists():
            damaged.append(f"{path}: {wrong}. An older checkpoint is tried when the run goes on")
    return None


def _check_older_checkpoints(folder: epath.Path, damaged: list[str], integrity: Integrity) -> None:
    """Names those that are damaged of the checkpoints before the newest that looks whole."""
    named = [line for line in damaged if line.startswith(f"{folder}/")]
    whole = [path for path in _checkpoints(folder) if not any(line.startswith(f"{path}: ") for line in named)]
    for path in whole[1:]:
        if (wrong := _missing_of(path) or integrity.checkpoint(path)) and path.exists():
            damaged.append(f"{path}: {wrong}. Nothing needs it unless it is the best one, or later ones are damaged")


def _checkpoints(folder: epath.Path) -> list[epath.Path]:
    """The checkpoints of a stage, the newest first, but for one that is being written."""
    steps = sorted((int(path.name) for path in _inside(folder) if path.name.isdigit()), reverse=True)
    paths = [folder / str(step) for step in steps]
    return [path for path in paths if not is_remote(path) or (path / "commit_success.txt").exists()]


def _missing_of(checkpoint: epath.Path) -> str:
    """What a checkpoint lacks that can be seen without reading it; '' if nothing."""
    for item in ("network",) if checkpoint.name == "0" else ("network", "training"):
        for name in ("_METADATA", "manifest.ocdbt"):
            path = checkpoint / item / name
            if not path.exists() or not path.stat().length:
                return f"{item}/{name} is missing or empty"
        if any(not path.stat().length for path in _inside(checkpoint / item / "d")):
            return f"a file in {item}/d is empty"
    return ""


def _images(path: epath.Path, config: dict | None, role: str) -> int | None:
    """Number of images of a role, from what TFDS noted of the prepared data set."""
    if config is None:
        return None
    data = config["data"]
    if data.get("labelled_target"):  # nobody knows here how many target images it makes the source's
        return None
    if isinstance(data[role], list):
        found = [_images(path, config | {"data": data | {role: one}}, role) for one in data[role]]
        return None if None in found else sum(found)
    wanted = data[role]
    name = wanted["name"] if wanted["name"] != "folder" else f"folder/{wanted['split']}"
    folder = epath.Path(expanded(data["data_dir"] or path / "data")) / name
    for version in sorted(_inside(folder), key=lambda path: path.name, reverse=True):
        for split in (_json(version / "dataset_info.json", [], "") or {}).get("splits", ()):
            if split["name"] == wanted["split"]:
                return sum(map(int, split["shardLengths"]))
    return None


# Files that may be missing, half deleted or damaged


def _inside(folder: epath.Path) -> Iterator[epath.Path]:
    try:
        yield from folder.iterdir()
    except (FileNotFoundError, NotADirectoryError):
        return


def _time(path: epath.Path) -> float | None:
    try:
        return float(path.stat().mtime)
    except FileNotFoundError:
        return None


def _json(path: epath.Path, damaged: list[str], remedy: str) -> dict | None:
    try:
        value = parse_json(path.read_text())
        if isinstance(value, dict):
            return value
    except FileNotFoundError:
        return None
    except ValueError:  # undecodable text, too
        pass
    damaged.append(f"{path}: {remedy}")
    return None


def _lines(path: epath.Path, damaged: list[str], remedy: str) -> list[dict]:
    try:
        lines = parse_json_lines(path.read_text())
        if all(isinstance(line["step"], int) for line in lines):
            return lines
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        pass
    damaged.append(f"{path}: {remedy}")
    return []


def check_archive(path: epath.Path, damaged: list[str], integrity: Integrity) -> None:
    """Names an .npz file that is damaged."""
    if path.suffix == ".npz" and integrity.archive(path):
        damaged.append(f"{path}: it is made anew when it is wanted, or delete it")


def _check_store(store: epath.Path, damaged: list[str], integrity: Integrity) -> None:
    if names := integrity.store(store):
        several = f", and {len(names) - 1} more there" if len(names) > 1 else ""
        damaged.append(f"{store / names[0]}{several}: made anew when a stage wants them")
