"""Class anchors: the target is drawn to mean features of the source, and labelled by the nearest (CAG-UDA).

Zhang et al., NeurIPS 2019. The network that the stage starts from stays as it was and labels target crops twice, by the
nearest anchor and by its own confidence; the trained network learns from both, and the mean features of its classes on
source and target stay near the anchors.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from proda_jax.adaptation import class_anchors, losses, prototypes, views
from proda_jax.adaptation.stages import acts, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages.denoise import move_prototypes
from proda_jax.adaptation.state import TrainState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_nearest

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    (("anchor_margin",), lambda s: s.anchor_weight > 0 or s.distance_weight > 0,
     "anchor_weight or distance_weight above 0"),
    (("label_threshold",), lambda s: s.confident_weight > 0, "confident_weight above 0"),
    (("anchor_gradient",), lambda s: s.distance_weight > 0, "distance_weight above 0"),
)  # fmt: skip


@flax.struct.dataclass
class Inputs:
    """A batch whose views are drawn; images are RGB in [0, 1].

    Attributes:
      source_image, source_label: weak view of the source, [batch, h, w, 3] and [batch, h, w].
      target_image: weak view of the target, [batch, h, w, 3].
      inside: where it shows the image, bool [batch, h, w].
      source_keys, target_keys: of dropout, [batch], or None.
    """

    source_image: jax.Array
    source_label: jax.Array
    target_image: jax.Array
    inside: jax.Array
    source_keys: jax.Array | None = None
    target_keys: jax.Array | None = None


@flax.struct.dataclass
class Labels:
    """What the network is trained with on its output grid, int32 [batch, h', w'].

    Attributes:
      source: the source's labels.
      anchor: of target pixels, by the nearest anchor; `confident`: by the frozen network's confidence.
      means, pixels: class vectors of the source, [batch, classes, channels] and [batch, classes].
      target_pixels: of the target's class vectors, [batch, classes].
    """

    source: jax.Array
    anchor: jax.Array
    confident: jax.Array
    means: jax.Array
    pixels: jax.Array
    target_pixels: jax.Array


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step on one device's share of the batch.

    Args:
      state: train state with anchors, as prototypes.
      batch: 'source': {'image' [batch, height, width, 3] uint8, 'label' [batch, height, width] uint8}, 'target':
        {'image' uint8}, 'slot' [batch] int32.
      teacher: variables of the network that the stage started from.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    slots, target = batch["slot"], batch["target"]["image"]
    source_image, source_label = steps.labelled_view(setup, state, batch["source"], slots, target=target)
    view = steps.weak_target_view(setup, state, target, slots)
    inputs = Inputs(
        source_image,
        source_label,
        views.weak_image(target, view, setup.crop_size) / 255.0,
        views.weak_inside(view, setup.crop_size, setup.crop_size),
        steps.example_keys(state, slots, steps.SOURCE_PASS),
        steps.example_keys(state, slots, steps.WEAK_PASS),
    )
    return update(state, inputs, teacher, setup=setup)


def update(state: TrainState, inputs: Inputs, frozen: Any, *, setup: steps.Setup):
    """The step on views that are drawn already; `frozen`: variables of the network that labels."""
    c, anchors = setup.stage, state.prototypes
    labels = steps.each_micro_batch(setup, lambda part: label(state, part, frozen, setup), inputs)
    seen = anchors.seen
    counted = [inputs.source_label != IGNORE, labels.anchor != IGNORE, labels.confident != IGNORE]
    counts = [losses.count(mask, c.reduction) for mask in counted]
    vectors = [losses.count((pixels > 0) & seen) for pixels in (labels.pixels, labels.target_pixels)]
    pixels = losses.count(jnp.ones(labels.anchor.shape, bool))
    (source, anchor, confident), vectors, pixels = steps.reduce(setup, (counts, vectors, pixels))

    def distance(output: Output, given: jax.Array, total: jax.Array) -> jax.Array:
        means, own = vectors_of(output, given, setup)
        terms = class_anchors.anchor_distances(means, anchors.vectors)
        return losses.share_of_mean(terms, (own > 0) & seen, total)

    def gradient_of(stats: Any, part: tuple[Inputs, Labels]):
        inputs, labels = part

        def source_loss(output: Output):
            fit = losses.upsampled_cross_entropy(
                output.logits, inputs.source_label, total=source, reduction=c.reduction
            )
            apart = distance(output, labels.source, vectors[0])
            return fit + c.distance_weight * apart, {"source_ce": fit, "source_distance": apart}

        def target_loss(output: Output):
            near, sure = (
                losses.cross_entropy(output.logits, given, total=total, reduction=c.reduction)
                for given, total in ((labels.anchor, anchor), (labels.confident, confident))
            )
            apart = distance(output, labels.anchor, vectors[1])
            metrics = {"anchor_ce": near, "confident_ce": sure, "target_distance": apart}
            return c.anchor_weight * near + c.confident_weight * sure + c.distance_weight * apart, metrics

        taken = [
            passes.Pass(inputs.source_image, inputs.source_keys, source_loss, "source"),
            passes.Pass(inputs.target_image, inputs.target_keys, target_loss),
        ]  # one by one, as XLA makes passes but once that are compiled a second time in one program, see `label`
        gradient, stats, metrics = passes.merged(*passes.one_by_one(setup, state, stats, taken))
        for name, given in (("near_anchor", labels.anchor), ("confident", labels.confident)):
            metrics[name] = jnp.sum(given != IGNORE) / jnp.maximum(pixels, 1).astype(jnp.float32)
        return gradient, stats, metrics

    examples = (inputs, labels)
    new_state, metrics = steps.update(setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples))
    return new_state.replace(prototypes=move_prototypes(anchors, labels, setup)), metrics


def label(state: TrainState, inputs: Inputs, frozen: Any, setup: steps.Setup) -> Labels:
    """What a micro-batch is trained with, and which class vectors its passes are going to have.

    The trained network's passes are those that are differentiated later; compiled as one program, they are made once.
    """
    c, anchors = setup.stage, state.prototypes
    said = setup.model.apply(frozen, inputs.target_image, train=False)
    size = said.logits.shape[1:3]
    inside = resize_nearest(inputs.inside, size)
    distances = prototypes.distances(said.features, anchors.vectors)
    anchor = class_anchors.nearest_anchor_labels(distances, c.anchor_margin, anchors.seen)
    p = steps.probabilities(said.logits)
    confident = jnp.where(p.max(-1) > c.label_threshold, jnp.argmax(p, axis=-1), IGNORE)
    source = resize_nearest(inputs.source_label.astype(jnp.int32), size)
    anchor, confident = (jnp.where(inside, given, IGNORE).astype(jnp.int32) for given in (anchor, confident))

    def vectors(image: jax.Array, keys: jax.Array | None, domain: str, given: jax.Array) -> tuple:
        taken = passes.Pass(image, keys, None, domain)
        output, _ = passes.forward(setup, state.params, state.batch_stats, taken)
        return vectors_of(output, given, setup)

    means, pixels = vectors(inputs.source_image, inputs.source_keys, "source", source)
    _, target_pixels = vectors(inputs.target_image, inputs.target_keys, "target", anchor)
    return jax.lax.stop_gradient(Labels(source, anchor, confident, means, pixels, target_pixels))


def vectors_of(output: Output, given: jax.Array, setup: steps.Setup) -> tuple[jax.Array, jax.Array]:
    """Class vectors of a pass whose pixels have these labels, and of how many pixels each is."""
    c = setup.stage
    return class_anchors.class_vectors(
        output.features, output.logits, given, min_pixels=c.prototype_min_pixels, gradient=c.anchor_gradient
    )
