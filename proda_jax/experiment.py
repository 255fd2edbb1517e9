"""An experiment: its stages in order, what each hands to the next, and what is already done."""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from proda_jax import devices, evaluate, hosts, prototypes, provenance, settings, tables, train
from proda_jax.checkpoints import Checkpoints
from proda_jax.data.label_spaces import label_space
from proda_jax.data.pseudo_labels import PseudoLabels, with_pseudo_labels
from proda_jax.files import npz, read_npz, write_atomically
from proda_jax.interruption import Interruption, Stopped
from proda_jax.models import weights
from proda_jax.models.deeplab import DeepLab
from proda_jax.models.torch_names import from_torch
from proda_jax.sources import Sources
from proda_jax.stages import build, denoise, prepare
from proda_jax.stages.step import Setup

LABELS = {"denoise": "soft_label", "distill": "hard_label"}  # what a batch calls the pseudo labels of a kind of stage


class Experiment:
    """A configuration in a workdir.

    The workdir holds a folder for each stage: `checkpoints`, `history.jsonl` (its evaluations), `result.json` (once it
    is complete), and the pseudo labels and prototypes that were made from its network.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: epath.PathLike,
        sources: Sources,
        devices_used: int | None = None,
        interruption: Interruption | None = None,
    ):
        """Prepares to run.

        Args:
          config: checked settings, see `settings.check`.
          workdir: may be in a bucket.
          sources: opens the data sets.
          devices_used: how many devices to use; all by default.
          interruption: whether the program is asked to stop.
        """
        self.interruption = interruption or Interruption()
        self.config, self.workdir, self.sources = config, epath.Path(workdir), sources
        self.mesh = devices.make_mesh(devices_used)
        self.space = label_space(config.data.label_space, config.data.classes, config.data.colors)

    # What there is

    def folder(self, name: str) -> epath.Path:
        return self.workdir / name

    def result(self, name: str) -> dict | None:
        """The result of a stage, or None while it is not complete."""
        path = self.folder(name) / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def model(self, name: str) -> DeepLab:
        """The network of a stage."""
        results = {stage: self.result(stage) or {} for stage in self.config.stages}
        taken = {stage: result["extra_norm"] for stage, result in results.items() if "extra_norm" in result}
        return self.network(extra_norm=settings.has_extra_norm(self.config, name, taken))

    def network(self, *, extra_norm: bool) -> DeepLab:
        """The configuration's network, with or without the extra normalisation."""
        return build.network(self.config.model, len(self.space), extra_norm=extra_norm, axis_name=devices.AXIS)

    def variables(self, name: str) -> Any:
        """The network that a complete stage hands on, replicated."""
        checkpoints = Checkpoints(self.folder(name) / "checkpoints")
        variables = checkpoints.network(self.abstract_variables(self.model(name)), self.config.handover)
        checkpoints.close()
        return variables

    def initialise(self, model: DeepLab, key: jax.Array) -> Any:
        """Freshly initialised variables of a network."""
        example = jnp.zeros((1, *self.config.views.crop_size, 3))
        return model.clone(axis_name=None).init(key, example, train=False)

    def abstract_variables(self, model: DeepLab) -> Any:
        """Shapes and placement (replicated) of a network's variables."""
        shapes = jax.eval_shape(lambda: self.initialise(model, jax.random.key(0)))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated(self.mesh)), shapes
        )

    # One stage

    def initial_variables(self, name: str, model: DeepLab) -> Any:
        """Where the network of stage `name` starts: random, weights from a file, or an earlier stage's network."""
        init, wanted = self.config[name].init, self.abstract_variables(model)
        given: dict = {"params": {}, "batch_stats": {}}
        if init in ("imagenet", "self_supervised"):
            given = from_torch(weights.load(self.config.model[f"{init}_weights"]).arrays, backbone(wanted))
        elif init != "random":
            given = self.variables(init)
        if all(set(wanted[kind]) == set(given[kind]) for kind in wanted):
            return given
        # what the given network lacks (another head, the extra normalisation) starts freshly initialised
        if extra := set(given["params"]) - set(wanted["params"]):
            raise ValueError(f"stage {name!r} starts from a network with {', '.join(extra)}, which its own lacks: set "
                             f"config.{name}.extra_norm to True")  # fmt: skip
        fresh = jax.jit(lambda key: self.initialise(model, key))(build.stage_key(self.config.seed, name))
        return devices.replicate({kind: fresh[kind] | dict(given[kind]) for kind in wanted}, self.mesh)

    def run_stage(self, name: str) -> dict:
        """Runs a stage to its end and returns its result."""
        config, stage, folder = self.config, self.config[name], self.folder(name)
        provenance.remember(folder, config, name)
        target = self.sources.open("target")
        steps_per_epoch = max(len(target) // config.batch_size, 1)
        model = self.model(name)
        teacher_name = stage.get("teacher")
        setup = build.setup(
            config,
            name,
            model=model,
            teacher=self.model(teacher_name) if teacher_name else None,
            steps_per_epoch=steps_per_epoch,
        )
        self.labels(name)  # before training begins, which an interruption lets finish its step
        start = self.initial_prototypes(name) if stage.kind == "denoise" else None
        variables = self.initial_variables(name, model)
        key = build.stage_key(config.seed, name)
        state = devices.replicate(build.create_state(setup, key, variables, start), self.mesh)
        step = devices.map_step(
            functools.partial(build.train_step(stage.kind), setup=setup),
            self.mesh,
            "rbr",
            "rr",
            donate=(0,),
        )
        schedule = train.Schedule(
            stage.steps,
            config.log_every,
            config.evaluate_every,
            config.save_every,
            config.save_minutes,
            config.max_skipped,
        )
        with self.sources.writer(folder) as log:
            _, history = train.train(
                step,
                state,
                self.variables(teacher_name) if teacher_name else None,
                lambda first_step: self.batches(name, setup, first_step),
                self.scorer(model),
                schedule,
                folder,
                self.mesh,
                name,
                log,
                self.interruption,
            )
        return self.finish(name, stage.steps, history)

    def take_stage(self, name: str) -> dict:
        """Takes a stage's network from a file, instead of training it, and returns its result."""
        folder, started = self.folder(name), time.time()
        model, variables = self.network_in(self.config[name].weights)
        score = self.scorer(model)
        scores = score(variables) if score else {}
        checkpoints = Checkpoints(folder / "checkpoints")
        if checkpoints.step():
            raise ValueError(
                f"{folder} holds a network that was trained there for {checkpoints.step()} steps, and config.{name}."
                "weights takes another one from a file: delete that folder, or use another workdir"
            )
        provenance.remember(folder, self.config, name)
        checkpoints.save_network(variables)
        checkpoints.close()
        history = train.History(folder / "history.jsonl", -1)
        history.add({"step": 0, "seconds": round(time.time() - started, 1)} | scores)
        return self.finish(name, 0, history, extra_norm=model.extra_norm)

    def network_in(self, path: str) -> tuple[DeepLab, Any]:
        """The network in a file of any format, and its variables, replicated.

        Raises:
          ValueError: the file holds no whole network, or another one than the configuration's.
        """
        found = weights.load(path)
        model = self.network(extra_norm=found.extra_norm)
        held = {"head": found.head, "depths": found.depths, "width": found.width}
        for setting, value in held.items():
            if value != getattr(model, setting):
                raise ValueError(
                    f"{path} holds a network of {setting} {value}, config.model.{setting} is {getattr(model, setting)}"
                )
        if found.classes != model.classes:
            raise ValueError(
                f"{path} scores {found.classes} classes, label space {self.space.name} has {model.classes}"
            )
        return model, devices.replicate(from_torch(found.arrays, self.abstract_variables(model)), self.mesh)

    def scorer(self, model: DeepLab) -> Callable[[Any], dict] | None:
        """Variables of a network -> its scores on the validation images; None where there are no such images."""
        if self.config.data.validation.name == settings.NONE:
            return None
        validation, confusion = self.sources.open("validation"), evaluate.confusion_step(model, self.mesh)

        def score(variables: Any) -> dict:
            matrix = evaluate.evaluate(
                confusion, variables, validation, self.evaluation_batch, model.classes, self.mesh
            )
            return evaluate.summary(matrix, self.space)

        return score

    def finish(self, name: str, steps: int, history: train.History, **facts: Any) -> dict:
        """Marks a stage as complete; `facts` stand in its result besides."""
        result = {"name": name, "steps": steps, "seconds": history.seconds} | facts
        for which, entry in (("best", history.best), ("last", history.entries[-1])):
            result[which] = {key: value for key, value in entry.items() if key != "seconds"}
        if hosts.is_first():
            write_atomically(self.folder(name) / "result.json", json.dumps(result, indent=2))
        hosts.wait(f"{name} is complete")
        return result

    @property
    def evaluation_batch(self) -> int:
        return self.config.evaluate_batch_size * self.mesh.devices.size

    def batches(self, name: str, setup: Setup, first_step: int) -> Iterator[dict]:
        """This host's training batches of a stage, from a step on."""
        config, stage = self.config, self.config[name]
        index, count = hosts.share()
        arguments = {"first_step": first_step, "shard": (index, count)}
        order = build.order_seed(config.seed, name)
        source = self.sources.open("source").training_batches(config.batch_size, seed=order, labels=True, **arguments)
        target = None
        if stage.kind != "supervised" or stage.target_labels:
            data = self.sources.open("target")
            labelled = stage.kind == "supervised"
            target = data.training_batches(config.batch_size, seed=order + 1, labels=labelled, **arguments)
            if stage.kind in LABELS:
                target = with_pseudo_labels(target, self.labels(name), data.names, LABELS[stage.kind])
        return train.merge_batches(source, target, index * config.batch_size // count)

    # What prepares a stage

    def labels(self, name: str) -> PseudoLabels | None:
        """The pseudo labels that stage `name` learns from, made if they are not there; None if it needs none."""
        make = {"denoise": self.soft_labels, "distill": self.hard_labels}.get(self.config[name].kind)
        return make(name) if make else None

    def soft_labels(self, name: str) -> PseudoLabels:
        """p_{t,0} for stage `name`, made if they are not there."""
        stride = self.config[name].soft_label_stride
        kind = f"soft_labels_{stride}"
        return self.pseudo_labels(name, self.config[name].labels_from, kind, prepare.soft_labels, stride=stride)

    def hard_labels(self, name: str) -> PseudoLabels:
        """Hard pseudo labels for stage `name`, made if they are not there."""
        threshold = self.config[name].label_threshold
        kind = f"hard_labels_{threshold:g}"
        return self.pseudo_labels(name, self.config[name].teacher, kind, prepare.hard_labels, threshold=threshold)

    def pseudo_labels(self, name: str, teacher: str, kind: str, make: Callable, **options: Any) -> PseudoLabels:
        """The filled store of stage `name`'s pseudo labels, made by `make`(model of `teacher`, ..., **options)."""
        stage = self.config[name]
        views = {"scales": tuple(stage.label_scales), "flip": stage.label_flip}
        kind, options = kind + label_tag(**views), options | views
        origin = {"stage": teacher, "kind": kind, "network": self.result(teacher)[self.config.handover], **options}
        if hosts.is_first():
            PseudoLabels(self.folder(teacher) / kind, origin)
        hosts.wait("the folder of pseudo labels is there")
        store = PseudoLabels(self.folder(teacher) / kind, origin)
        target = self.sources.open("target")
        missing = store.missing(target.names)
        hosts.wait("pseudo labels are counted")
        if missing:
            mapped = devices.map_step(functools.partial(make, self.model(teacher), **options), self.mesh, "rb", "b")
            title = f"{kind} from {teacher}"
            prepare.fill_store(
                store, mapped, self.variables(teacher), target, self.evaluation_batch, self.mesh, title
            )
        return store

    def initial_prototypes(self, name: str) -> prototypes.Prototypes | None:
        """The prototypes that stage `name` starts from (Equation 5); None if it uses none."""
        stage = self.config[name]
        if not denoise.needs_momentum_encoder(stage):
            return None
        path = self.folder(name) / "initial_prototypes.npz"
        if not path.exists():
            teacher = stage.init  # whose features they are compared with, as the momentum encoder starts there
            source = self.sources.open("source" if stage.prototype_init == "source" else "target")
            made = prepare.initial_prototypes(
                self.model(teacher), self.variables(teacher), source, stage, self.evaluation_batch, self.mesh
            )
            hosts.wait("prototypes")  # all have looked before one writes
            if hosts.is_first():
                write_atomically(path, npz(vectors=np.asarray(made.vectors), counts=np.asarray(made.counts)))
            hosts.wait("prototypes are written")
        made = prototypes.Prototypes(**{name: jnp.asarray(array) for name, array in read_npz(path).items()})
        unseen = [c for c, seen in zip(self.space.classes, np.asarray(made.seen), strict=True) if not seen]
        if unseen:
            logging.warning("no prototype yet for %s: absent until seen", ", ".join(unseen))
        return made

    # All stages

    def run(self) -> dict:
        """Runs what is not done yet, writes results.json and returns it.

        Raises:
          ValueError: labels are missing that a stage or the evaluation needs, or the workdir belongs to other settings.
          Stopped: the program was asked to stop.
        """
        devices.check_batch_size(self.config.batch_size, self.mesh, self.config.micro_batches)
        for name in self.config.stages:
            provenance.check(self.folder(name), self.config, name)
        if any(self.result(name) is None for name in self.config.stages):
            self.check_labels()
        for name in self.config.stages:
            if self.result(name) is None and self.config[name].weights is not None:
                self.take_stage(name)
            elif self.result(name) is None:
                self.run_stage(name)
            self.write_results()
            if self.interruption.wished:
                raise Stopped(f"stopped after stage {name}")
        return self.results()

    def evaluate(self) -> dict:
        """Scores of the network in `init_from`, or else of the last stage that is complete.

        Raises:
          ValueError: there are no labelled validation images, or no network.
        """
        path, complete = self.config.init_from, [name for name in self.config.stages if self.result(name)]
        if path is not None:
            model, variables = self.network_in(path)
        elif complete:
            path = str(self.folder(complete[-1]))
            model, variables = self.model(complete[-1]), self.variables(complete[-1])
        else:
            raise ValueError(f"{self.workdir} has no complete stage: name a file of weights as config.init_from")
        score = self.scorer(model)
        if score is None or not self.sources.open("validation").labelled:
            raise ValueError("there are no labelled validation images (config.data.validation) to evaluate on")
        return {"task": self.config.task, "network": path} | score(variables)

    def check_labels(self) -> None:
        """Refuses data sets without the labels that the stages and the evaluation need."""
        oracles = [name for name in self.config.stages if self.config[name].get("target_labels", False)]
        trained = [name for name in self.config.stages if self.config[name].weights is None and not self.result(name)]
        purposes = {"source": "which every stage learns from"} if trained else {}
        if self.config.data.validation.name != settings.NONE:
            purposes["validation"] = "which give the scores: set config.data.validation.name=none to do without"
        if oracles:
            purposes["target"] = f"which stage {oracles[0]!r} learns from: leave it out of config.stages"
        for role, purpose in purposes.items():
            if not self.sources.open(role).labelled:
                data = self.config.data[role]
                raise ValueError(f"the {role} images ({data.name}, {data.split}) have no labels, {purpose}")

    def results(self) -> dict:
        """{'task', 'seed', 'stages': [...]}, of the stages that are complete; values in percent.

        The same however often the run was interrupted: how long stages took is in their own `result.json`.
        """
        stages = [result for name in self.config.stages if (result := self.result(name)) is not None]
        stages = [{key: value for key, value in stage.items() if key != "seconds"} for stage in stages]
        return {"task": self.config.task, "seed": self.config.seed, "stages": stages}

    def table(self) -> str:
        """The table of the stages that are complete."""
        return tables.table([result for name in self.config.stages if (result := self.result(name)) is not None])

    def write_results(self) -> None:
        if hosts.is_first():
            write_atomically(self.workdir / "results.json", json.dumps(self.results(), indent=2))


def backbone(variables: Any) -> dict:
    """The part of a network's variables that weights of a classification network fill."""
    return {kind: {k: v for k, v in tree.items() if k in ("backbone", "input")} for kind, tree in variables.items()}


def label_tag(*, scales: Sequence[float], flip: bool) -> str:
    """What the name of a folder of pseudo labels says of how predictions were averaged."""
    at = "" if tuple(scales) == (1.0,) else "_at_" + "_".join(f"{scale:g}" for scale in scales)
    return at + ("_flipped" if flip else "")
