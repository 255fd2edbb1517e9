"""Runs a study's experiments stage by stage; processes that are given the same command share the stages out.

Any number of them may work on one workdir, on several devices of a machine or on several machines with a common disk:
each takes the next stage that can be run and that no other process is at.
"""

import os
from collections.abc import Callable
from time import sleep

import jax
from etils import epath

from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.study import results
from proda_jax.study.plan import Plan, inputs_of
from proda_jax.system import hosts
from proda_jax.system.files import Busy, is_remote
from proda_jax.system.interruption import Interruption
from proda_jax.system.progress import say

PAUSE = 10.0  # seconds between two looks at what other processes have finished


def run(
    plan: Plan,
    workdir: epath.PathLike,
    *,
    sources: Callable[..., Sources] = Sources,
    devices_used: int | None = None,
    interruption: Interruption | None = None,
) -> dict[str, str]:
    """Runs what is not done yet.

    A row may be impossible to train, at too high a rate, or with a batch that does not fit the device. It and what
    needs it are left out, and the others are run.

    Args:
      plan: the study.
      workdir: gets a folder for each seed, and `data`; studies whose stages of the same name have the same settings
        may share it.
      sources: (configuration, workdir) -> its data sets.
      devices_used: number of devices; all by default.
      interruption: whether the program is asked to stop.

    Returns:
      The stages that could not be trained, and why: {'seed0, stage1': 'out of memory'}.

    Raises:
      ValueError: an experiment's folder belongs to other settings, or data are missing.
      Stopped: the program was asked to stop.
    """
    workdir, opened = epath.Path(workdir), {}
    data = workdir / "data" if is_remote(workdir) else os.path.abspath(workdir / "data")
    experiments = []
    variants = list(plan.variants) * len(plan.seeds)
    for folder, config in plan.pieces:
        if config.data.data_dir is None:
            config.data.data_dir = str(data)
        key = config.data.to_json()
        if key not in opened:  # seeds have their data in common
            opened[key] = sources(config, workdir)
        experiments.append(
            Experiment(config, workdir / folder, opened[key], devices_used, interruption, compiles_ahead=False)
        )  # as programs are forgotten after each stage
    for experiment in experiments:
        experiment.begin()
    failed: dict[str, str] = {}

    def label(experiment: Experiment, name: str) -> str:
        return f"{experiment.workdir.path.relative_to(workdir)}, {name}"

    def is_left(experiment: Experiment, name: str) -> bool:
        """Whether a stage is to be run, and can be."""
        return not experiment.is_complete(name) and not is_lost(experiment, name)

    def is_lost(experiment: Experiment, name: str) -> bool:
        needed = needed_by(experiment, name)
        return label(experiment, name) in failed or any(is_lost(experiment, other) for other in needed)

    while waiting := [(e, name) for e in experiments for name in e.config.stages if is_left(e, name)]:
        for experiment, name in waiting:
            try:
                done = attempt(experiment, name)
            except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
                if not (why := impossible(error)) or hosts.share()[1] > 1:  # other hosts may have seen another error
                    raise
                failed[label(experiment, name)] = why
                say(f"{label(experiment, name)} cannot be trained: {why}")
                jax.clear_caches()
                break
            if done:
                score_averages(plan, variants[experiments.index(experiment)], experiment)
                if hosts.is_first():
                    results.write(plan, workdir)
                experiment.stop_if_wished(name)
                break
        else:
            say("other processes are at all that can be run by now; waiting for them")
            sleep(PAUSE)
    for experiment, variant in zip(experiments, variants, strict=True):
        experiment.write_results()
        score_averages(plan, variant, experiment)  # where other processes ran the last stage
    if hosts.is_first():
        results.write(plan, workdir)
    return failed


def score_averages(plan: Plan, variant: str, experiment: Experiment) -> None:
    """Scores those rows of a variant that are averages of networks, as far as these are complete, once."""
    for row in plan.rows:
        if row.variant == variant and all(map(experiment.is_complete, row.stages)):
            experiment.average(row.stages)


def needed_by(experiment: Experiment, name: str) -> list[str]:
    """The stages of the experiment that a stage starts from or learns from."""
    return [other for other in inputs_of(experiment.config, name) if other in experiment.config.stages]


def impossible(error: Exception) -> str:
    """Why a stage cannot be trained, if that is what an error says; '' where it may be the machine's fault."""
    if isinstance(error, FloatingPointError):
        return str(error)
    return "the device's memory is too small for it" if "RESOURCE_EXHAUSTED" in str(error) else ""


def attempt(experiment: Experiment, name: str) -> bool:
    """Runs a stage, unless it needs one that is not complete, or another process is at it; whether it was run."""
    if not all(experiment.is_complete(other) for other in needed_by(experiment, name)):
        return False
    say(f"{experiment.workdir.path.name}, {name}")
    try:
        experiment.complete(name)
    except Busy:
        if hosts.share()[1] > 1:  # hosts that are one program do the same, and would wait for each other
            raise
        return False
    experiment.write_results()
    jax.clear_caches()  # each stage is another program, and there may be dozens
    return True
