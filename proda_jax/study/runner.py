"""Runs a study's experiments stage by stage; processes that are given the same command share the stages out.

Any number of them may work on one workdir, on several devices of a machine or on several machines with a common disk:
each takes the next stage that can be run and that no other process is at.
"""

from collections.abc import Callable
from time import sleep

import jax
from etils import epath

from proda_jax import hosts
from proda_jax.experiment import Experiment
from proda_jax.files import Busy
from proda_jax.interruption import Interruption
from proda_jax.progress import say
from proda_jax.sources import Sources
from proda_jax.study import results
from proda_jax.study.plan import Plan

PAUSE = 10.0  # seconds between two looks at what other processes have finished
INPUTS = ("init", "labels_from", "teacher")  # settings of a stage that name the stages it needs


def run(
    plan: Plan,
    workdir: epath.PathLike,
    *,
    sources: Callable[..., Sources] = Sources,
    devices_used: int | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Runs what is not done yet.

    Args:
      plan: the study.
      workdir: gets a folder for each seed, and `data`; studies whose stages of the same name have the same settings
        may share it.
      sources: (configuration, workdir) -> its data sets.
      devices_used: number of devices; all by default.
      interruption: whether the program is asked to stop.

    Raises:
      ValueError: an experiment's folder belongs to other settings, or data are missing.
      Stopped: the program was asked to stop.
    """
    workdir, opened = epath.Path(workdir), {}
    experiments = []
    for folder, config in plan.pieces:
        if config.data.data_dir is None:
            config.data.data_dir = str(workdir / "data")
        key = config.data.to_json()
        if key not in opened:  # seeds have their data in common
            opened[key] = sources(config, workdir)
        experiments.append(Experiment(config, workdir / folder, opened[key], devices_used, interruption))
    for experiment in experiments:
        experiment.begin()
    while waiting := [(e, name) for e in experiments for name in e.config.stages if not e.is_complete(name)]:
        for experiment, name in waiting:
            if attempt(experiment, name):
                if hosts.is_first():
                    results.write(plan, workdir)
                experiment.stop_if_wished(name)
                break
        else:
            say("other processes are at all that can be run by now; waiting for them")
            sleep(PAUSE)
    for experiment in experiments:
        experiment.write_results()
    if hosts.is_first():
        results.write(plan, workdir)


def attempt(experiment: Experiment, name: str) -> bool:
    """Runs a stage, unless it needs one that is not complete, or another process is at it; whether it was run."""
    stage = experiment.config[name]
    needed = [stage.get(key) for key in INPUTS]
    if not all(experiment.is_complete(other) for other in needed if other in experiment.config.stages):
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
