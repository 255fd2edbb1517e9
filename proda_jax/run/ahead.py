"""What the next stage compiles first, compiled while a stage trains.

Compiling takes one core or two for a minute in which the devices have nothing to do. JAX remembers, for as long as the
process lives, what a function was compiled to for arguments of these shapes, types and placement; so all that is needed
is to know these before there are any arguments.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding

from proda_jax.adaptation import prototypes
from proda_jax.adaptation.stages import build, kinds, prepare
from proda_jax.adaptation.stages.setup import Setup

Shape = jax.ShapeDtypeStruct


def possible(config: ml_collections.ConfigDict) -> bool:
    """Whether programs are compiled while others run.

    Not on GPUs, where compiling measures kernels: beside training these would be measured wrongly, and take memory that
    training counts on. Not on several hosts, which have to compile in the same order.
    """
    return config.get("compile_ahead", True) and jax.process_count() == 1 and jax.default_backend() != "gpu"


class Ahead:
    """Work in the background, one piece after another."""

    def __init__(self):
        self._pool, self._begun = ThreadPoolExecutor(1, "compiling ahead"), {}

    def begin(self, what: Any, work: Callable[[], None]) -> None:
        """Begins a piece of work after those before it, unless it was begun already."""
        if what not in self._begun:
            self._begun[what] = self._pool.submit(work)

    def wait(self, what: Any) -> None:
        """Returns once that piece is done, if it was begun.

        What went wrong with it is not said: it will once more, where somebody waits for the result.
        """
        if what in self._begun:
            self._begun[what].exception()

    def give_up(self) -> None:
        """Forgets what is not begun yet, so that the program's end waits for one piece at most."""
        for work in self._begun.values():
            work.cancel()
        self._begun.clear()


def foreseen(stage: ml_collections.ConfigDict) -> bool:
    """Whether shapes of all that a stage's step takes are known before what it needs is made."""
    kind = kinds.of(stage)
    by_class = kind.pseudo_labels is not None and prepare.RECIPES[kind.pseudo_labels.name](stage).balance is not None
    return not (kind.patch_modes(stage) or stage.get("foundation") or by_class or stage.weights is not None)


def state_shapes(setup: Setup, variables: Any) -> Any:
    """Shapes of the state that a stage starts from.

    Args:
      setup: of a stage that is `foreseen`.
      variables: shapes of its network's variables.
    """
    start = None
    if kinds.of(setup.stage).prototypes(setup.stage):
        channels = prepare.feature_channels(setup.model.clone(axis_name=None), variables)
        start = jax.eval_shape(functools.partial(prototypes.empty, setup.model.classes, channels))
    create = functools.partial(build.create_state, setup)
    return jax.eval_shape(create, jax.eval_shape(jax.random.key, 0), variables, start)


def batch_shapes(
    stage: ml_collections.ConfigDict, size: int, source: tuple[int, int] | None, target: tuple[int, int],
    made: Shape | None,
) -> dict:  # fmt: skip
    """Shapes of the batches that a stage's step takes, over all devices.

    Args:
      stage: its settings.
      size: images of each domain in a batch.
      source, target: height and width of their images; None where no labelled images are learnt from.
      made: pseudo labels of a batch, where the stage learns from some.
    """
    kind, slots = kinds.of(stage), Shape((size,), jnp.int32)
    batch = {"slot": slots}

    def images(where: tuple[int, int]) -> dict:
        return {"image": Shape((size, *where, 3), jnp.uint8)}

    def labels(where: tuple[int, int]) -> dict:
        return {"label": Shape((size, *where), jnp.uint8)}

    if source is not None:
        batch["source"] = images(source) | labels(source)
        if stage.rare_class_sampling:
            batch["source"]["rare_class"] = slots
    elif kind.pairs_target:
        batch["source"] = images(target)
    if wanted := kind.target(stage) or ("images" if stage.fourier_beta else None):
        batch["target"] = images(target) | (labels(target) if wanted == "labels" else {})
        if kind.pseudo_labels:
            batch["target"][kind.pseudo_labels.name] = made
    return batch


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    """Shapes of arrays that lie so on the devices."""
    return jax.tree.map(
        lambda x: Shape(x.shape, x.dtype, sharding=sharding, weak_type=getattr(x, "weak_type", False)), shapes
    )
