"""The compiled programs of an experiment, apart from any data: each stage's step, evaluation and prediction."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from proda_jax.adaptation import prototypes
from proda_jax.adaptation.stages import build, kinds, prepare, step
from proda_jax.data.label_spaces import label_space
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.run import evaluate, settings
from proda_jax.system import devices

TRACED_CALLS = 2  # of a program, where its kernels are looked at
PROGRAM = "program.hlo"  # of a traced program: its compiled text, beside the trace
WHOLE_IMAGES = ("evaluation", "prediction")  # programs beside the stages' steps


@dataclass(frozen=True)
class Program:
    """A mapped function, and how its arguments are made.

    Attributes:
      function: compiled on its first call.
      makers: a function of a random key for each argument.
      kinds: 'r' replicated or 'b' split over the devices, for each argument.
      mesh: the devices.
      images: that one call takes in, over all devices: source and target, or whole images.
      changes: how many of the first arguments the first results take the place of.
    """

    function: Callable
    makers: tuple[Callable[[jax.Array], Any], ...]
    kinds: str
    mesh: Mesh
    images: int
    changes: int = 0

    def abstract(self) -> tuple[Any, ...]:
        """Shapes, types and placement of the arguments."""
        def placed(make: Callable, kind: str) -> Any:
            sharding = self.placement(kind)
            shapes = jax.eval_shape(make, jax.random.key(0))
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

        return tuple(map(placed, self.makers, self.kinds))

    def concrete(self) -> tuple[Any, ...]:
        """The arguments: random images and labels, the network as it starts."""
        key = jax.random.key(0)  # an argument: XLA would compute what depends on constants alone while it compiles
        return tuple(
            jax.jit(make, out_shardings=self.placement(kind))(key)
            for make, kind in zip(self.makers, self.kinds, strict=True)
        )

    def placement(self, kind: str) -> NamedSharding:
        return NamedSharding(self.mesh, {"r": P(), "b": P(devices.AXIS)}[kind])


class Programs:
    """The programs of a configuration on a mesh, which may be of devices that are not there."""

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.space = label_space(config.data.label_space, config.data.classes, config.data.colors)

    def named(self, name: str) -> Program:
        """The step of a stage of the configuration, or one of `WHOLE_IMAGES`."""
        return getattr(self, name)() if name in WHOLE_IMAGES else self.step(name)

    def model(self, *, extra_norm: bool = False) -> SegmentationNetwork:
        return build.network(self.config.model, len(self.space), extra_norm=extra_norm, axis_name=devices.AXIS)

    def variables(self, model: SegmentationNetwork, key: jax.Array) -> Any:
        """Freshly initialised variables."""
        example = jnp.zeros((1, *self.config.views.crop_size, 3))
        return model.clone(axis_name=None).init(key, example, train=False)

    @functools.cached_property
    def shapes(self) -> Any:
        """Shapes of the network's variables."""
        return jax.eval_shape(functools.partial(self.variables, self.model()), jax.random.key(0))

    def setup(self, name: str) -> step.Setup:
        """What the steps of a stage need."""
        stage, teacher = self.config[name], None
        model = self.model(extra_norm=settings.has_extra_norm(self.config, name))
        if role := kinds.of(stage).teacher:
            teacher = self.model(extra_norm=settings.has_extra_norm(self.config, stage[role]))
        return build.setup(self.config, name, model=model, teacher=teacher, steps_per_epoch=1000)

    def step(self, name: str) -> Program:
        """A stage's train step; its state is donated, as in training."""
        setup, stage = self.setup(name), self.config[name]

        def state(key: jax.Array) -> Any:
            start = None
            if kinds.of(stage).prototypes(stage):
                variables = jax.eval_shape(functools.partial(self.variables, setup.model), key)
                channels = prepare.feature_channels(setup.model.clone(axis_name=None), variables)
                start = prototypes.empty(len(self.space), channels)
            return build.create_state(setup, key, self.variables(setup.model, key), start)

        def teacher(key: jax.Array) -> Any:
            if setup.teacher:
                return self.variables(setup.teacher, key)
            return self.variables(setup.model, key) if kinds.of(stage).frozen_start(stage) else None

        train_step = functools.partial(build.train_step(stage.kind), setup=setup)
        function = devices.map_step(train_step, self.mesh, "rbr", "rr", donate=(0,))
        makers = (state, functools.partial(self.batch, stage), teacher)
        return Program(function, makers, "rbr", self.mesh, 2 * self.config.batch_size, changes=1)

    def batch(self, stage: ml_collections.ConfigDict, key: jax.Array) -> dict:
        """A global batch of a stage."""
        count, data = self.config.batch_size, self.config.data
        source = self.labelled((count, *data.source.image_size), key)
        target = self.labelled((count, *data.target.image_size), key)
        label = target.pop("label")
        kind = kinds.of(stage)
        if kind.pseudo_labels:
            name, recipe = kind.pseudo_labels.name, prepare.RECIPES[kind.pseudo_labels.name](stage)
            options = recipe.options | ({"thresholds": (1.0,) * len(self.space)} if recipe.balance else {})
            make = functools.partial(recipe.make, self.model().clone(axis_name=None), **options)
            made = jax.eval_shape(make, self.shapes, target["image"])
            logits = jax.random.normal(key, made.shape)
            soft = jnp.issubdtype(made.dtype, jnp.floating)
            target[name] = jax.nn.softmax(logits).astype(made.dtype) if soft else label
        elif kind.target(stage) == "labels":
            target["label"] = label
        return {"source": source, "target": target, "slot": jnp.arange(count, dtype=jnp.int32)}

    def labelled(self, shape: tuple[int, ...], key: jax.Array) -> dict:
        """Images and labels at random, uint8 [*shape, 3] and [*shape]."""
        image = jax.random.bits(key, (*shape, 3), jnp.uint8)
        return {"image": image, "label": jax.random.bits(key, shape, jnp.uint8) % len(self.space)}

    def whole_images(self, key: jax.Array) -> dict:
        """What one evaluation step takes in."""
        count = self.config.evaluate_batch_size * self.mesh.devices.size
        batch = self.labelled((count, *self.config.data.validation.image_size), key)
        return batch | {"record": jnp.arange(count, dtype=jnp.int32)}

    def evaluation(self) -> Program:
        """Confusion matrix of whole images."""
        model = self.model()
        makers = (
            functools.partial(self.variables, model),
            lambda _: jnp.zeros((len(self.space),) * 2, jnp.int32),
            self.whole_images,
        )
        count = self.config.evaluate_batch_size * self.mesh.devices.size
        return Program(evaluate.confusion_step(model, self.mesh), makers, "rrb", self.mesh, count)

    def prediction(self) -> Program:
        """Classes of whole images."""
        model = self.model()
        function = devices.map_step(functools.partial(evaluate.predict, model), self.mesh, "rb", "b")
        makers = (functools.partial(self.variables, model), lambda key: self.whole_images(key)["image"])
        return Program(function, makers, "rb", self.mesh, self.config.evaluate_batch_size * self.mesh.devices.size)


def devices_in_words(found: Sequence[jax.Device]) -> str:
    """How many devices there are, and on how many chips, if these are fewer."""
    places = [tuple(coords) for device in found if (coords := getattr(device, "coords", None)) is not None]
    chips = len(set(places)) if len(places) == len(found) else len(found)
    return f"{len(found)} device{'s' * (len(found) > 1)}" + (f" on {chips} chips" if chips < len(found) else "")
