"""What stages are given besides batches: made once from data and earlier networks, and kept in the workdir."""

import contextlib
import functools
from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from proda_jax.adaptation import class_thresholds, patch_modes, prototypes
from proda_jax.adaptation.stages import build, kinds, prepare
from proda_jax.data import translations
from proda_jax.data.decode import cores
from proda_jax.data.joined import Joined, JoinedRareClassOrder
from proda_jax.data.label_spaces import LabelSpace
from proda_jax.data.pseudo_labels import PseudoLabels
from proda_jax.data.rare_classes import RareClassOrder, label_pixels
from proda_jax.data.source import ExampleSource
from proda_jax.data.store import Store
from proda_jax.data.translations import Translated, Translations
from proda_jax.run.networks import Networks
from proda_jax.run.sources import Sources
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices, hosts
from proda_jax.system.files import alone, is_readable, npz, read_json, read_npz, write_atomically, write_json
from proda_jax.system.progress import phase, say

Made = TypeVar("Made", bound=Store)
PATCHES = 100_000  # source patches, at most, whose modes are found


class Prepared:
    """What the stages of an experiment are given; each method makes what is not there yet.

    Attributes:
      mesh: the devices.
      evaluation_batch: images that networks label at a time, over all devices.
      checked: stores that have been read once.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Workdir, sources: Sources, networks: Networks, mesh: Mesh,
        space: LabelSpace,
    ):  # fmt: skip
        """Makes nothing yet.

        Args:
          config: checked settings.
          workdir: where it is kept.
          sources: the data sets.
          networks: of the stages.
          mesh: the devices.
          space: the classes.
        """
        self.config, self.workdir, self.sources, self.networks = config, workdir, sources, networks
        self.mesh, self.space = mesh, space
        self.evaluation_batch = config.evaluate_batch_size * mesh.devices.size
        self.checked: set[epath.Path] = set()

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
