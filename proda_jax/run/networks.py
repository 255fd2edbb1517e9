"""The networks of an experiment: where each stage's starts, what it hands on, and what files hold."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from proda_jax.adaptation.stages import build, kinds
from proda_jax.data.label_spaces import LabelSpace
from proda_jax.models import weights
from proda_jax.models.backbones import BACKBONES, Backbone
from proda_jax.models.contrast_projection import MODULE as PROJECTION
from proda_jax.models.deeplab import FOUNDATION, NO_AUXILIARY, SegmentationNetwork
from proda_jax.models.ensemble import Ensemble
from proda_jax.models.scale_attention import MODULE as SCALE_ATTENTION
from proda_jax.models.weights import published
from proda_jax.models.weights.torch_names import from_torch
from proda_jax.run import settings
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices, hosts
from proda_jax.system.checkpoints import Checkpoints
from proda_jax.system.progress import phase, say


class Networks:
    """Networks by stage; their variables {'params', 'batch_stats'} come replicated over the devices."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Workdir, mesh: Mesh, space: LabelSpace):
        self._config, self._workdir, self._mesh, self._space = config, workdir, mesh, space
        self._said: set[str] = set()  # of what notes were said

    def model(self, name: str) -> SegmentationNetwork:
        """The network of a stage."""
        results = self._workdir.results(self._config.stages)
        taken = {result["name"]: result["extra_norm"] for result in results if "extra_norm" in result}
        network = self.network(extra_norm=settings.has_extra_norm(self._config, name, taken))
        return build.stage_network(network, self._config[name])

    def network(self, *, extra_norm: bool) -> SegmentationNetwork:
        """The configuration's network, with or without the extra normalisation."""
        return build.network(self._config.model, len(self._space), extra_norm=extra_norm, axis_name=devices.AXIS)

    def variables(self, name: str) -> Any:
        """The network that a complete stage hands on, replicated."""
        return self.checkpoint(name, self._config.handover)[0]

    def checkpoint(self, name: str, which: str, *, writable: bool = True) -> tuple[Any, int]:
        """The 'last' or 'best' network of a stage, which need not be complete, replicated, and its step."""
        folder = self._workdir.folder(name) / "checkpoints"
        with contextlib.closing(Checkpoints(folder, writable=writable)) as checkpoints:
            step = checkpoints.step(which)
            if step is None:
                raise ValueError(f"stage {name!r} has no checkpoint with a score, by which the best would be chosen")
            with phase(f"reading the {which} network of {name}"):
                return checkpoints.network(self.abstract_variables(self.model(name)), which), step

    def choose(self, stage: str | None = None, which: str | None = None) -> tuple[SegmentationNetwork, Any, dict]:
        """A network to look at: that in `init_from`, or else one of a stage.

        Args:
          stage: default: the last one that is complete; an oracle only where there is no other.
          which: 'last' or 'best'; default: the one that is handed on.

        Returns:
          The network; its variables, replicated; where it is from, {'network', 'stage', 'checkpoint', 'step'}, the file
          or the stage's folder being the first.

        Raises:
          ValueError: there is no such network.
        """
        path = self._config.init_from
        if path is not None:
            return *self.in_file(path), {"network": path}
        if stage is None:
            complete = [name for name in self._config.stages if self._workdir.result(name) and self.labels(name)]
            if not complete:
                raise ValueError(
                    f"{self._workdir.path} has no complete stage: name a file of weights as config.init_from, or a "
                    "stage with --stage"
                )
            adapted = [name for name in complete if not self._config[name].get("target_labels")]
            stage = (adapted or complete)[-1]
        if stage in self._config.stages and not self.labels(stage):
            role = kinds.of(self._config[stage]).role(self._config[stage])
            raise ValueError(f"stage {stage!r} is {role}, whose network labels nothing: name another stage")
        folder, which = self._workdir.folder(stage), which or self._config.handover
        if stage not in self._config.stages and (folder / "checkpoints").exists():
            raise ValueError(f"{folder} is of a configuration that has other stages than "
                             f"{', '.join(self._config.stages)}: name it, --config=...")  # fmt: skip
        if not (folder / "checkpoints").exists():
            there = [name for name in self._config.stages if (self._workdir.folder(name) / "checkpoints").exists()]
            raise ValueError(f"{folder} has no checkpoints; stages with some: {', '.join(there) or 'none'}")
        variables, step = self.checkpoint(stage, which, writable=False)
        found = {"network": str(folder), "stage": stage, "checkpoint": which, "step": step}
        return self.model(stage), variables, found

    def average(self, stages: Sequence[str], which: str | None = None) -> tuple[Ensemble, tuple, dict]:
        """The networks of several stages as one, otherwise as `choose`.

        Raises:
          ValueError: one of the stages has no such network.
        """
        models, variables, found = zip(*(self.choose(stage, which) for stage in stages), strict=True)
        joined = {key: " + ".join(str(origin[key]) for origin in found) for key in ("network", "stage", "step")}
        return Ensemble(models), variables, joined | {"checkpoint": found[0]["checkpoint"]}

    def labels(self, stage: str) -> bool:
        """Whether a stage's network labels images."""
        return kinds.of(self._config[stage]).segments

    def initialise(
        self, model: SegmentationNetwork, key: jax.Array, modules: Mapping[str, Iterable[str]] | None = None
    ) -> Any:
        """Freshly initialised variables of a network: of these `modules`, or all of them.

        Random numbers of a whole backbone take longer to compile than to draw, so what a file holds is not drawn.
        """
        chosen = modules and tuple((kind, tuple(sorted(names))) for kind, names in sorted(modules.items()))
        return _initialiser(model, tuple(self._config.views.crop_size), chosen)(key)

    def abstract_variables(self, model: SegmentationNetwork) -> Any:
        """Shapes and placement (replicated) of a network's variables."""
        shapes = jax.eval_shape(functools.partial(self.initialise, model), jax.random.key(0))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated(self._mesh)), shapes
        )

    def check_files(self, stages: Iterable[str]) -> None:
        """Reads the files of weights that these stages are going to want, before hours are spent on what comes first.

        Raises:
          ValueError: one of them does not fit.
        """
        fit = set()
        for name in stages:
            stage = self._config[name]
            if stage.weights is not None:
                self.in_file(stage.weights, name)
            elif stage.init in ("imagenet", "self_supervised") and stage.init not in fit:
                self.in_weights(stage.init, self.abstract_variables(self.network(extra_norm=False)))
                fit.add(stage.init)
            if stage.weights is None and stage.get("foundation"):
                self.foundation(name)

    def in_weights(self, kind: str, wanted: Any) -> Any:
        """The backbone in the file of 'imagenet' or 'self_supervised' weights."""
        model = self._config.model
        path, images = model[f"{kind}_weights"], model.weights_input or None
        if path is None:
            path = published.path(model.backbone, model.depths or (), model.width or 0)
            images = images or BACKBONES[model.backbone].images
        read = self.load(path, images)
        self.check_backbone(path, read.backbone)
        return from_torch(read.arrays, backbone(wanted))

    def load(
        self, path: epath.PathLike, images: str | None = None, setting: str = "model.weights_input"
    ) -> weights.Weights:
        """A file of weights; what a reader should know of it is said, once, and which setting names `images`."""
        with phase(f"reading {path}"):
            read = weights.load(path, images=images)
        if str(path) not in self._said and hosts.is_first():
            self._said.add(str(path))
            remedy = f" (config.{setting} says otherwise)" if read.guessed else ""
            say(f"{path}: {'; '.join(read.notes)}{remedy}")
        return read

    def foundation(self, name: str) -> tuple[SegmentationNetwork, Any]:
        """The network whose features those of stage `name` are likened to, replicated: its head says nothing."""
        stage = self._config[name]
        model = SegmentationNetwork(1, BACKBONES[stage.foundation], head="deeplab", dilations=(1,))
        wanted = self.abstract_variables(model)
        setting = f"{name}.foundation_input"
        read = self.load(stage.foundation_file, stage.get("foundation_input") or None, setting)
        self.check_backbone(stage.foundation_file, read.backbone, model.backbone, f"{name}.foundation")
        given = from_torch(read.arrays, backbone(wanted))
        rest = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), wanted)
        return model, devices.replicate({kind: rest[kind] | given[kind] for kind in wanted}, self._mesh)

    def check_backbone(
        self, path: epath.PathLike, found: Backbone, wanted: Backbone | None = None, setting: str = "model.backbone"
    ) -> None:
        """Refuses weights of another backbone than the configuration's, or than the `wanted` one of a `setting`."""
        wanted = wanted or build.backbone_of(self._config.model)
        if not wanted.takes_weights_of(found):
            raise ValueError(
                f"{path} holds a {found.words}; config.{setting} and its sizes are a {wanted.words}: "
                f"{remedy(found, wanted, setting)}name another file"
            )

    def initial(self, name: str, model: SegmentationNetwork) -> Any:
        """Where the network of stage `name` starts: random, weights from a file, or an earlier stage's network."""
        init, wanted = self._config[name].init, self.abstract_variables(model)
        given: dict = {"params": {}, "batch_stats": {}}
        if init in ("imagenet", "self_supervised"):
            given = self.in_weights(init, wanted)
        elif init != "random":
            given = self.variables(init)
            if build.takes_backbone(self._config, name):
                given = backbone(given)
            if model.auxiliary_head == NO_AUXILIARY:
                given = without(given, "auxiliary_head")
            if not model.detail_size:
                given = without(given, SCALE_ATTENTION)
            if not model.projection_channels:
                given = without(given, PROJECTION)
            if not model.foundation_channels:
                given = without(given, FOUNDATION)
        if all(set(wanted[kind]) == set(given[kind]) for kind in wanted):
            return given
        # what the given network lacks (another head, the extra normalisation) starts freshly initialised
        if extra := set(given["params"]) - set(wanted["params"]):
            raise ValueError(f"stage {name!r} starts from a network with {', '.join(extra)}, which its own lacks: set "
                             f"config.{name}.extra_norm to True")  # fmt: skip
        key = build.stage_key(self._config.seed, build.random_name(self._config, name))
        fresh = self.initialise(model, key, {kind: set(wanted[kind]) - set(given[kind]) for kind in wanted})
        return devices.replicate({kind: fresh[kind] | dict(given[kind]) for kind in wanted}, self._mesh)

    def in_file(self, path: str, name: str | None = None) -> tuple[SegmentationNetwork, Any]:
        """The network in a file of any format, and its variables, replicated.

        Args:
          path: the file.
          name: the stage whose network it is to be; None: the configuration's.

        Raises:
          ValueError: the file holds no whole network, or another one than the configuration's.
        """
        images = self._config.model.weights_input or None
        if images and not weights.load(path).guessed:
            images = None
        found = self.load(path, images)
        model = self.network(extra_norm=found.extra_norm)
        model = model if name is None else build.stage_network(model, self._config[name])
        held = {"head": (found.head, model.head), "backbone": (found.backbone.family, model.backbone.family)}
        held |= {size: (getattr(found.backbone, size), getattr(model.backbone, size)) for size in ("depths", "width")}
        for setting, (there, here) in held.items():
            if there != here:
                raise ValueError(f"{path} holds a network of {setting} {there}, config.model.{setting} is {here}")
        if model.auxiliary_head != NO_AUXILIARY == found.layout.auxiliary_head:
            raise ValueError(f"{path} holds a network of one head, config.model.auxiliary_head is "
                             f"{model.auxiliary_head!r}: set it to {NO_AUXILIARY!r}, or name another file")  # fmt: skip
        detail, two = tuple(self._config.model.get("detail_size") or ()), found.layout.scale_attention
        if (model.detail_size and not two) or (two and not detail):
            there, remedy = ("two resolutions", "the size of its windows") if two else ("one resolution", "()")
            raise ValueError(f"{path} holds a network of {there}, config.model.detail_size is {detail}: set it to "
                             f"{remedy}, or name another file")  # fmt: skip
        if found.classes != model.classes:
            raise ValueError(
                f"{path} scores {found.classes} classes, label space {self._space.name} has {model.classes}"
            )
        return model, devices.replicate(from_torch(found.arrays, self.abstract_variables(model)), self._mesh)


def remedy(found: Backbone, wanted: Backbone, setting: str) -> str:
    """Which setting would have a file's backbone taken, 'set ..., or '; '' where none would."""
    if found.family == wanted.family:
        for option in wanted.options:
            if wanted.with_option_of(option, found).takes_weights_of(found):
                return f"set config.{setting.rpartition('.')[0]}.{option} to {getattr(found, option)}, or "
    name = next((name for name, row in BACKBONES.items() if row.takes_weights_of(found)), None)
    return f"set config.{setting} to {name!r}, or " if name else ""


def backbone(variables: Any) -> dict:
    """The part of a network's variables that weights of a classification network fill."""
    return {kind: {k: v for k, v in tree.items() if k in ("backbone", "input")} for kind, tree in variables.items()}


def without(variables: Any, module: str) -> dict:
    """A network's variables without those of one of its modules."""
    return {kind: {k: v for k, v in tree.items() if k != module} for kind, tree in variables.items()}


@functools.lru_cache(maxsize=32)
def _initialiser(
    model: SegmentationNetwork, size: tuple[int, int], modules: tuple[tuple[str, tuple[str, ...]], ...] | None
) -> Callable[[jax.Array], Any]:
    """Key -> freshly initialised variables of a network, compiled; `size` is that of a crop, in pixels."""

    def initialise(key: jax.Array) -> Any:
        variables = model.clone(axis_name=None).init(key, jnp.zeros((1, *size, 3)), train=False)
        if modules is None:
            return variables
        return {kind: {name: variables[kind][name] for name in names} for kind, names in modules}

    return jax.jit(initialise)
