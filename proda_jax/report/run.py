"""What a workdir holds, read without data sets, network or accelerator; nothing that is missing is an error."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.data.label_spaces import LABEL_SPACES, LabelSpace, label_space
from proda_jax.report import reading
from proda_jax.report.score_tables import best_of


@dataclasses.dataclass
class Stage:
    """One stage's folder.

    Attributes:
      name: of its section and folder.
      folder: where its files lie.
      settings: of its section, {'setting': value}, 'jitter.brightness' for one within; empty where nobody knows.
      result: what it ended in; None while it is not complete.
      history: its evaluations in order of steps.
      metrics: its logged steps in order.
      environment: software and device of the process that worked on it last; empty where nobody knows.
      problems: files that could not be read, added to as they are.
    """

    name: str
    folder: epath.Path
    settings: dict[str, Any]
    result: dict | None
    history: list[dict]
    metrics: list[dict]
    environment: dict
    problems: list[str]

    @property
    def kind(self) -> str | None:
        """Its kind, by its settings or else by its name; None where neither tells."""
        return self.settings.get("kind") or kinds.USUAL.get(self.name, {}).get("kind")

    @property
    def needs(self) -> kinds.Kind | None:
        """What its kind says of it; None where nobody knows its kind."""
        return kinds.KINDS.get(self.kind)

    @property
    def role(self) -> str:
        """See `kinds.Kind`."""
        return self.needs.role(self.settings or kinds.USUAL.get(self.name, {})) if self.needs else "adaptation"

    @property
    def rectifies(self) -> bool:
        """Whether it corrects pseudo labels as training goes on, as stage 1 does and self-training does not."""
        return self.needs is not None and self.needs.rectifies and self.role == "adaptation"

    @property
    def last(self) -> dict:
        """The last evaluation; empty where there is none."""
        return self.result["last"] if self.result else (self.history[-1] if self.history else {})

    @property
    def best(self) -> dict:
        """The evaluation of highest mIoU; empty where there is none."""
        return self.result["best"] if self.result else best_of(self.history)

    @property
    def steps(self) -> int:
        """Steps that are known to be done."""
        entries = [self.result["last"] | self.result] if self.result else []
        return max((e.get("steps", e.get("step", 0)) for e in [*entries, *self.history, *self.metrics]), default=0)

    @property
    def planned_steps(self) -> int:
        return max(self.settings.get("steps") or 0, self.steps) if not self.result else self.steps

    @property
    def seconds(self) -> float | None:
        """Time that it has taken so far."""
        if self.result and "seconds" in self.result:
            return self.result["seconds"]
        return max((e["seconds"] for e in [*self.history, *self.metrics] if "seconds" in e), default=None)

    @functools.cached_property
    def _snapshots(self) -> dict[int, tuple[set[str], dict[str, np.ndarray]]]:
        """Names of the arrays in each snapshot by step, and its small arrays, for which each file is read once."""
        folder = self.folder / "snapshots"
        paths = [path for path in folder.iterdir() if path.suffix == ".npz"] if folder.exists() else []
        by_step = {int(path.stem): path for path in paths if path.stem.isdigit()}
        return {step: reading.overview(by_step[step], self.problems) for step in sorted(by_step)}

    def steps_with(self, *names: str) -> list[int]:
        """Steps whose snapshots hold all of the named arrays."""
        return [step for step, (held, _) in self._snapshots.items() if held >= set(names)]

    def arrays(self, step: int, *names: str) -> dict[str, np.ndarray]:
        """Those of the named arrays that the snapshot of a step holds."""
        held, small = self._snapshots[step]
        large = [name for name in names if name in held and name not in small]
        found = reading.arrays_of(self.folder / "snapshots" / f"{step}.npz", self.problems, large) if large else {}
        return {name: array for name in names if (array := small.get(name, found.get(name))) is not None}

    def newest(self, *names: str) -> tuple[int, dict[str, np.ndarray]] | None:
        """Step and arrays of the last snapshot that holds all of the named arrays."""
        for step in reversed(self.steps_with(*names)):
            found = self.arrays(step, *names)
            if len(found) == len(names):
                return step, found
        return None

    def series(self, *names: str) -> list[tuple[int, ...]]:
        """(step, array, ...) of each snapshot that holds all of the named arrays."""
        return [(step, *self.arrays(step, *names).values()) for step in self.steps_with(*names)]


@dataclasses.dataclass
class Run:
    """A workdir.

    Attributes:
      path: of the workdir.
      config: the whole configuration; empty where the workdir is of an older version.
      settings: {'section.setting': value} of the whole configuration, or what is known of it.
      task: name of the experiment.
      seed: of everything random, where it is known.
      stages: those that have begun, in the order of the run.
      waiting: names of the stages that have not.
      space: the classes; None where nobody knows.
      data: what is noted of the images of each role, {'source': lines}; empty where none were looked at.
      samples: `image` uint8 [n, height, width, 3], `name` [n], and `label` uint8 [n, height, width] where there are
        any; empty without samples.
      problems: files that could not be read.
    """

    path: epath.Path
    config: dict
    settings: dict[str, Any]
    task: str
    seed: int | None
    stages: list[Stage]
    waiting: list[str]
    space: LabelSpace | None
    data: dict[str, list[str]]
    samples: dict[str, np.ndarray]
    problems: list[str]

    @property
    def scored(self) -> list[Stage]:
        """Stages with an mIoU."""
        return [stage for stage in self.stages if stage.last.get("miou") is not None]


def read(path: epath.PathLike) -> Run:
    """Reads a workdir; damaged files stand in its `problems`.

    Raises:
      ValueError: there is no such folder, or nothing of a run in it.
    """
    path, problems = epath.Path(path), []
    if not path.exists():
        raise ValueError(f"{path} does not exist: --workdir names the folder of a run")
    config = reading.json_object(path / "config.json", problems) or {}
    results = reading.json_object(path / "results.json", problems) or {}
    recorded = [stage["name"] for stage in results.get("stages", ())]
    folders = sorted(p.name for p in path.iterdir() if p.is_dir() and _has_begun(p))
    order = list(dict.fromkeys([*config.get("stages", ()), *recorded, *folders]))
    stages = [_stage(path / name, config.get(name), problems) for name in order if _has_begun(path / name)]
    if not (stages or config or results):
        raise ValueError(f"{path} holds nothing of a run: --workdir names the folder of a run")
    settings = dict(flat(config)) or _remembered(stages, problems)
    begun = {stage.name for stage in stages}
    return Run(
        path, config, settings, config.get("task") or results.get("task") or path.name,
        settings.get("seed", results.get("seed")), stages, [name for name in order if name not in begun],
        _space(settings, stages, problems), _data(path, problems), _samples(path, problems), problems,
    )  # fmt: skip


def flat(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """('section.setting', value) of a tree of settings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):  # several data sets
            for number, one in enumerate(value):
                yield from flat(one, f"{prefix}{key}[{number}].")
        else:
            yield f"{prefix}{key}", value


def compared(stages: Iterable[Stage]) -> list[tuple[str, Stage]]:
    """The stages that the paper's figures set beside each other, by what they are called there.

    Args:
      stages: those that have what is shown.

    Returns:
      Before adaptation (the network of the source alone; where there is none, the first there is), conventional
      self-training where there is any, and the last stage of the method.
    """
    stages = list(stages)
    sources = [stage for stage in stages if stage.role == "source"]
    trained = [stage for stage in stages if stage.role == "self-training"]
    ours = [stage for stage in stages if stage.role == "adaptation"]
    chosen: dict[str, tuple[str, Stage]] = {}
    first = ("before adaptation", sources, 0) if sources else ("first stage", stages, 0)
    for title, those, which in (first, ("self-training", trained, -1), ("ours", ours, -1)):
        if those and those[which].name not in chosen:
            chosen[those[which].name] = (title, those[which])
    return list(chosen.values())


def _has_begun(folder: epath.Path) -> bool:
    return any((folder / name).exists() for name in ("settings.json", "history.jsonl", "metrics.jsonl", "result.json"))


def _stage(folder: epath.Path, settings: dict | None, problems: list[str]) -> Stage:
    if settings is not None:
        settings = dict(flat(settings))
    else:
        noted, start = reading.json_object(folder / "settings.json", problems) or {}, f"{folder.name}."
        settings = {key.removeprefix(start): value for key, value in noted.items() if key.startswith(start)}
    result = reading.json_object(folder / "result.json", problems)
    if result is not None and not all(isinstance(result.get(which), dict) for which in ("best", "last")):
        problems.append(f"{folder.name}/result.json does not hold a result")
        result = None
    return Stage(
        folder.name, folder, settings, result, reading.json_lines(folder / "history.jsonl", problems),
        reading.json_lines(folder / "metrics.jsonl", problems),
        reading.json_object(folder / "environment.json", problems) or {}, problems,
    )  # fmt: skip


def _remembered(stages: list[Stage], problems: list[str]) -> dict[str, Any]:
    """The settings that the stages' folders remember, where no configuration does."""
    found: dict[str, Any] = {}
    for stage in stages:
        found |= reading.json_object(stage.folder / "settings.json", problems) or {}
    return found


def _space(settings: dict, stages: list[Stage], problems: list[str]) -> LabelSpace | None:
    name = settings.get("data.label_space")
    if name is not None:
        try:
            return label_space(name, settings.get("data.classes", ()), settings.get("data.colors", ()))
        except ValueError as error:
            problems.append(f"data.label_space: {error}")
    classes = next((tuple(stage.last["iou"]) for stage in stages if stage.last.get("iou")), None)
    known = (space for space in LABEL_SPACES.values() if space.classes == classes)
    return next(known, label_space("custom", classes) if classes else None)


def _data(path: epath.Path, problems: list[str]) -> dict[str, list[str]]:
    noted = reading.json_object(path / "data.json", problems) or {}
    return {role: list(map(str, facts.get("lines", ()))) for role, facts in noted.items() if isinstance(facts, dict)}


def _samples(path: epath.Path, problems: list[str]) -> dict[str, np.ndarray]:
    samples = reading.arrays_of(path / "samples.npz", problems, ("image", "label", "name"))
    return samples if {"image", "name"} <= set(samples) else {}
