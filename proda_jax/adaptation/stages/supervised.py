"""Training with true labels: on the source only (the paper's first row), or on source and target (the oracle)."""

from typing import Any

import jax.numpy as jnp

from proda_jax.adaptation import losses
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE


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
    slots = {"source": batch["slot"]}
    if setup.stage.target_labels:
        slots["target"] = batch["slot"] + jnp.int32(steps.TARGET_SLOTS)
    examples = {
        domain: (
            *steps.labelled_view(setup, state, batch[domain], slots[domain]),
            steps.example_keys(state, slots[domain], steps.SOURCE_PASS),
        )
        for domain in slots
    }
    totals = steps.reduce(
        setup,
        {domain: losses.count(labels != IGNORE, setup.stage.reduction) for domain, (_, labels, _) in examples.items()},
    )

    def gradient_of(stats: Any, part: dict):
        gradients, metrics = [], {}
        for domain, (images, labels, keys) in part.items():
            gradient, stats, extra = steps.labelled_gradient(
                setup, state, stats, images, labels, totals[domain], keys, domain
            )
            gradients.append(gradient)
            metrics |= extra
        return steps.add(*gradients), stats, metrics

    return steps.update(setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples))
