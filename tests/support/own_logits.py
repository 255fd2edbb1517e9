"""A network whose parameters are its outputs, so that a stage's step is compared with a method's whole objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.models.heads import Output

KEEPS_GRADIENT = optax.trace(0.0)
SOURCE, TARGET = 0.0, 1.0  # images that are asked for the outputs of a domain, all pixels of this value


class OwnOutputs:
    """Gives for images of a domain the parameters 'source' or 'target', each {'logits'} and maybe 'features'."""

    def __init__(self, classes: int):
        self.classes = classes

    def apply(self, variables, images, *, train, dropout_keys=None, mutable=False):
        given = variables["params"]
        chosen = jax.tree.map(
            lambda source, target: jnp.where(images.mean() < 0.5, source, target), given["source"], given["target"]
        )
        output = Output(chosen.get("features"), chosen["logits"], (chosen["logits"],))
        return (output, {"batch_stats": variables["batch_stats"]}) if mutable is not False else output


def image(domain: float, batch: int, size: tuple[int, int]) -> jax.Array:
    return jnp.asarray(np.full((batch, *size, 3), domain, np.float32))


def setup_of(stage: ml_collections.ConfigDict, views: ml_collections.ConfigDict, classes: int, **more) -> steps.Setup:
    """What a step needs; its optimizers keep the gradient as they got it."""
    frozen = map(ml_collections.FrozenConfigDict, (stage, views))
    return steps.Setup(OwnOutputs(classes), KEEPS_GRADIENT, *frozen, **more)


def gradient_of(update: Callable, setup: steps.Setup, params: Any, **state) -> tuple[Any, dict]:
    """Gradient of the objective of a step, `update`(state) -> (state, metrics), by each output; and its metrics."""
    state = TrainState(
        step=jnp.int32(0), key=jax.random.key(0), params=params, batch_stats={},
        opt_state=jax.jit(setup.optimizer.init)(params), **state,
    )  # fmt: skip
    new, metrics = update(state)
    return new.opt_state.trace, metrics
