"""Warm-up: adversarial alignment of the output (AdaptSegNet, single level; Section 5.1, Algorithm 1, line 1).

With `label_weight` it is self-training, too, by hard labels of the target images (BDL, Li et al., CVPR 2019).
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from proda_jax.adaptation import losses, views
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners

SOURCE, TARGET = 0.0, 1.0  # what the discriminator calls the domains


@flax.struct.dataclass
class Inputs:
    """Images as the network sees them, RGB in [0, 1] [batch, h, w, 3], and labels [batch, h, w]; those of the target or
    None."""

    source_image: jax.Array
    source_label: jax.Array
    target_image: jax.Array
    target_label: jax.Array | None = None
    source_keys: jax.Array | None = None
    target_keys: jax.Array | None = None


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of warm-up: source cross entropy and adversarial loss, then the discriminator.

    Args:
      state: train state with a discriminator.
      batch: 'source': {'image', 'label'}, 'target': {'image'} and with `label_weight` 'hard_label', 'slot' [batch]
        int32; images and labels uint8.
      teacher: unused.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    del teacher
    source_image, source_label = steps.labelled_view(
        setup, state, batch["source"], batch["slot"], target=batch["target"]["image"]
    )
    target = batch["target"]["image"]
    view = steps.weak_target_view(setup, state, target, batch["slot"])
    label = None
    if setup.stage.label_weight:
        label = views.weak_label(batch["target"]["hard_label"], view, setup.crop_size)
    inputs = Inputs(
        source_image,
        source_label,
        views.weak_image(target, view, setup.crop_size) / 255.0,
        label,
        steps.example_keys(state, batch["slot"], steps.SOURCE_PASS),
        steps.example_keys(state, batch["slot"], steps.WEAK_PASS),
    )
    return update(state, inputs, setup=setup)


def update(state: TrainState, inputs: Inputs, *, setup: steps.Setup):
    """The step on images whose views are drawn already."""
    c, size, critic = setup.stage, inputs.source_image.shape[1:3], state.discriminator
    labels = (inputs.source_label, inputs.target_label)
    total, target_total = steps.reduce(
        setup, [None if label is None else losses.count(label != IGNORE, c.reduction) for label in labels]
    )

    def judge(params: Any, logits: jax.Array, domain: float) -> jax.Array:
        scores = setup.discriminator.apply({"params": params}, steps.probabilities(resize_align_corners(logits, size)))
        return losses.gan_loss(scores, domain, kind=c.gan, total=jnp.int32(scores.size * setup.shares))

    def gradient_of(stats: Any, part: Inputs):
        def source_loss(output: Output):
            loss = losses.upsampled_cross_entropy(
                output.logits, part.source_label, total=total, reduction=c.reduction
            )
            return loss, {"source_ce": loss, "logits": output.logits}

        def target_loss(output: Output):
            loss = c.adversarial_weight * judge(critic.params, output.logits, SOURCE)
            metrics = {"adversarial": loss, "logits": output.logits}
            if part.target_label is not None:
                metrics["target_fit"] = losses.upsampled_cross_entropy(
                    output.logits, part.target_label, total=target_total, reduction=c.reduction
                )
                loss = loss + c.label_weight * metrics["target_fit"]
            return loss, metrics

        source_gradient, stats, source = steps.pass_gradient(
            setup, state, stats, part.source_image, part.source_keys, source_loss, "source"
        )
        target_gradient, stats, target = steps.pass_gradient(
            setup, state, stats, part.target_image, part.target_keys, target_loss
        )
        source_logits, target_logits = source.pop("logits"), target.pop("logits")

        def discriminator_loss(params: Any) -> jax.Array:
            return judge(params, source_logits, SOURCE) + judge(params, target_logits, TARGET)

        loss, critics_gradient = jax.value_and_grad(discriminator_loss)(critic.params)
        gradients = steps.add(source_gradient, target_gradient), critics_gradient
        return gradients, stats, source | target | {"discriminator": loss}

    (gradient, critics_gradient), stats, metrics = steps.accumulate(setup, gradient_of, state.batch_stats, inputs)
    updates, opt_state = setup.discriminator_optimizer.update(critics_gradient, critic.opt_state, critic.params)
    critic = critic.replace(params=optax.apply_updates(critic.params, updates), opt_state=opt_state)
    state, metrics = steps.update(setup, state, gradient, stats, metrics)
    return state.replace(discriminator=critic), metrics
