"""The train state: everything that a step changes and a checkpoint keeps."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp

from proda_jax.adaptation.class_statistics import ClassStatistics
from proda_jax.adaptation.image_pool import ImagePool
from proda_jax.adaptation.prototypes import Prototypes


@flax.struct.dataclass
class DiscriminatorState:
    """Parameters and optimizer state of the discriminators of the adversarial warm-up, or of translation."""

    params: Any
    opt_state: Any


@flax.struct.dataclass
class Sampled:
    """What the momentum encoder says at some positions, of unit length.

    Attributes:
      features: [..., channels]; `outputs`: logits [..., classes].
      counted: whether there is such a position, bool [...].
    """

    features: jax.Array
    outputs: jax.Array
    counted: jax.Array


@flax.struct.dataclass
class LearntPrototypes:
    """Prototypes as parameters (CPSL), of which `TrainState.prototypes` are an average.

    Attributes:
      vectors: [classes, channels] float32.
      opt_state: of their optimizer.
      shares: of the classes, [classes] float32, which do not change.
      queue: of the steps before, [positions, ...], or None.
    """

    vectors: jax.Array
    opt_state: Any
    shares: jax.Array
    queue: Sampled | None = None


@flax.struct.dataclass
class ClassBank:
    """Mean features of each class in the last batches that had any.

    Attributes:
      vectors: [classes, batches, channels].
      held: which of them there are, bool [classes, batches].
    """

    vectors: jax.Array
    held: jax.Array


@flax.struct.dataclass
class ContrastState:
    """What features are contrasted with (SePiCo).

    Attributes:
      statistics: of each class, over all steps.
      bank: or None.
    """

    statistics: ClassStatistics
    bank: ClassBank | None = None


@flax.struct.dataclass
class TrainState:
    """State of one stage, replicated on every device.

    Attributes:
      step: number of steps taken, int32 scalar.
      key: random key of (seed, stage); it never changes, and as data it lets stages share a compiled step.
      params, batch_stats: variables of the trained network.
      opt_state: state of its optimizer.
      ema_params: parameters of the momentum encoder (Section 4.1); its running statistics are the trained network's,
        as in the released code. Of a teacher with running statistics of its own, {'params', 'batch_stats'}. None in
        stages without one.
      skipped: steps that were left out because something in them was not finite, in all and in a row, int32 [2].
      prototypes: class centroids with their counts, or None.
      discriminator: or None.
      class_presence: running mean of how much absent classes are to weigh (see `losses.class_weights`), [classes], or
        None.
      learnt_prototypes, contrast: or None.
      foundation: class prototypes of another network, which do not change, [classes, channels], or None.
      pool: translations that were made before, or None.
      recomputed: statistics of whole target images with which the network is scored and handed on, as of the last
        evaluation, like `batch_stats`; None where these are (see `statistics`).
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: jax.Array | None = None
    ema_params: Any = None
    prototypes: Prototypes | None = None
    discriminator: DiscriminatorState | None = None
    class_presence: jax.Array | None = None
    learnt_prototypes: LearntPrototypes | None = None
    contrast: ContrastState | None = None
    foundation: jax.Array | None = None
    pool: ImagePool | None = None
    recomputed: Any = None

    @property
    def variables(self) -> dict:
        """What the trained network is scored, kept and handed on with."""
        return {"params": self.params, "batch_stats": self.batch_stats if self.recomputed is None else self.recomputed}

    @property
    def rest(self) -> dict:
        """What going on needs besides `variables`, by field; the same fields whether or not statistics are recomputed,
        and those that older versions wrote."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["recomputed"]
        for name in ("class_presence", "learnt_prototypes", "contrast", "foundation", "pool"):  # older ones had none
            if fields[name] is None:
                del fields[name]
        return fields | {"params": None} | ({"batch_stats": None} if self.recomputed is None else {})

    def restored(self, variables: dict, rest: dict) -> "TrainState":
        """The state of which these are `variables` and `rest`; this one is like it."""
        stats = variables["batch_stats"]
        if self.recomputed is None:
            return self.replace(**rest | {"params": variables["params"], "batch_stats": stats})
        return self.replace(**rest | {"params": variables["params"], "recomputed": stats})


def rising_momentum(step: jax.Array | int, momentum: float) -> jax.Array:
    """Momentum of a mean teacher that starts as a copy: min(1 - 1 / (step + 1), momentum) (DACS, DAFormer).

    While it rises, the teacher is the plain mean of the networks after 0, 1, ..., `step` steps.
    """
    return jnp.minimum(1.0 - 1.0 / (jnp.asarray(step, jnp.float32) + 1.0), momentum)


def average(ema: Any, params: Any, momentum: jax.Array | float) -> Any:
    """Exponential moving average of parameters: momentum * ema + (1 - momentum) * params, leaf by leaf."""
    return jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, ema, params)


@jax.jit  # one program for all leaves, where each shape would be one
def copy(tree: Any) -> Any:
    """A tree in buffers of its own: two leaves that share one cannot both be donated."""
    return jax.tree.map(jnp.copy, tree)
