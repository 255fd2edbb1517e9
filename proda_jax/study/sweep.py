"""Any setting, swept from the command line: a row for each of its values."""

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from proda_jax.adaptation.stages import kinds
from proda_jax.run import settings
from proda_jax.study.plan import INPUTS, Plan, Row, check, chosen_seeds, inputs_of, needed
from proda_jax.system.paths import expanded
from proda_jax.system.refusals import choose, refuse

ALONE = ("seed", "stages", "task", "init_from", "study")  # of which there is one in a study


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A setting and its values.

    Attributes:
      name: as it was written, 'stage1.temperature'.
      stages: whose setting it is; none where it is of all stages alike.
      path: of the setting within the stage, or within the configuration.
      values: as they were written, and what they mean.
    """

    name: str
    stages: tuple[str, ...]
    path: tuple[str, ...]
    values: dict[str, Any]


def swept(config: ml_collections.ConfigDict, text: str, seeds: Sequence[int] | None = None) -> Plan:
    """The study of a setting's values.

    A setting of a stage makes copies of that stage and of those after it that depend on it, one for each value; what
    comes before is shared. A setting of all stages alike makes an experiment for each value.

    Args:
      config: any configuration. The value that it has already is a row of its own stages.
      text: 'stage1.temperature=0.5,1,2'; a kind in place of a stage, 'denoise.temperature=...', means all of that kind.
      seeds: default: those of the configuration's study, or its one seed.

    Raises:
      ValueError: there is no such setting, or a value cannot work.
    """
    settings.check(config)
    sweep = parse(config, text)
    if seeds is None:
        seeds = config.study.seeds if "study" in config else (config.seed,)
    if sweep.stages:
        variants, rows = _of_stages(config, sweep)
    else:
        variants, rows = _of_everything(config, sweep)
    name = re.sub(r"[^\w.]+", "_", f"sweep_{sweep.name}")
    title = f"{config.task}: {sweep.name}"
    notes = ("Rows differ in this setting alone; stages that are compared draw the same at random.",)
    return check(Plan(name, title, "", rows, chosen_seeds(seeds), variants, notes, ("curves",)))


def parse(config: ml_collections.ConfigDict, text: str) -> Sweep:
    """What 'stage1.temperature=0.5,1,2' says of a configuration."""
    name, equals, written = text.partition("=")
    first, *rest = name.strip().removeprefix("config.").split(".")
    if not equals or not written.strip():
        raise ValueError(f"--sweep={text}: expected a setting and its values, such as stage1.temperature=0.5,1,2")
    of_kind = tuple(stage for stage in config.stages if config[stage].kind == first)
    stages = (first,) if first in config.stages else of_kind
    path = tuple(rest) if stages else (first, *rest)
    sections = [config[stage] for stage in stages] or [config]
    if not path:
        refuse(f"{name} (in --sweep)", first, f"one setting of it: {', '.join(config[stages[0]])}")
    present = [_setting(section, path, ".".join((first, *path) if stages else path), config) for section in sections]
    if not stages and first in ALONE:
        refuse("sweep", name, "another setting; seeds are given as --seeds=0,1,2")
    values: dict[str, Any] = {}
    for item in split(written):
        values[item] = _like(present[0], item, name)
    return Sweep(name.strip(), stages, path, values)


def split(text: str) -> list[str]:
    """Values between commas, those within brackets and quotes aside: '(1, 2), 3' is two."""
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}") if not quote else 0
        if letter == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += letter
    return [item.strip() for item in found]


def _setting(section: Any, path: Sequence[str], name: str, config: ml_collections.ConfigDict) -> Any:
    """The present value of a setting; refuses one that does not exist, with the nearest name."""
    if path[0] == "views" and section is not config:  # a stage holds those that are its own
        section = {"views": dict(config.views) | dict(section.get("views", {}))}
    for i, key in enumerate(path):
        known = [*section, *_kinds(config)] if section is config else section
        choose(f"{name} (in --sweep)", key, dict.fromkeys(known))
        section = section[key]
        if not isinstance(section, ml_collections.ConfigDict | dict) and i < len(path) - 1:
            refuse(f"{name} (in --sweep)", ".".join(path), f"a setting: {key} has none of its own")
    if isinstance(section, ml_collections.ConfigDict | dict):
        refuse(f"{name} (in --sweep)", ".".join(path), f"one setting of it: {', '.join(section)}")
    return section


def _kinds(config: ml_collections.ConfigDict) -> list[str]:
    """Kinds of the configuration's stages, which stand for all stages of that kind."""
    return sorted({config[stage].kind for stage in config.stages})


def _like(present: Any, text: str, name: str) -> Any:
    """A value as it was written, of the type that the setting has."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = expanded(text)
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if isinstance(present, str) and not isinstance(value, str):
        value = text
    if present is not None and type(value) is not type(present):
        refuse(f"{name} (in --sweep)", value, f"values like {present!r}")
    return value


def _of_stages(config: ml_collections.ConfigDict, sweep: Sweep) -> tuple[dict, tuple[Row, ...]]:
    """Copies of the stages that the setting decides, and a row for each of them and each value."""
    c = config.copy_and_resolve_references().unlock()
    if "study" in c:
        del c.study
    changed = [name for name in config.stages if _depends(config, name, sweep.stages)]
    scored = _scored(config, changed)
    rows: list[Row] = []
    over = range(len(scored))  # gains are over the same stage with the first value
    for text, value in sweep.values.items():
        same = all(_present(config, stage, sweep.path) == value for stage in sweep.stages)
        names = {name: name if same else _name(name, sweep.path[-1], text) for name in changed}
        for name in () if same else changed:
            _refuse_twins(sweep, text, names[name] in c)
            c[names[name]] = _copy(config, name, names, sweep, value)
        titles = [f"{sweep.name}={text}" + (f": {name}" if len(scored) > 1 else "") for name in scored]
        rows += [Row(title, names[name], over=i) for title, name, i in zip(titles, scored, over, strict=True)]
    c.stages = needed(c, [row.stage for row in rows])
    return {"": c.lock()}, tuple(rows)


def _scored(config: ml_collections.ConfigDict, stages: Sequence[str]) -> list[str]:
    """Those of the stages whose network labels images, so that there is a score to show."""
    return [name for name in stages if kinds.of(config[name]).segments]


def _copy(
    config: ml_collections.ConfigDict, name: str, names: dict[str, str], sweep: Sweep, value: Any
) -> ml_collections.ConfigDict:
    """A stage with a value of the setting, if it is one of those that have it, among copies called `names`."""
    stage = config[name].copy_and_resolve_references()
    with stage.unlocked():
        for key in INPUTS:
            if key in stage:
                stage[key] = names.get(stage[key], stage[key])
        stage.random_as = stage.get("random_as") or name
        if name in sweep.stages:
            _put(stage, sweep, value)
    return stage


def _put(section: ml_collections.ConfigDict, sweep: Sweep, value: Any) -> None:
    """Sets the setting in a stage, or in the configuration."""
    for key in sweep.path[:-1]:
        section = section[key]
    try:
        with section.unlocked():  # of views a stage holds those alone that are its own
            section[sweep.path[-1]] = value
    except TypeError as error:  # of what has no value yet
        refuse(f"{sweep.name} (in --sweep)", value, f"values of another type ({error})")


def _refuse_twins(sweep: Sweep, text: str, twin: bool) -> None:
    """Refuses a value whose name is that of another, such as (0.5,1) beside (0,5,1)."""
    if twin:
        refuse(f"{sweep.name} (in --sweep)", text, "values that can be told apart by letters and digits")


def _present(config: ml_collections.ConfigDict, stage: str, path: Sequence[str]) -> Any:
    """The value that a stage has now."""
    return _setting(config[stage], path, ".".join(path), config)


def _depends(config: ml_collections.ConfigDict, name: str, on: Sequence[str]) -> bool:
    """Whether a stage is one of those, or starts from or learns from one that is."""
    inputs = (other for other in inputs_of(config, name) if other in config.stages)
    return name in on or any(_depends(config, other, on) for other in inputs)


def _name(stage: str, setting: str, text: str) -> str:
    """What a stage's copy is called; no dots, which separate settings."""
    return re.sub(r"[^\w-]+", "_", f"{stage}_{setting}_{text}").strip("_")


def _of_everything(config: ml_collections.ConfigDict, sweep: Sweep) -> tuple[dict, tuple[Row, ...]]:
    """A configuration for each value, and a row for each of them and each stage."""
    variants, rows = {}, []
    for text, value in sweep.values.items():
        c = config.copy_and_resolve_references()
        _put(c, sweep, value)
        name = re.sub(r"[^\w.-]+", "_", f"{sweep.name}_{text}").strip("_")
        _refuse_twins(sweep, text, name in variants)
        variants[name] = c
        scored = enumerate(_scored(config, config.stages))
        rows += [Row(f"{sweep.name}={text}: {stage}", stage, None, name, i) for i, stage in scored]
    return variants, tuple(rows)
