"""Prototypes that are learnt by class-balanced self-labelling, for stages that weigh labels by them (CPSL).

Li et al., CVPR 2022. What the momentum encoder says at a few positions of each image is assigned to the prototypes so
that classes have given shares, and the prototypes learn these assignments. An average of them weighs pseudo labels.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from proda_jax.adaptation import losses, self_labelling
from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import LearntPrototypes, Sampled, TrainState, average
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output


@flax.struct.dataclass
class Contrasted:
    """Features of the network that are contrasted with the queue's.

    Attributes:
      places: of the network's output, [batch, positions].
      labels: their classes, [batch, positions]; IGNORE where there is none.
    """

    places: jax.Array
    labels: jax.Array


def begin(start: Prototypes, shares: jax.Array, queue: int, optimizer: Any) -> LearntPrototypes:
    """Before the first step: from prototypes [classes, channels], with shares [classes] and room for `queue` positions.

    A class that has no prototype yet begins at the mean of the others.
    """
    middle = jnp.sum(jnp.where(start.seen[:, None], start.vectors, 0.0), 0) / jnp.maximum(start.seen.sum(), 1)
    vectors = jnp.where(start.seen[:, None], start.vectors, middle)
    classes, channels = vectors.shape
    held = None
    if queue:  # checkpoints hold no empty arrays
        held = Sampled(jnp.zeros((queue, channels)), jnp.zeros((queue, classes)), jnp.zeros(queue, bool))
    return LearntPrototypes(vectors, optimizer.init(vectors), jnp.asarray(shares, jnp.float32), held)


def sample(state: TrainState, output: Output, shown: jax.Array, slots: jax.Array, number: int) -> Sampled:
    """What the momentum encoder says at as many positions of each image.

    Args:
      state: holds the random key.
      output: of the momentum encoder, [batch, h, w, ...].
      shown: which positions show the image, bool [batch, h, w].
      slots: place of each example in the global batch, [batch].
      number: of positions; at most all.
    """
    chosen = places(steps.example_keys(state, slots, steps.SELF_LABELS), shown.shape[1:], number)
    features, outputs = (self_labelling.unit(taken(values, chosen)) for values in (output.features, output.logits))
    return jax.lax.stop_gradient(Sampled(features, outputs, taken(shown, chosen)[..., 0]))


def places(keys: jax.Array, grid: tuple[int, int], number: int) -> jax.Array:
    """As many different positions of a grid, in row-major order, [batch, number]; at most all. `keys`: [batch]."""
    every = grid[0] * grid[1]
    return jax.vmap(lambda key: jax.random.permutation(key, every)[: min(number, every)])(keys)


def taken(values: jax.Array, places: jax.Array) -> jax.Array:
    """What [batch, h, w, ...] has at `places`, [batch, number, the rest in one axis]."""
    flat = values.reshape(len(values), values.shape[1] * values.shape[2], -1)
    return jnp.take_along_axis(flat, places[..., None], axis=1)


def contrast(
    features: jax.Array, contrasted: Contrasted, queue: Sampled, total: jax.Array, setup: steps.Setup
) -> jax.Array:
    """The share of the contrast of the network's features with the queue's, which have the momentum encoder's classes.

    Args:
      features: of the network, [batch, h, w, channels].
      contrasted: which of them, and their classes.
      queue: of steps before.
      total: features of the whole batch that are contrasted.
      setup: of the step.

    Returns:
      float32 scalar.
    """
    chosen = taken(features, contrasted.places)
    return self_labelling.contrast_with_queue(
        chosen.reshape(-1, chosen.shape[-1]),
        contrasted.labels.reshape(-1),
        queue.features,
        jnp.where(queue.counted, jnp.argmax(queue.outputs, axis=-1), IGNORE),
        temperature=setup.stage.temperature,
        total=total,
    )


def objective(
    vectors: jax.Array, sampled: Sampled, queue: Sampled | None, shares: jax.Array, temperature: float, total: jax.Array
) -> jax.Array:
    """The share of the self-labelling loss: with assignments of features, and with those of the network's outputs.

    Args:
      vectors: prototypes, [classes, channels].
      sampled: [batch, positions, ...]; `queue`: [held, ...], which is assigned together with each image, or None.
      shares: of the classes, [classes].
      temperature: of the softmax over cosines.
      total: positions of the whole batch that count.
    """
    fixed = jax.lax.stop_gradient(vectors)
    queue = jax.tree.map(lambda x: x[0, :0], sampled) if queue is None else queue

    def assigned(scores: jax.Array, held: jax.Array) -> jax.Array:
        def of_image(own: jax.Array, counted: jax.Array) -> jax.Array:
            together = jnp.concatenate([queue.counted, counted])
            return self_labelling.sinkhorn(jnp.concatenate([held, own]), shares, counted=together)[len(held) :]

        return jax.vmap(of_image)(scores, sampled.counted)

    targets = (
        assigned(self_labelling.cosines(sampled.features, fixed), self_labelling.cosines(queue.features, fixed)),
        assigned(sampled.outputs, queue.outputs),
    )
    return sum(
        self_labelling.self_labelling(
            sampled.features, vectors, target, temperature=temperature, counted=sampled.counted, total=total
        )
        for target in targets
    )


def move(
    state: TrainState, sampled: Sampled, setup: steps.Setup
) -> tuple[LearntPrototypes, Prototypes, steps.Metrics]:
    """The prototypes after a step, their average by which labels are weighed, and the loss."""
    c, learnt = setup.stage, state.learnt_prototypes
    total = steps.reduce(setup, losses.count(sampled.counted))

    def loss_of(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = objective(vectors, sampled, learnt.queue, learnt.shares, c.temperature, total)
        return c.self_label_weight * loss, loss

    gradient, loss = steps.reduce(setup, jax.grad(loss_of, has_aux=True)(learnt.vectors))
    updates, opt_state = setup.prototype_optimizer.update(gradient, learnt.opt_state, learnt.vectors)
    vectors = optax.apply_updates(learnt.vectors, updates)
    if setup.axis_name is not None:
        sampled = jax.lax.all_gather(sampled, setup.axis_name, tiled=True)
    queue = None if learnt.queue is None else jax.tree.map(pushed, learnt.queue, sampled)
    averaged = average(state.prototypes.vectors, vectors, c.prototype_momentum)
    averaged = jnp.where(state.prototypes.seen[:, None], averaged, vectors)
    moved = learnt.replace(vectors=vectors, opt_state=opt_state, queue=queue)
    return moved, Prototypes(averaged, state.prototypes.counts + 1.0), {"self_labelling": loss}


def pushed(held: jax.Array, new: jax.Array) -> jax.Array:
    """The last of `held` [n, ...] and then of `new` [batch, positions, ...], as many as there were."""
    return jnp.concatenate([held, new.reshape(-1, *new.shape[2:]).astype(held.dtype)])[-len(held) :]
