"""Training with true labels: on the source only (the paper's first row), or on source and target (the oracle)."""

from typing import Any

import jax.numpy as jnp

from proda_jax.stages import step as steps
from proda_jax.state import TrainState

TARGET_SLOTS = 1 << 20  # target examples draw other views than the source examples in the same place


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of cross entropy on labelled images.

    Args:
      state: train state.
      batch: 'source': {'image' [batch, height, width, 3] uint8, 'label' [batch, height, width] uint8},
        'slot' [batch] int32; for the oracle also 'target' of the same form.
      teacher: unused.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    del teacher
    images, labels = steps.labelled_view(setup, state, batch["source"], batch["slot"])
    keys = steps.example_keys(state, batch["slot"], steps.SOURCE_PASS)
    gradient, stats, metrics = steps.labelled_gradient(setup, state, state.batch_stats, images, labels, keys)
    if setup.stage.target_labels:
        slots = batch["slot"] + jnp.int32(TARGET_SLOTS)
        images, labels = steps.labelled_view(setup, state, batch["target"], slots)
        keys = steps.example_keys(state, slots, steps.SOURCE_PASS)
        more, stats, extra = steps.labelled_gradient(setup, state, stats, images, labels, keys, name="target_ce")
        gradient, metrics = steps.add(gradient, more), metrics | extra
    return steps.update(setup, state, stats, gradient, metrics)
