"""Stages 2 and 3: distillation to a student that starts from self-supervised weights (Section 4.3, Equation 12).

Without the divergence it is self-training with hard labels, whose rounds CBST, CRST and BDL repeat: `configs/cbst.py`.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from proda_jax.adaptation import losses, views
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners, resize_nearest

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (("ce_weight", "rce_weight"), lambda s: not s.rectified, "rectified=False"),
    (("reduction", "mean_over"), lambda s: not s.rectified or s.source_weight > 0 or s.regulariser_weight > 0,
     "rectified=False, source_weight above 0 or regulariser_weight above 0"),
    (("distillation_form",), lambda s: s.distillation_weight > 0, "distillation_weight above 0"),
    *acts.OF_SELECTION,
    *acts.OF_REGULARISER,
)


@flax.struct.dataclass
class Inputs:
    """A batch whose views are drawn; images are RGB in [0, 1].

    Attributes:
      source_image, source_label: weak view of the source, [batch, h, w, 3] and [batch, h, w]; None without a source.
      target_image: what student and teacher see, [batch, h, w, 3].
      hard_label: the teacher's confident labels in the weak view, [batch, h, w].
      valid: where student and teacher are compared, bool [batch, h / s, w / s], s being `views.target_stride`.
      strong_view: what labels follow from the weak view on; None where the network sees the weak view.
      source_keys, target_keys: of dropout, [batch], or None.
    """

    source_image: jax.Array | None
    source_label: jax.Array | None
    target_image: jax.Array
    hard_label: jax.Array
    valid: jax.Array
    strong_view: views.StrongView | None = None
    source_keys: jax.Array | None = None
    target_keys: jax.Array | None = None


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of stage 2 or 3 (Algorithm 1, lines 26-33) on one device's share of the batch.

    Args:
      state: the student's train state.
      batch: 'source': {'image', 'label'}, which may be missing, 'target': {'image', 'hard_label' [batch, height, width]
        uint8}, 'slot'.
      teacher: variables of the teacher.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    return update(state, draw_inputs(state, batch, setup), teacher, setup=setup)


def draw_inputs(state: TrainState, batch: steps.Batch, setup: steps.Setup) -> Inputs:
    """Draws the views and applies them to images and labels."""
    source_image, source_label = None, None
    if "source" in batch:
        source_image, source_label = steps.labelled_view(
            setup, state, batch["source"], batch["slot"], target=batch["target"]["image"]
        )
    image, slots = batch["target"]["image"], batch["slot"]
    target = steps.target_views(setup, state, image, slots)
    strong_view = target.strong_view if setup.stage.target_view == "strong" else None
    shown = jnp.where(views.weak_inside(target.weak_view, setup.crop_size, setup.target_size), 0, IGNORE)
    return Inputs(
        source_image,
        source_label,
        (target.weak_image if strong_view is None else target.strong_image) / 255.0,
        views.weak_label(batch["target"]["hard_label"], target.weak_view, setup.crop_size),
        follow(shown, strong_view, setup) != IGNORE,
        strong_view,
        None if source_image is None else steps.example_keys(state, slots, steps.SOURCE_PASS),
        steps.example_keys(state, slots, steps.STRONG_PASS),
    )


def follow(labels: jax.Array, strong_view: views.StrongView | None, setup: steps.Setup) -> jax.Array:
    """Labels of the weak view, at any size, in the view that the network sees."""
    return labels if strong_view is None else views.strong_label(labels, strong_view, setup.crop_size)


def update(state: TrainState, inputs: Inputs, teacher: Any, *, setup: steps.Setup):
    """The step on views that are drawn already (Equation 12)."""
    c = setup.stage
    labels = follow(resize_nearest(inputs.hard_label, setup.target_size), inputs.strong_view, setup)
    of_source = jnp.zeros((0,), bool) if inputs.source_label is None else inputs.source_label != IGNORE
    source_total, target_total, pixels, everywhere, compared = steps.reduce(
        setup,
        (
            *steps.domain_counts(setup, of_source, labels != IGNORE),
            losses.count(steps.regularised(setup, labels != IGNORE), c.reduction),
            losses.count(jnp.ones(labels.shape, bool)),
            losses.count(inputs.valid),
        ),
    )

    def gradient_of(stats: Any, part: tuple[Inputs, jax.Array]):
        inputs, labels = part
        taken = []
        if inputs.source_image is not None and c.source_weight:
            taken.append(
                steps.labelled_pass(
                    setup, inputs.source_image, inputs.source_label, source_total, inputs.source_keys,
                    weight=c.source_weight,
                )  # fmt: skip
            )
        teacher_logits = None
        if c.distillation_weight:
            teacher_logits = setup.teacher.apply(teacher, inputs.target_image, train=False).logits
            teacher_logits = resize_align_corners(teacher_logits, setup.target_size)

        def loss(output: Output):
            heads = [resize_align_corners(logits, setup.target_size) for logits in output.heads]
            if c.rectified:
                pairs = (heads, heads[::-1])
                fits = [losses.rectified_cross_entropy(*pair, labels, total=everywhere) for pair in pairs]
            else:
                fits = [
                    losses.symmetric_cross_entropy(
                        logits, labels, alpha=c.ce_weight, beta=c.rce_weight, total=target_total, reduction=c.reduction
                    )
                    for logits in heads
                ]
            fit = sum(weight * fit for weight, fit in zip((1.0, c.auxiliary_ce_weight), fits, strict=False))
            # where there are no labels, the divergence of two heads is still learnt from
            metrics = {"rectified_ce" if c.rectified else "target_fit": fit}
            logits = resize_align_corners(output.logits, setup.target_size)
            if c.regulariser_weight:
                metrics["regulariser"] = steps.regulariser(setup, logits, labels != IGNORE, pixels)
                fit = fit + c.regulariser_weight * metrics["regulariser"]
            if teacher_logits is not None:
                metrics["distillation"] = losses.distillation(
                    logits, teacher_logits, inputs.valid, form=c.distillation_form, total=compared
                )
                fit = fit + c.distillation_weight * metrics["distillation"]
            return fit, metrics

        taken.append(passes.Pass(inputs.target_image, inputs.target_keys, loss))
        gradient, stats, metrics = passes.merged(*passes.gradients(setup, state, stats, taken))
        labelled = (labels != IGNORE).astype(jnp.float32)
        metrics["labelled"] = losses.share_of_mean(labelled, inputs.valid, compared)
        return gradient, stats, metrics

    return steps.update(
        setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, (inputs, labels))
    )
