"""An experiment: its stages in order, what each hands to the next, and what is already done."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from proda_jax.adaptation import class_thresholds, patch_modes, prototypes, statistics
from proda_jax.adaptation.stages import build, kinds, prepare
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.adaptation.state import TrainState
from proda_jax.data import translations
from proda_jax.data.checks import data_sets, first_of
from proda_jax.data.decode import cores
from proda_jax.data.joined import Joined, JoinedRareClassOrder
from proda_jax.data.label_spaces import label_space, reported_subsets
from proda_jax.data.pseudo_labels import PseudoLabels, with_pseudo_labels
from proda_jax.data.rare_classes import RareClassOrder, label_pixels
from proda_jax.data.source import ExampleSource
from proda_jax.data.store import Store
from proda_jax.data.translations import Translated, Translations
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.report import score_tables as tables
from proda_jax.run import ahead, evaluate, provenance, scales, train
from proda_jax.run.card import Card
from proda_jax.run.cost import Cost
from proda_jax.run.networks import Networks
from proda_jax.run.records import History
from proda_jax.run.snapshots import Looked, Snapshots
from proda_jax.run.sources import Sources
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices, hosts
from proda_jax.system.checkpoints import Checkpoints
from proda_jax.system.files import alone, is_readable, npz, read_json, read_npz, write_atomically, write_json
from proda_jax.system.interruption import Interruption, Stopped
from proda_jax.system.progress import phase, say

Made = TypeVar("Made", bound=Store)
PATCHES = 100_000  # source patches, at most, whose modes are found


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
    ):
        """Prepares to run.

        Args:
          config: checked settings, see `settings.check`.
          workdir: may be in a bucket.
          sources: opens the data sets.
          devices_used: how many devices to use; all by default.
          interruption: whether the program is asked to stop.
          compiles_ahead: whether the next stage's programs are compiled while one trains, where that is possible.
        """
        self.interruption = interruption or Interruption()
        self.ahead, self.compiles_ahead = ahead.Ahead(), compiles_ahead and ahead.possible(config)
        self.config, self.workdir, self.sources = config, Workdir(workdir), sources
        self.mesh = devices.make_mesh(devices_used)
        self.space = label_space(config.data.label_space, config.data.classes, config.data.colors)
        self.networks = Networks(config, self.workdir, self.mesh, self.space)
        self.looked: Looked | None = None  # read when the first stage wants to
        self.checked: set[epath.Path] = set()  # stores of pseudo labels that have been read once

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
        kind, setup = kinds.of(stage), self.setup(name)
        teacher_name = stage[kind.teacher] if kind.teacher else None
        self.ahead.wait((name, "labels"))
        self.labels(name)  # before training begins, which an interruption lets finish its step
        self.labelled(name)
        start = self.initial_prototypes(name) if kind.prototypes(stage) else None
        shares = self.class_shares(name) if kinds.learns_prototypes(stage) else None
        foundation = self.foundation_prototypes(name) if stage.get("foundation") else None
        modes = self.patch_modes(name) if kind.patch_modes(stage) else None
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
                functools.partial(self.compiled, name, setup, cost),
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
                self.recomputer(name, model) if stage.statistics == "recomputed" else None,
                cost,
            )
        return history

    def setup(self, name: str) -> Setup:
        """What the steps of a stage need."""
        steps_per_epoch = max(len(self.sources.open("target")) // build.batch_size(self.config, name), 1)
        teacher = kinds.of(self.config[name]).teacher
        return build.setup(
            self.config, name, model=self.networks.model(name),
            teacher=self.networks.model(self.config[name][teacher]) if teacher else None,
            steps_per_epoch=steps_per_epoch,
        )  # fmt: skip

    def step(self, setup: Setup) -> Callable:
        """The mapped train step of a stage, (state, batch, teacher) -> (state, metrics); takes over the state's memory.
        """
        step = functools.partial(build.train_step(setup.stage.kind), setup=setup)
        return devices.map_step(step, self.mesh, "rbr", "rr", donate=(0,))

    def compiled(self, name: str, setup: Setup, cost: Cost, *arguments: Any) -> Callable:
        """A stage's step, compiled for arguments like these; the next stage's is compiled meanwhile."""
        began = time.time()
        self.ahead.wait((name, "step"))
        step = self.step(setup).lower(*arguments).compile()
        cost.compiled(step, time.time() - began)
        if self.compiles_ahead:
            self.compile_ahead(after=name)
        return step

    def compile_ahead(self, after: str) -> None:
        """Begins to compile what the stage after this one needs first: what makes its pseudo labels, and its step."""
        later = self.config.stages[self.config.stages.index(after) + 1 :]
        name = next((other for other in later if self.workdir.result(other) is None), None)
        if name is None or not ahead.foreseen(self.config[name]):
            return
        setup = self.setup(name)  # here, as another thread would make one of its own
        self.ahead.begin((name, "labels"), lambda: self.labels_ahead(name))
        self.ahead.begin((name, "step"), lambda: self.step(setup).lower(*self.step_shapes(name, setup)).compile())

    def labels_ahead(self, name: str) -> None:
        """Compiles what makes the pseudo labels of a stage, if it needs some."""
        if kinds.of(self.config[name]).pseudo_labels:
            make, arguments = self.label_maker_shapes(name)
            make.lower(*arguments).compile()

    def label_maker_shapes(self, name: str) -> tuple[Callable, tuple[Any, Any]]:
        """What makes the pseudo labels of a stage that is `ahead.foreseen`, and the shapes of what it takes."""
        needed = kinds.of(self.config[name]).pseudo_labels
        teacher, recipe = self.config[name][needed.made_by], prepare.RECIPES[needed.name](self.config[name])
        variables = self.networks.abstract_variables(self.networks.model(teacher))
        images = (self.evaluation_batch, *self.sources.open("target").image_size, 3)
        images = ahead.placed(jax.ShapeDtypeStruct(images, np.uint8), devices.split(self.mesh))
        return self.label_maker(teacher, recipe), (variables, images)

    def step_shapes(self, name: str, setup: Setup) -> tuple[Any, Any, Any]:
        """Shapes, types and placement of what the step of a stage takes that is `ahead.foreseen`."""
        stage, kind, size = self.config[name], kinds.of(self.config[name]), build.batch_size(self.config, name)
        variables, made, given = self.networks.abstract_variables(setup.model), None, None
        if kind.pseudo_labels:
            make, arguments = self.label_maker_shapes(name)
            label = jax.eval_shape(make, *arguments)
            made = jax.ShapeDtypeStruct((size, *label.shape[1:]), label.dtype)
        if kind.teacher:
            given = self.networks.abstract_variables(setup.teacher)
        elif kind.frozen_start(stage):
            given = variables
        labelled, target = self.sources.labelled(), self.sources.open("target")
        batch = ahead.batch_shapes(stage, size, labelled and labelled.image_size, target.image_size, made)
        state = ahead.placed(ahead.state_shapes(setup, variables), devices.replicated(self.mesh))
        return state, ahead.placed(batch, devices.split(self.mesh)), given

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
        """State of stage `name` -> the same with statistics recomputed from whole target images.

        They come in batches of the training's size, so that statistics do not depend on the number of devices.
        """
        target, size = self.sources.open("target"), build.batch_size(self.config, name)
        count = -(-min(len(target), self.config[name].statistics_images) // size)
        seed = build.order_seed(self.config.seed, "statistics")
        step = statistics.moments_step(model, self.mesh)

        def recomputed(state: TrainState) -> TrainState:
            batches = target.training_batches(size, seed=seed, labels=False, first_step=0, shard=hosts.share())
            images = ({"image": batch["image"]} for batch in itertools.islice(batches, count))
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            with phase(f"{name}: statistics of {min(count * size, len(target))} target images", leave=False):
                return state.replace(
                    recomputed=statistics.recompute(step, variables, devices.prefetch(images, self.mesh))
                )

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
            self.looked = Looked(source, wanted, self.evaluation_batch, network, labels=labelled)
            if hosts.is_first():
                self.looked.write(self.workdir.path / "samples.npz")
        make, teacher = None, None
        kind = kinds.of(stage)
        if kind.rectifies:
            maker, recipe = stage[kind.pseudo_labels.made_by], prepare.RECIPES[kind.pseudo_labels.name](stage)
            make, teacher = self.label_maker(maker, recipe), self.networks.variables(maker)
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
                    confusion, variables, source, self.evaluation_batch, model.classes, self.mesh,
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

    @property
    def evaluation_batch(self) -> int:
        return self.config.evaluate_batch_size * self.mesh.devices.size

    def batches(self, name: str, setup: Setup, first_step: int) -> Iterator[dict]:
        """This host's training batches of a stage, from a step on."""
        config, stage = self.config, self.config[name]
        index, count = hosts.share()
        arguments = {"first_step": first_step, "shard": (index, count)}
        order = build.order_seed(config.seed, build.random_name(config, name))
        size = build.batch_size(config, name)
        labelled, kind = self.labelled(name), kinds.of(stage)
        if labelled is None:
            source = self.second_targets(name, size, **arguments) if kind.pairs_target else None
        elif stage.rare_class_sampling:
            classes = self.rare_classes(name, order, self.sources.labelled())
            source = classes.source_batches(labelled, size, **arguments)
        else:
            source = labelled.training_batches(size, seed=order, labels=True, **arguments)
        target = None
        if wanted := kind.target(stage) or ("images" if stage.fourier_beta else None):
            data = self.sources.open("target")
            target = data.training_batches(size, seed=order + 1, labels=wanted == "labels", **arguments)
            if kind.pseudo_labels:
                target = with_pseudo_labels(target, self.labels(name), data.names, kind.pseudo_labels.name)
        return train.merge_batches(source, target, index * size // count)

    def second_targets(self, name: str, size: int, **arguments: Any) -> Iterator[dict]:
        """Batches of the target in an order of their own, for a stage that mixes target images with each other."""
        seed = build.order_seed(self.config.seed, f"{build.random_name(self.config, name)}, second images")
        return self.sources.open("target").training_batches(size, seed=seed, labels=False, **arguments)

    # What prepares a stage

    def labels(self, name: str) -> PseudoLabels | None:
        """The pseudo labels that stage `name` learns from, made if they are not there; None if it needs none."""
        stage = self.config[name]
        needed = kinds.of(stage).pseudo_labels
        if needed is None:
            return None
        return self.pseudo_labels(stage[needed.made_by], prepare.RECIPES[needed.name](stage))

    def pseudo_labels(self, teacher: str, recipe: prepare.Recipe) -> PseudoLabels:
        """The filled store of pseudo labels that the network of stage `teacher` makes by a recipe."""
        network, folder = self.workdir.result(teacher)[self.config.handover], self.label_folder(teacher, recipe)
        origin = {"stage": teacher, "kind": recipe.folder, "network": network, **recipe.options}
        origin |= recipe.balance or {}
        return self.filled(PseudoLabels, folder, origin, lambda store: self.fill(store, teacher, recipe))

    def fill(self, store: PseudoLabels, teacher: str, recipe: prepare.Recipe) -> None:
        """Makes the labels that a store lacks, or has damaged."""
        target = self.sources.open("target")
        self.make_missing(
            store, target, teacher, lambda: self.label_maker(teacher, recipe), f"{recipe.folder} from {teacher}"
        )

    def filled(self, sort: type[Made], folder: epath.Path, origin: dict, fill: Callable[[Made], None]) -> Made:
        """The store of a sort in a folder, after `fill`, while no other process fills it."""
        if hosts.is_first():
            sort(folder, origin)
        hosts.wait(f"the folder of {sort.what} is there")
        store = sort(folder, origin)
        others = f"another process makes the {sort.what} in {folder}; waiting for it"
        with alone(folder / "lock", others, wait=True) if hosts.is_first() else contextlib.nullcontext():
            fill(store)
        return store

    def make_missing(
        self, store: Store, source: ExampleSource, by: str, make: Callable[[], Callable], title: str
    ) -> None:
        """Makes what a store lacks of a data set, or has damaged, with the network of stage `by`."""
        if hosts.is_first() and store.folder not in self.checked:
            store.remove_damaged(source.names)
        self.checked.add(store.folder)
        if hosts.as_the_first_sees(hosts.is_first() and bool(store.missing(source.names))):
            variables = self.networks.variables(by)
            prepare.fill_store(store, make(), variables, source, self.evaluation_batch, self.mesh, title)

    def translations(self, name: str) -> Translations:
        """The filled store of source images that the network of stage `name` has translated."""
        stage, source = self.config[name], self.sources.labelled()
        how = {"window": tuple(stage.window), "overlap": stage.window_overlap}
        origin = {"stage": name, "network": self.workdir.result(name)[self.config.handover], **how}
        origin["image_size"] = source.image_size

        def make() -> Callable:
            return devices.map_step(functools.partial(prepare.translate, self.networks.model(name), **how), self.mesh,
                                    "rb", "b")  # fmt: skip

        folder, title = self.workdir.folder(name) / translations.FOLDER, f"{name}: translating source images"
        return self.filled(
            Translations, folder, origin, lambda store: self.make_missing(store, source, name, make, title)
        )

    def labelled(self, name: str) -> ExampleSource | None:
        """What stage `name` learns from with labels: with `source_images`, translations in place of the images."""
        labelled, made_by = self.sources.labelled(), self.config[name].get("source_images")
        return labelled if made_by is None else Translated(labelled, self.translations(made_by))

    def label_folder(self, teacher: str, recipe: prepare.Recipe) -> epath.Path:
        """Where the pseudo labels of a recipe lie."""
        return self.workdir.folder(teacher) / recipe.folder

    def label_maker(self, teacher: str, recipe: prepare.Recipe) -> Callable:
        """Mapped (variables of stage `teacher`, images) -> pseudo labels."""
        make = functools.partial(recipe.make, self.networks.model(teacher), **recipe.options)
        if recipe.balance:
            make = functools.partial(make, thresholds=self.class_thresholds(teacher, recipe))  # a program of its own
        return devices.map_step(make, self.mesh, "rb", "b")

    def class_thresholds(self, teacher: str, recipe: prepare.Recipe) -> tuple[float, ...]:
        """Thresholds of each class, from all target images; kept beside the labels."""
        path = self.label_folder(teacher, recipe) / "class_thresholds.json"  # no label's file, which end in npz
        if not hosts.as_the_first_sees(hosts.is_first() and path.exists()):
            model = self.networks.model(teacher)
            predict = functools.partial(prepare.confidences, model, **recipe.measured)
            found = prepare.confidences_by_class(
                devices.map_step(predict, self.mesh, "rb", "r"), self.networks.variables(teacher),
                self.sources.open("target"), self.evaluation_batch, self.mesh,
                f"{recipe.folder}: confidences of each class", classes=model.classes, every=recipe.balance["every"],
            )  # fmt: skip
            if hosts.is_first():
                thresholds, pixels = recipe.thresholds(found).tolist(), [len(own) for own in found]
                if few := [self.space.classes[k] for k in class_thresholds.rare_classes(pixels)[1]]:
                    say(f"{recipe.folder}: less than a thousandth of pixels is predicted as {', '.join(few)}")
                write_json(path, {"classes": self.space.classes, "thresholds": thresholds, "pixels": pixels})
            hosts.wait("thresholds are written")
        kept = read_json(path, f"delete {path}, and it is made again")
        return tuple(kept["thresholds"])

    def rare_classes(self, name: str, seed: int, labelled: ExampleSource) -> RareClassOrder:
        """The order of labelled images of a stage that draws them by their classes, which are counted once."""
        stage, path = self.config[name], self.workdir.folder(name) / "source_class_pixels.npz"
        if not hosts.as_the_first_sees(hosts.is_first() and is_readable(path)):
            if hosts.is_first():
                threads = self.config.data.threads or cores()
                pixels = label_pixels(labelled, len(self.space), threads)
                write_atomically(path, npz(pixels=pixels))
            hosts.wait("classes of the source are counted")
        pixels = read_npz(path)["pixels"]
        how = {"temperature": stage.rare_class_temperature, "min_pixels": stage.rare_class_min_pixels, "seed": seed}
        if isinstance(labelled, Joined):
            return JoinedRareClassOrder(pixels, labelled, build.batch_size(self.config, name), **how)
        return RareClassOrder(pixels, **how)

    def patch_modes(self, name: str) -> np.ndarray:
        """Modes of the source's patches for a stage that aligns these, float32 [modes, 4 * classes]; found once."""
        stage, path = self.config[name], self.workdir.folder(name) / "patch_modes.npz"
        if not hosts.as_the_first_sees(hosts.is_first() and is_readable(path)):
            if hosts.is_first():
                batches = self.sources.labelled().ordered_batches(1, labels=True)
                labels = (label for batch in batches for label in batch["label"])
                with phase(f"{name}: modes of patches"):
                    seed = build.order_seed(self.config.seed, build.random_name(self.config, name))
                    found = patch_modes.patches_of(labels, len(self.space), tuple(stage.patch_size), PATCHES, seed)
                    write_atomically(path, npz(modes=patch_modes.clusters(found, stage.patch_modes, seed)))
            hosts.wait("modes of patches are found")
        return read_npz(path)["modes"]

    def initial_prototypes(self, name: str) -> prototypes.Prototypes:
        """The prototypes that stage `name` starts from (Equation 5)."""
        stage = self.config[name]
        path = self.workdir.folder(name) / "initial_prototypes.npz"
        if not hosts.as_the_first_sees(hosts.is_first() and is_readable(path)):
            teacher = stage.init  # whose features they are compared with, as the momentum encoder starts there
            source = self.labelled(name) if stage.prototype_init == "source" else self.sources.open("target")
            model, variables = self.networks.model(teacher), self.networks.variables(teacher)
            made = prepare.initial_prototypes(model, variables, source, stage, self.evaluation_batch, self.mesh)
            hosts.wait("prototypes")  # all have looked before one writes
            if hosts.is_first():
                write_atomically(path, npz(vectors=np.asarray(made.vectors), counts=np.asarray(made.counts)))
            hosts.wait("prototypes are written")
        made = prototypes.Prototypes(**{name: jnp.asarray(array) for name, array in read_npz(path).items()})
        unseen = [c for c, seen in zip(self.space.classes, np.asarray(made.seen), strict=True) if not seen]
        if unseen:
            say(f"{name}: no prototype yet of {', '.join(unseen)}; they take no part until they are seen")
        return made

    def foundation_prototypes(self, name: str) -> np.ndarray:
        """Class prototypes of the frozen network to which stage `name` likens its features, on the source (DFUDA)."""
        path = self.workdir.folder(name) / "foundation_prototypes.npz"
        if not hosts.as_the_first_sees(hosts.is_first() and is_readable(path)):
            model, variables = self.networks.foundation(name)
            made = prepare.foundation_prototypes(
                model, variables, self.sources.labelled(), len(self.space), self.evaluation_batch, self.mesh
            )
            hosts.wait("prototypes of another network")  # all have looked before one writes
            if hosts.is_first():
                write_atomically(path, npz(vectors=made))
            hosts.wait("prototypes of another network are written")
        return read_npz(path)["vectors"]

    def class_shares(self, name: str) -> np.ndarray:
        """Shares of the classes on the target, by the network that stage `name` starts from (CPSL)."""
        path = self.workdir.folder(name) / "class_shares.npz"
        if not hosts.as_the_first_sees(hosts.is_first() and is_readable(path)):
            teacher, target = self.config[name].init, self.sources.open("target")
            model, variables = self.networks.model(teacher), self.networks.variables(teacher)
            made = prepare.class_shares(model, variables, target, self.evaluation_batch, self.mesh)
            hosts.wait("shares of classes")  # all have looked before one writes
            if hosts.is_first():
                write_atomically(path, npz(shares=made))
            hosts.wait("shares of classes are written")
        return read_npz(path)["shares"]

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
            self.write_results()
            if kinds.of(self.config[name]).translates:
                self.translations(name)
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
                self.ahead.give_up()
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
            labelled, target = self.sources.labelled(), self.sources.open("target")
            if labelled is not None and not labelled.labelled:
                raise ValueError("the target images that config.data.labelled_target names have no labels: say where "
                                 "they are, config.data.target.labels, or leave the list out")  # fmt: skip
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
