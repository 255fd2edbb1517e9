"""The train state: everything that a step changes and a checkpoint keeps."""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from proda_jax.adaptation.prototypes import Prototypes


@flax.struct.dataclass
class DiscriminatorState:
    """Parameters and optimizer state of the discriminator of the adversarial warm-up."""

    params: Any
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """State of one stage, replicated on every device.

    Attributes:
      step: number of steps taken, int32 scalar.
      key: random key of (seed, stage); it never changes, and as data it lets stages share a compiled step.
      params, batch_stats: variables of the trained network.
      opt_state: state of its optimizer.
      ema_params: parameters of the momentum encoder (Section 4.1); its running statistics are the trained network's,
        as in the released code. None in stages without one.
      skipped: steps that were left out because something in them was not finite, in all and in a row, int32 [2].
      prototypes: class centroids with their counts, or None.
      discriminator: or None.
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

    @property
    def variables(self) -> dict:
        """What the trained network is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def average(ema: Any, params: Any, momentum: float) -> Any:
    """Exponential moving average of parameters: momentum * ema + (1 - momentum) * params, leaf by leaf."""
    return jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, ema, params)


def copy(tree: Any) -> Any:
    """A tree in buffers of its own: two leaves that share one cannot both be donated."""
    return jax.tree.map(jnp.copy, tree)
