"""Self-supervised pretraining (SimCLR, Chen et al., 2020): two views of an image are to look alike, and others not.

It stands in for the SimCLRv2 weights of Section 4.3 where there are none to download, or where they are to be made of
the images at hand. What it leaves to later stages is the backbone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.adaptation import losses, views
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.adaptation.views import colour
from proda_jax.models.heads import Output

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (("weights", "reduction", "fourier_beta", "rare_class_sampling", "largest_class"), lambda s: False,
     "a stage that labels pixels"),
)  # fmt: skip


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step on one device's share of the images of both domains.

    Args:
      state: train state.
      batch: 'source' and 'target': {'image' [batch, height, width, 3] uint8}, 'slot' [batch] int32.
      teacher: unused.
      setup: what the step needs besides.

    Returns:
      (state, metrics); 'matched' is the share of views that are nearer to their partner than to any other.
    """
    del teacher
    examples = [
        two_views(setup, state, batch[domain]["image"], batch["slot"] + jnp.int32(offset))
        for domain, offset in (("source", 0), ("target", steps.TARGET_SLOTS))
    ]
    total = steps.reduce(setup, jnp.int32(2 * sum(len(first) for first, _ in examples)))

    def gradient_of(stats: Any, part: list[tuple[jax.Array, jax.Array]]):
        first, second = (jnp.concatenate(images) for images in zip(*part, strict=True))

        def loss(output: Output):
            z = output.logits[:, 0, 0]
            loss, matched = losses.contrast(
                z[: len(first)], z[len(first) :], temperature=setup.stage.contrast_temperature,
                axis_name=setup.axis_name, total=total,
            )  # fmt: skip
            return loss, {"contrast": loss, "matched": matched}

        taken = passes.Pass(jnp.concatenate([first, second]), None, loss)
        return passes.merged(*passes.gradients(setup, state, stats, [taken]))

    return steps.update(setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples))


def two_views(
    setup: steps.Setup, state: TrainState, image: jax.Array, slots: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two crops of each image [batch, height, width, 3] uint8, each with colours of its own: RGB in [0, 1]."""
    c = setup.views
    draws = (
        (steps.SOURCE_VIEW, steps.FIRST_COLOUR, steps.FIRST_GREY),
        (steps.SECOND_VIEW, steps.SECOND_COLOUR, steps.SECOND_GREY),
    )
    found = []
    for geometry, jitter, grey in draws:
        view = views.draw_weak_view(
            steps.example_keys(state, slots, geometry), image.shape[1:3], setup.crop_size,
            base_width=c.base_width, scale=tuple(c.scale), flip=c.flip,
        )  # fmt: skip
        seen = views.weak_image(image, view, setup.crop_size)
        seen = colour.jitter_colour(seen, steps.example_keys(state, slots, jitter), **setup.stage.jitter)
        seen = colour.sometimes_grey(seen, steps.example_keys(state, slots, grey), setup.stage.grey)
        found.append(seen / 255.0)
    return found[0], found[1]
