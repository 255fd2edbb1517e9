"""Training with true labels: on the source only (the paper's first row), or on source and target (the oracle).

With a regulariser of what the network predicts on target images, whose labels are not read, it is adaptation by entropy
(FDA, Yang and Soatto, CVPR 2020).
"""

from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.adaptation import losses, views
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (("regulariser_weight",), lambda s: not s.target_labels, "target_labels=False"),
    (("regulariser",), lambda s: s.regulariser_weight > 0, "regulariser_weight above 0"),
)


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of cross entropy on labelled images.

    Args:
      state: train state.
      batch: 'source': {'image' [batch, height, width, 3] uint8, 'label' [batch, height, width] uint8},
        'slot' [batch] int32; for the oracle also 'target' of the same form; {'image'} of it where target images are
        regularised, or lend the source their amplitudes.
      teacher: unused.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    del teacher
    c, slots = setup.stage, {"source": batch["slot"]}
    if c.target_labels:
        slots["target"] = batch["slot"] + jnp.int32(steps.TARGET_SLOTS)
    lent = {"source": batch["target"]["image"] if c.fourier_beta else None}
    examples: dict[str, Any] = {
        domain: (
            *steps.labelled_view(setup, state, batch[domain], slots[domain], target=lent.get(domain)),
            steps.example_keys(state, slots[domain], steps.SOURCE_PASS),
        )
        for domain in slots
    }
    counts = {domain: losses.count(labels != IGNORE, c.reduction) for domain, (_, labels, _) in examples.items()}
    if c.regulariser_weight:
        examples["unlabelled"] = unlabelled_view(setup, state, batch["target"]["image"], batch["slot"])
        counts["unlabelled"] = losses.count(examples["unlabelled"][1], c.reduction)
    totals = steps.reduce(setup, counts)

    def gradient_of(stats: Any, part: dict):
        taken = []
        for domain in slots:
            images, labels, keys = part[domain]
            taken.append(steps.labelled_pass(setup, images, labels, totals[domain], keys, domain))
        if "unlabelled" in part:
            taken.append(regularised_pass(setup, part["unlabelled"], totals["unlabelled"]))
        return passes.merged(*passes.gradients(setup, state, stats, taken))

    return steps.update(setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples))


def unlabelled_view(
    setup: steps.Setup, state: TrainState, image: jax.Array, slots: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weak view of target images, RGB in [0, 1] [batch, h, w, 3]; where it shows them, bool [batch, h / s, w / s], s
    being `views.target_stride`; keys of dropout [batch]."""
    view = steps.weak_target_view(setup, state, image, slots)
    inside = views.weak_inside(view, setup.crop_size, setup.target_size)
    image = views.weak_image(image, view, setup.crop_size) / 255.0
    return image, inside, steps.example_keys(state, slots, steps.WEAK_PASS)


def regularised_pass(setup: steps.Setup, examples: tuple, total: jax.Array) -> passes.Pass:
    """A pass with the regulariser on target images, from `unlabelled_view`; `total`: pixels of them in the batch."""
    c = setup.stage
    images, inside, keys = examples

    def loss(output: Output):
        logits = resize_align_corners(output.logits, setup.target_size)
        value = losses.class_balance(logits, c.regulariser, mask=inside, total=total, reduction=c.reduction)
        return c.regulariser_weight * value, {"regulariser": value}

    return passes.Pass(images, keys, loss)
