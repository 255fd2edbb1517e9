"""An experiment: its stages in order, what each hands to the next, and what is already done."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from proda_jax.adaptation import statistics
from proda_jax.adaptation.stages import build, kinds, prepare
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.adaptation.state import TrainState
from proda_jax.data.checks import data_sets, first_of
from proda_jax.data.label_spaces import label_space, reported_subsets
from proda_jax.data.pseudo_labels import with_pseudo_labels
from proda_jax.data.source import host_places
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.report import score_tables as tables
from proda_jax.run import evaluate, provenance, scales, train
from proda_jax.run.card import Card
from proda_jax.run.cost import Cost
from proda_jax.run.networks import Networks
from proda_jax.run.prepared import Prepared
from proda_jax.run.records import History
from proda_jax.run.snapshots import HeldOutImages, Snapshots
from proda_jax.run.sources import Sources
from proda_jax.run.steps import Steps
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices, hosts
from proda_jax.system.checkpoints import Checkpoints
from proda_jax.system.files import alone, is_readable, write_json
from proda_jax.system.interruption import Interruption, Stopped
from proda_jax.system.progress import phase, say


class Experiment:
    """A configuration in a workdir."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: epath.PathLike,
        sources: Sources,
        devices_used: int | None = None,
        interruption: Interruption | None = None,
        compiles_ahead: bool = True,
        forgets: bool = False,
    ):
        """Prepares to run.

        Args:
          config: checked settings, see `settings.check`.
          workdir: may be in a bucket.
          sources: opens the data sets.
          devices_used: how many devices to use; all by default.
          interruption: whether the program is asked to stop.
          compiles_ahead: whether the next stage's programs are compiled while one trains, where that is possible.
          forgets: whether steps that no later stage has are given up, as no other run of this process is going to ask.
        """
        self.forgets = forgets
        self.interruption = interruption or Interruption()
        self.config, self.workdir, self.sources = config, Workdir(workdir), sources
        self.mesh = devices.make_mesh(devices_used)
        self.space = label_space(config.data.label_space, config.data.classes, config.data.colors)
        self.networks = Networks(config, self.workdir, self.mesh, self.space)
        self.prepared = Prepared(config, self.workdir, sources, self.networks, self.mesh, self.space)
        self.steps = Steps(config, self.workdir, sources, self.networks, self.prepared, compiles_ahead)
        self.looked: HeldOutImages | None = None  # read when the first stage wants to

    # One stage

    def run_stage(self, name: str) -> dict:
        """Runs a stage to its end and returns its result."""
        folder = self.workdir.folder(name)
        provenance.remember(folder, self.config, name)
        provenance.note_environment(folder)
        with Cost(folder) as cost:
            history = self.trained(name, cost)
        return self.finish(name, self.config[name].steps, history, cost=cost.noted)

    def trained(self, name: str, cost: Cost) -> History:
        """Prepares what a stage needs, trains it to its last step, and returns its evaluations."""
        config, stage, folder = self.config, self.config[name], self.workdir.folder(name)
        model = self.networks.model(name)
        kind, setup = kinds.of(stage), self.steps.setup(name)
        teacher_name = stage[kind.teacher] if kind.teacher else None
        self.steps.ahead.wait((name, "labels"))
        self.prepared.labels(name)  # before training begins, which an interruption lets finish its step
        self.prepared.labelled(name)
        start = self.prepared.initial_prototypes(name) if kind.prototypes(stage) else None
        shares = self.prepared.class_shares(name) if kinds.learns_prototypes(stage) else None
        foundation = self.prepared.foundation_prototypes(name) if stage.get("foundation") else None
        modes = self.prepared.patch_modes(name) if kind.patch_modes(stage) else None
        with phase(f"{name}: setting up its network"):
            variables = self.networks.initial(name, model)
            key = build.stage_key(config.seed, build.random_name(config, name))
            state = build.create_state(setup, key, variables, start, shares, foundation)
            state = devices.replicate(state, self.mesh)
            given = variables if kind.frozen_start(stage) else modes
            frozen = None if given is None else devices.replicate(given, self.mesh)
        schedule = train.Schedule(
            stage.steps, config.log_every, config.evaluate_every, config.save_every, config.save_minutes,
            config.max_skipped,
        )  # fmt: skip
        with self.sources.writer(folder) as writer:
            note = self.notes(name, model, writer, state)
            cost.prepared()
            _, history = train.train(
                functools.partial(self.steps.compiled, name, setup),
                state,
                self.networks.variables(teacher_name) if teacher_name else frozen,
                lambda first_step: self.batches(name, setup, first_step),
                note,
                schedule,
                folder,
                self.mesh,
                name,
                writer,
                self.interruption,
                card_of(config, name, model).as_json(),
                self.recomputer(name, model) if stage.statistics in statistics.AFTERWARDS else None,
                cost,
            )
        return history

    def take_stage(self, name: str) -> dict:
        """Takes a stage's network from a file, instead of training it, and returns its result."""
        folder, started = self.workdir.folder(name), time.time()
        model, variables = self.networks.in_file(self.config[name].weights, name)
        score = self.scorer(model, name)
        scores = self.summary(score(variables)) if score else {}
        provenance.remember(folder, self.config, name)
        checkpoints = Checkpoints(folder / "checkpoints")
        card = card_of(self.config, name, model).as_json()
        checkpoints.save_network(variables, scores.get("miou"), card)
        checkpoints.close()
        history = History(folder / "history.jsonl", -1)
        history.add({"step": 0, "seconds": round(time.time() - started, 1)} | scores)
        return self.finish(name, 0, history, extra_norm=model.extra_norm)

    def notes(self, name: str, model: SegmentationNetwork, writer: train.Writer, start: TrainState) -> Callable | None:
        """State of stage `name` -> what its history notes; on the way its panels and snapshot are written.

        A stage that rectifies labels has a snapshot of its `start`, too, from which they get better. None where nothing
        is noted, as there are no images or, in pretraining and translation, no labels to be had from the network.
        """
        kind = kinds.of(self.config[name])
        if not kind.segments:
            return None
        score, snapshots = self.scorer(model, name), self.snapshots(name, model)
        if snapshots and kind.rectifies:
            if not hosts.as_the_first_sees(hosts.is_first() and is_readable(snapshots.path(0))):
                with phase(f"{name}: looking at what it starts from"):
                    snapshots.take(start)
        if not (score or snapshots):
            return None

        def note(state: TrainState) -> dict:
            matrices = score(state.variables) if score else None
            entry = {} if matrices is None else self.summary(matrices)
            if score and state.recomputed is not None:
                running = score({"params": state.params, "batch_stats": state.batch_stats})
                entry["miou_running_statistics"] = self.summary(running)["miou"]
            if snapshots:
                with phase(f"{name}: taking a snapshot", leave=False):
                    more, panels = snapshots.take(state, matrices and matrices[0])
                entry |= more
                for title, images in panels.items():  # they differ in size
                    writer.write_images(int(state.step), {title: images})
            return entry

        return note

    def recomputer(self, name: str, model: SegmentationNetwork) -> Callable[[TrainState], TrainState]:
        """State of stage `name` -> the same with statistics of target images as they are, or of crops of them.

        They come in batches of the training's size, so that statistics do not depend on the number of devices.
        """
        target, size = self.sources.open("target"), build.batch_size(self.config, name)
        stage, crops = self.config[name], self.config[name].statistics == statistics.AVERAGED
        wanted = stage.statistics_images if crops else min(len(target), stage.statistics_images)
        count, seed = -(-wanted // size), build.order_seed(self.config.seed, "statistics")
        compute, step = statistics.recompute, statistics.moments_step(model, self.mesh)
        if crops:
            compute = statistics.average
            step = statistics.crop_moments_step(model, self.mesh, views_of(self.config, name), seed)
        here = host_places(size, hosts.share())

        def recomputed(state: TrainState) -> TrainState:
            batches = target.training_batches(size, seed=seed, labels=False, first_step=0, shard=hosts.share())
            given = (
                {"image": batch["image"], "place": (number * size + here).astype(np.int32)}
                for number, batch in enumerate(itertools.islice(batches, count))
            )
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            what = f"{count * size} crops of target" if crops else f"{min(count * size, len(target))} target"
            with phase(f"{name}: statistics of {what} images", leave=False):
                return state.replace(recomputed=compute(step, variables, devices.prefetch(given, self.mesh)))

        return recomputed

    def snapshots(self, name: str, model: SegmentationNetwork) -> Snapshots | None:
        """What takes the snapshots of stage `name`, if any are wanted."""
        stage, wanted = self.config[name], self.config.snapshots
        if not wanted.images:
            return None
        if self.looked is None:
            labelled = bool(data_sets(self.config.data, "validation"))
            source = self.sources.open("validation" if labelled else "target")
            network = self.networks.network(extra_norm=False)
            self.looked = HeldOutImages(source, wanted, self.prepared.evaluation_batch, network, labels=labelled)
            if hosts.is_first():
                self.looked.write(self.workdir.path / "samples.npz")
        make, teacher = None, None
        kind = kinds.of(stage)
        if kind.rectifies:
            maker, recipe = stage[kind.pseudo_labels.made_by], prepare.RECIPES[kind.pseudo_labels.name](stage)
            make, teacher = self.prepared.label_maker(maker, recipe), self.networks.variables(maker)
        folder = self.workdir.folder(name)
        return Snapshots(self.looked, folder, model, self.mesh, stage, self.space, make, teacher)

    def scorer(self, model: SegmentationNetwork, title: str) -> Callable[[Any], list[np.ndarray]] | None:
        """Variables of a network -> confusion matrix on each set of validation images; None where there are none.

        Args:
          model: the network.
          title: what is evaluated, for the progress bar.
        """
        if not data_sets(self.config.data, "validation"):
            return None
        at = evaluate.scored_at(self.config)
        confusion = evaluate.confusion_step(model, self.mesh, at)
        sets = [source for _, source in self.sources.each("validation")]
        of = [f" on {name}" for name in self.sources.titles("validation")] if len(sets) > 1 else [""]
        new = [iter([True]) for _ in sets]  # the first time, the program is compiled

        def score(variables: Any) -> list[np.ndarray]:
            return [
                evaluate.evaluate(
                    confusion, variables, source, self.prepared.evaluation_batch, model.classes, self.mesh,
                    f"{title}: evaluating{where}", next(first, False), at,
                )
                for source, where, first in zip(sets, of, new, strict=True)
            ]  # fmt: skip

        return score

    def summary(self, confusions: list[np.ndarray], **how: Any) -> dict:
        """Scores in percent: of the first validation set, and where there are several of each, 'validation'.

        Args:
          confusions: what `scorer` counts.
          **how: of `evaluate.summary`.
        """
        found = [evaluate.summary(confusion, self.space, **how) for confusion in confusions]
        if len(found) == 1:
            return found[0]
        return found[0] | {"validation": dict(zip(self.sources.titles("validation"), found, strict=True))}

    def finish(self, name: str, steps: int, history: History, **facts: Any) -> dict:
        """Marks a stage as complete; `facts` stand in its result besides."""
        result = {"name": name, "steps": steps, "seconds": history.seconds} | facts
        for which, entry in (("best", history.best), ("last", history.entries[-1])):
            result[which] = {key: value for key, value in entry.items() if key != "seconds"}
        self.workdir.finish(name, result)
        hosts.wait(f"{name} is complete")
        return result

    def batches(self, name: str, setup: Setup, first_step: int) -> Iterator[dict]:
        """This host's training batches of a stage, from a step on."""
        config, stage = self.config, self.config[name]
        index, count = hosts.share()
        arguments = {"first_step": first_step, "shard": (index, count)}
        order = build.order_seed(config.seed, build.random_name(config, name))
        size = build.batch_size(config, name)
        labelled, kind = self.prepared.labelled(name), kinds.of(stage)
        if labelled is None:
            source = self.second_targets(name, size, **arguments) if kind.pairs_target else None
        elif stage.rare_class_sampling:
            classes = self.prepared.rare_classes(name, order, self.sources.labelled())
            source = classes.source_batches(labelled, size, **arguments)
        else:
            source = labelled.training_batches(size, seed=order, labels=True, **arguments)
        target = None
        if wanted := kind.target(stage) or ("images" if stage.fourier_beta else None):
            data = self.sources.open("target")
            target = data.training_batches(size, seed=order + 1, labels=wanted == "labels", **arguments)
            if kind.pseudo_labels:
                target = with_pseudo_labels(target, self.prepared.labels(name), data.names, kind.pseudo_labels.name)
        return train.merge_batches(source, target, index * size // count)

    def second_targets(self, name: str, size: int, **arguments: Any) -> Iterator[dict]:
        """Batches of the target in an order of their own, for a stage that mixes target images with each other."""
        seed = build.order_seed(self.config.seed, f"{build.random_name(self.config, name)}, second images")
        return self.sources.open("target").training_batches(size, seed=seed, labels=False, **arguments)

    # All stages

    def run(self) -> dict:
        """Runs what is not done yet, writes results.json and returns it.

        Raises:
          ValueError: labels are missing that a stage or the evaluation needs, or the workdir belongs to other settings.
          Stopped: the program was asked to stop.
        """
        self.begin()
        for name in self.config.stages:
            if not self.is_complete(name):
                self.complete(name)
                if self.forgets and self.config[name].weights is None:  # a network from a file took no step
                    self.steps.forget(name)
            self.write_results()
            if kinds.of(self.config[name]).translates:
                self.prepared.translations(name)
            self.stop_if_wished(name)
        return self.results()

    def begin(self) -> None:
        """Refuses what cannot be run, before anything is computed, and notes the configuration."""
        if "evaluate_at" in self.config and provenance.scores_as_before(self.workdir.path):
            with self.config.unlocked():  # so that all its scores can be compared
                del self.config.evaluate_at
            say("scores are at data.validation.image_size, as this workdir began with a version that had them there")
        for name in self.config.stages:
            devices.check_batch_size(build.batch_size(self.config, name), self.mesh, self.config.micro_batches)
            provenance.check(self.workdir.folder(name), self.config, name)
        missing = [name for name in self.config.stages if not self.is_complete(name)]
        if missing:
            self.networks.check_files(missing)
            for note in scales.notes(self.config) if hosts.is_first() else ():
                say(note)
            self.check_labels()
            provenance.note_data(self.workdir.path, self.sources.noted)
        provenance.note_configuration(self.workdir.path, self.config)

    def is_complete(self, name: str) -> bool:
        """Whether a stage has its result."""
        return hosts.as_the_first_sees(self.workdir.result(name) is not None)

    def complete(self, name: str) -> None:
        """Does what is left of a stage, and of nothing else.

        Raises:
          Busy: another process is at it.
        """
        folder = self.workdir.folder(name)
        others = f"another process is at {folder}: wait for it, or use another workdir"
        with alone(folder / "lock", others, wait=False) if hosts.is_first() else contextlib.nullcontext():
            if self.is_complete(name):  # by another process, in the meantime
                return
            try:
                self.take_stage(name) if self.config[name].weights is not None else self.run_stage(name)
            except BaseException:  # an interruption among them, after which nobody wants to wait for more
                self.steps.ahead.give_up()
                raise

    def stop_if_wished(self, name: str) -> None:
        """Stops after a stage, if the program was asked to."""
        if hosts.is_preempted() or self.interruption.wished:
            raise Stopped(f"stopped after stage {name}")

    def evaluate(self, stage: str | None = None, which: str | None = None) -> dict:
        """Scores of one network on the validation images; see `Networks.choose` for which.

        Of several stages, 'minent+advent', class scores are averaged.

        Returns:
          `evaluate.summary` over each set of classes that papers report, with where the network is from, 'task',
          'data' ('camvid, dusk_test'), 'images', and 'evaluate_at', the setting; of several validation sets those of
          the first, and of each in 'validation'.

        Raises:
          ValueError: there are no labelled validation images, or no network.
        """
        data = first_of(self.config.data, "validation")
        self.sources.labelled_validation()
        several = stage.split("+") if stage and "+" in stage else None
        model, variables, origin = (
            self.networks.average(several, which) if several else self.networks.choose(stage, which)
        )
        confusions = self.scorer(model, origin.get("stage", "network"))(variables)
        images = {"data": f"{data.name}, {data.split}", "images": len(self.sources.open("validation"))}
        images["evaluate_at"] = evaluate.scored_at(self.config)
        scores = self.summary(confusions, subsets=reported_subsets(self.space), dice=True)
        return {"task": self.config.task} | origin | images | scores

    def average(self, stages: Sequence[str]) -> None:
        """Scores what the last networks of complete stages say on average, once: `<a+b>/result.json`.

        Of one stage alone, or without validation images, there is nothing to do.
        """
        name = "+".join(stages)
        if len(stages) < 2 or self.is_complete(name) or not data_sets(self.config.data, "validation"):
            return
        model, variables, origin = self.networks.average(stages, "last")
        scores = self.summary(self.scorer(model, name)(variables))
        self.workdir.finish(name, {"name": name, "last": {"step": origin["step"]} | scores})
        hosts.wait(f"{name} is complete")

    def check_labels(self) -> None:
        """Refuses data sets without the labels that the stages and the evaluation need."""
        sections = {name: self.config[name] for name in self.config.stages}
        oracles = [name for name, stage in sections.items() if kinds.of(stage).target(stage) == "labels"]
        missing = [name for name in self.config.stages if not self.workdir.result(name)]
        trained = [name for name in missing if self.config[name].weights is None]
        purposes = {"source": "which every stage learns from"} if trained else {}
        purposes["validation"] = "which give the scores: set config.data.validation.name=none to do without"
        if oracles:
            purposes["target"] = f"which stage {oracles[0]!r} learns from: leave it out of config.stages"
        for role, purpose in purposes.items():
            for data, source in self.sources.each(role):
                if not source.labelled:
                    raise ValueError(f"the {role} images ({data.name}, {data.split}) have no labels, {purpose}")
                if role == "validation" and not any(
                    (batch["label"] < len(self.space)).any() for batch in source.ordered_batches(1, labels=True)
                ):
                    raise ValueError(evaluate.NOTHING_COUNTS.format(len(source)))
        if trained:  # so that what is wrong with them is said now
            self.sources.labelled()
            target = self.sources.open("target")
            learning = [name for name in trained if kinds.of(self.config[name]).target(self.config[name])]
            if learning and not len(target):
                raise ValueError(f"config.data.labelled_target names all target images, and stage {learning[0]!r} "
                                 "learns from others, without labels: name fewer")  # fmt: skip

    def results(self) -> dict:
        """{'task', 'seed', 'stages': [...]}, of the stages that are complete; values in percent.

        The same however often the run was interrupted: what stages cost is in their own `result.json`.
        """
        stages = self.workdir.results(self.config.stages)
        stages = [{key: value for key, value in stage.items() if key not in ("seconds", "cost")} for stage in stages]
        return {"task": self.config.task, "seed": self.config.seed, "stages": stages}

    def table(self) -> str:
        """The table of the stages that are complete."""
        return tables.table(self.workdir.results(self.config.stages))

    def write_results(self) -> None:
        if hosts.is_first():
            write_json(self.workdir.path / "results.json", self.results())


def card_of(config: ml_collections.ConfigDict, name: str, model: SegmentationNetwork) -> Card:
    """The card of stage `name`, whose network is `model`."""
    return Card.of(config, name, extra_norm=model.extra_norm, network=model)
