"""One-stage self-training on mixed images: DACS, DAFormer and MIC, and with prototypes of ours.

A mean teacher labels target images as they are; the network learns from the source, and from target images on which
half of the classes of a source image are pasted (ClassMix), by the teacher's labels and by how sure it is of them.
Without labelled images, half of the classes of another target image are pasted, by the teacher's labels of that.
Settings add the feature distance to the network that the stage started from (DAFormer), consistency of masked images
(MIC), two resolutions (HRDA), contrast of features with those of classes (SePiCo), likeness to another network's
(DFUDA), and the weights of Equation 3 in place of the teacher's confidence.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation import confidence, feature_distance, losses, prototypes, views
from proda_jax.adaptation.stages import acts, contrast, kinds, learnt_prototypes, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages.denoise import follow_prototypes
from proda_jax.adaptation.state import Sampled, TrainState, average, rising_momentum
from proda_jax.adaptation.views import block_mask, class_mix, detail
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners, resize_nearest
from proda_jax.models.two_resolutions import crop


def _is_strong(stage: ml_collections.ConfigDict) -> bool:
    """Whether any image goes through what the section `strong` says."""
    masked = stage.masked_weight > 0 and stage.mask_strong
    return stage.mixed_weight > 0 or masked or stage.contrast_weight > 0


STRONG = "images that are mixed, masked (with mask_strong) or contrasted"
ACTS_BESIDE: tuple[acts.Rule, ...] = (
    *acts.OF_SELF_LABELLING,
    (
        ("temperature", "unseen_prototypes", "prototype_momentum", "prototype_update", "prototype_min_pixels",
         "prototype_init", "prototype_init_by", "prototype_init_limit", "prototype_init_min_pixels",
         "prototype_init_passes", "prototype_distance", "self_label_weight"),
        lambda s: s.weighting == "prototypes",
        "weighting 'prototypes'",
    ),
    (("contrast_with", "contrast_temperature", "contrast_channels", "contrast_share", "contrast_after"),
     lambda s: s.contrast_weight > 0, "contrast_weight above 0"),
    (("contrast_bank",), lambda s: s.contrast_weight > 0 and s.contrast_with == "bank", "contrast_with 'bank'"),
    (("foundation_file", "foundation_input", "foundation_weight", "foundation_temperature"),
     lambda s: s.foundation is not None, "foundation"),
    (("weight_over",), lambda s: s.weighting == "share", "weighting 'share'"),
    (("label_threshold",), lambda s: s.weighting in ("share", "pixels"), "weighting 'share' or 'pixels'"),
    (("margins_of",), lambda s: any(s.ignored_margins), "ignored_margins other than zero"),
    (("mix_classes",), lambda s: s.mixed_weight > 0, "mixed_weight above 0"),
    (("strong.jitter_probability", "strong.blur_probability"), _is_strong, STRONG),
    (("strong.brightness", "strong.contrast", "strong.saturation", "strong.hue", "strong_colours"),
     lambda s: _is_strong(s) and s.strong.jitter_probability > 0, f"strong.jitter_probability above 0 and {STRONG}"),
    (("strong.blur_sigma",), lambda s: _is_strong(s) and s.strong.blur_probability > 0,
     f"strong.blur_probability above 0 and {STRONG}"),
    (("mask_block", "mask_ratio", "mask_strong", "mask_source"), lambda s: s.masked_weight > 0,
     "masked_weight above 0"),
    (("feature_distance_classes",), lambda s: s.feature_distance_weight > 0, "feature_distance_weight above 0"),
    (("feature_distance_share",), lambda s: s.feature_distance_weight > 0 and len(s.feature_distance_classes) > 0,
     "feature_distance_weight above 0 and feature_distance_classes"),
)  # fmt: skip


@flax.struct.dataclass
class Inputs:
    """A batch whose views are drawn; images are RGB in [0, 1].

    Attributes:
      source_image, source_label: weak view of the source, [batch, h, w, 3] and [batch, h, w]; without labelled images,
        of other target images, and None.
      target_image: weak view of the target, [batch, h, w, 3], which the teacher sees.
      inside: where it shows the image, bool [batch, h, w].
      kept: where its labels may count, by the ignored margins, bool [batch, h, w].
      slots: place of each example in the global batch, [batch].
      source_keys, mixed_keys, masked_keys, target_keys: of dropout, [batch], or None.
      source_inside, source_kept: `inside` and `kept` of other target images in place of the source's, or None.
      source_places, mixed_places, masked_places, target_places: top and left of the window of each image that is seen
        at full size, int32 [batch, 2], or None where there is one resolution.
    """

    source_image: jax.Array
    source_label: jax.Array | None
    target_image: jax.Array
    inside: jax.Array
    kept: jax.Array
    slots: jax.Array
    source_keys: jax.Array | None = None
    mixed_keys: jax.Array | None = None
    masked_keys: jax.Array | None = None
    target_keys: jax.Array | None = None
    source_inside: jax.Array | None = None
    source_kept: jax.Array | None = None
    source_places: jax.Array | None = None
    mixed_places: jax.Array | None = None
    masked_places: jax.Array | None = None
    target_places: jax.Array | None = None


@flax.struct.dataclass
class TeacherPredictions:
    """What the teacher says of target images.

    Attributes:
      label: pseudo labels, int32 [batch, h, w]; IGNORE outside the image.
      sure: largest probability of each pixel, [batch, h, w].
      trust: weight of the label's class by the prototypes, [batch, h, w], or None.
      means, pixels: class means of each image, for Equation 6, or None.
      sampled: what prototypes learn, where they do, or None.
    """

    label: jax.Array
    sure: jax.Array
    trust: jax.Array | None = None
    means: jax.Array | None = None
    pixels: jax.Array | None = None
    sampled: Sampled | None = None


@flax.struct.dataclass
class Pair:
    """An image that the network learns from by labels that count differently: mixed, or masked.

    Attributes:
      image: RGB in [0, 1], [batch, h, w, 3].
      label, weight: [batch, h, w].
      keys, places: of dropout and of windows, see `Inputs`.
    """

    image: jax.Array
    label: jax.Array
    weight: jax.Array
    keys: jax.Array | None = None
    places: jax.Array | None = None


@flax.struct.dataclass
class Contrasted:
    """What is known of the classes of projected features, on their grid.

    Attributes:
      source, target: labels, IGNORE where none has most of a position, int32 [batch, h, w].
      image: target images as the network sees them for it, RGB in [0, 1], [batch, height, width, 3].
    """

    source: jax.Array
    target: jax.Array
    image: jax.Array


@flax.struct.dataclass
class Totals:
    """What losses and metrics are divided by, over the whole batch, int32 scalars.

    Attributes:
      source: source labels that count, or None; `pixels`: all pixels; `inside`: those that show the image.
      source_detail, detail: of `source` and `pixels` those in windows at full size, or None.
      things: positions whose features are compared with the frozen network's, or None.
      source_contrast, target_contrast: positions whose features are contrasted, or None.
      likened: source positions whose features are compared with another network's prototypes, or None.
    """

    source: jax.Array | None
    pixels: jax.Array
    inside: jax.Array
    source_detail: jax.Array | None = None
    detail: jax.Array | None = None
    things: jax.Array | None = None
    source_contrast: jax.Array | None = None
    target_contrast: jax.Array | None = None
    likened: jax.Array | None = None


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step on one device's share of the batch.

    Args:
      state: train state with the teacher's parameters; with prototypes where these weigh labels.
      batch: 'source': {'image' [batch, height, width, 3] uint8, 'label' [batch, height, width] uint8, and where images
        are drawn by their classes, 'rare_class' [batch] int32}, 'target': {'image' uint8}, 'slot' [batch] int32.
        Without labelled images, 'source' has other target images, and no labels.
      teacher: variables of the network that the stage started from, where the feature distance is asked for.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    return update(state, draw_inputs(state, batch, setup), teacher, setup=setup)


def draw_inputs(state: TrainState, batch: steps.Batch, setup: steps.Setup) -> Inputs:
    """Draws the views and applies them."""
    slots, target = batch["slot"], batch["target"]["image"]
    if "label" in batch["source"]:
        source, others = steps.labelled_view(setup, state, batch["source"], slots, target), {}
    else:
        source, others = other_targets(state, batch["source"]["image"], slots, setup)
    view = steps.weak_target_view(setup, state, target, slots)
    inside = views.weak_inside(view, setup.crop_size, setup.crop_size)

    def keys(purpose: int) -> jax.Array:
        return steps.example_keys(state, slots, purpose)

    if setup.model.detail_size:
        purposes = {"source": steps.SOURCE_DETAIL, "mixed": steps.MIXED_DETAIL,
                    "masked": steps.MASKED_DETAIL, "target": steps.TARGET_DETAIL}  # fmt: skip
        size, unit = setup.model.detail_size, setup.model.detail_unit
        others |= {
            f"{name}_places": detail.draw_places(keys(purpose), setup.crop_size, size, unit)
            for name, purpose in purposes.items()
        }
    return Inputs(
        *source,
        views.weak_image(target, view, setup.crop_size) / 255.0,
        inside,
        inside & outside_margins(view, target.shape[:3], setup),
        slots,
        keys(steps.SOURCE_PASS),
        keys(steps.MIXED_PASS),
        keys(steps.MASKED_PASS),
        keys(steps.TARGET_PASS),
        **others,
    )


def other_targets(state: TrainState, images: jax.Array, slots: jax.Array, setup: steps.Setup) -> tuple[tuple, dict]:
    """Weak views of target images that stand in the source's place, without labels; and where these will count."""
    view = steps.weak_target_view(setup, state, images, slots + jnp.int32(steps.TARGET_SLOTS))
    inside = views.weak_inside(view, setup.crop_size, setup.crop_size)
    kept = inside & outside_margins(view, images.shape[:3], setup)
    image = views.weak_image(images, view, setup.crop_size) / 255.0
    return (image, None), {"source_inside": inside, "source_kept": kept}


def outside_margins(view: views.WeakView, shape: tuple[int, int, int], setup: steps.Setup) -> jax.Array:
    """Where labels are not in an ignored margin of the crop, or of the whole image, bool [batch, h, w].

    `shape`: number, height and width of the whole images.
    """
    c = setup.stage
    if c.margins_of == "crop":
        kept = confidence.outside_margins(setup.crop_size, c.ignored_margins)
        return jnp.broadcast_to(kept, shape[:1] + setup.crop_size)
    kept = jnp.broadcast_to(confidence.outside_margins(shape[1:], c.ignored_margins), shape)
    return views.weak_label(jnp.where(kept, 0, IGNORE), view, setup.crop_size) != IGNORE


def update(state: TrainState, inputs: Inputs, frozen: Any, *, setup: steps.Setup):
    """The step on views that are drawn already; `frozen`: variables that the feature distance is to."""
    c = setup.stage
    taught = steps.each_micro_batch(setup, lambda part: teacher_predictions(state, part, setup), inputs)
    weight, pasted = label_weight(taught, inputs, setup), None
    if inputs.source_label is None:
        others = inputs.replace(
            target_image=inputs.source_image, inside=inputs.source_inside, kept=inputs.source_kept
        )
        said = steps.each_micro_batch(setup, lambda part: teacher_predictions(state, part, setup), others)
        pasted = said.label, label_weight(said, others, setup)
    mixed = mix(state, inputs, taught.label, weight, setup, pasted)
    masked = mask(state, inputs, taught.label, weight, setup) if c.masked_weight else None
    things = thing_mask(inputs.source_label, setup) if c.feature_distance_weight else None
    contrasted, known = None, state.contrast
    if c.contrast_weight:
        contrasted = contrast_of(state, inputs, taught.label, weight, setup)
        said = steps.each_micro_batch(setup, lambda image: teacher_pass(state, image, setup).projected,
                                      inputs.source_image)  # fmt: skip
        known = contrast.remember(known, said, contrasted.source, setup)
    totals = count_totals(inputs, things, contrasted, setup)

    def gradient_of(stats: Any, part: tuple):
        inputs, taught, mixed, masked, things, contrasted = part
        taken = []
        if inputs.source_label is not None:
            taken.append(source_pass(state, inputs, things, frozen, contrasted, known, totals, setup))
        if contrasted is not None:
            taken.append(target_pass(state, inputs, contrasted, known, totals, setup))
        for name, pair in (("mixed", mixed), ("masked", masked)):
            if pair is not None:
                taken.append(pair_pass(name, pair, totals, setup))
        gradient, stats, metrics = passes.merged(*passes.gradients(setup, state, stats, taken))
        sure = (taught.sure >= c.label_threshold).astype(jnp.float32)
        metrics["confident"] = losses.share_of_mean(sure, inputs.inside, totals.inside)
        return gradient, stats, metrics

    examples = (inputs, taught.replace(means=None, pixels=None, sampled=None), mixed, masked, things, contrasted)
    new_state, metrics = steps.update(setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples))
    new_state, extra = follow(state, new_state.replace(contrast=known), taught, setup)
    return new_state, metrics | extra


def teacher_predictions(state: TrainState, inputs: Inputs, setup: steps.Setup) -> TeacherPredictions:
    """The teacher's pass over target images as they are, without dropout."""
    size, c = inputs.target_image.shape[1:3], setup.stage
    output = teacher_pass(state, inputs.target_image, setup)
    p = steps.probabilities(resize_align_corners(output.logits, size))
    label, trust, means, pixels, sampled = jnp.argmax(p, axis=-1), None, None, None, None
    if c.weighting == "prototypes":
        features = output.features
        distances = prototypes.DISTANCES[c.prototype_distance](features, state.prototypes.vectors)
        # distances are resized, and not features: these would be the largest tensors of a step
        omega = prototypes.assignment_weights(
            resize_align_corners(distances, size), c.temperature, state.prototypes.seen
        )
        label = jnp.argmax(p * omega, axis=-1)  # Equation 3
        trust = jnp.sum(omega * jax.nn.one_hot(label, setup.model.classes), axis=-1)
        shown = resize_nearest(inputs.inside, features.shape[1:3])
        if kinds.learns_prototypes(c):
            sampled = learnt_prototypes.sample(state, output, shown, inputs.slots, c.self_label_pixels)
        else:
            assigned = jnp.where(shown, jnp.argmax(output.logits, axis=-1), IGNORE)
            means, pixels = prototypes.class_means(
                features, assigned, setup.model.classes, min_pixels=c.prototype_min_pixels
            )
    label = jnp.where(inputs.inside, label, IGNORE).astype(jnp.int32)
    return jax.lax.stop_gradient(TeacherPredictions(label, p.max(-1), trust, means, pixels, sampled))


def teacher_pass(state: TrainState, images: jax.Array, setup: steps.Setup) -> Output:
    """The teacher on images: by its own running statistics, or by those of the batch as in the released codes."""
    if setup.stage.teacher_statistics == "averaged":
        return setup.model.apply(dict(state.ema_params), images, train=False)
    variables = {"params": state.ema_params, "batch_stats": state.batch_stats}
    if setup.stage.teacher_statistics == "batch":
        return setup.model.apply(variables, images, train=True, mutable=["batch_stats"])[0]
    return setup.model.apply(variables, images, train=False)


def label_weight(taught: TeacherPredictions, inputs: Inputs, setup: steps.Setup) -> jax.Array:
    """How much each pseudo label counts, float32 [batch, h, w]; zero in the ignored margins."""
    c, over_batch = setup.stage, None
    if c.weighting == "share":
        if c.weight_over == "batch":
            counts = confidence.count_confident(taught.sure, inputs.inside, c.label_threshold)
            over_batch = steps.reduce(setup, counts)
        weight = confidence.share_weight(taught.sure, inputs.inside, c.label_threshold, over_batch=over_batch)
    elif c.weighting == "pixels":
        weight = confidence.pixel_weight(taught.sure, c.label_threshold)
    else:
        weight = jnp.ones(taught.sure.shape, jnp.float32) if c.weighting == "none" else taught.trust
    return jnp.where(inputs.kept, weight, 0.0)


def mix(
    state: TrainState, inputs: Inputs, label: jax.Array, weight: jax.Array, setup: steps.Setup,
    pasted: tuple[jax.Array, jax.Array] | None = None,
) -> Pair:  # fmt: skip
    """ClassMix: half of the classes of each source image on a target image.

    Args:
      state, inputs, setup: of the step.
      label, weight: of the target images, [batch, h, w].
      pasted: the same of what is pasted; None: source images, whose true labels count in full.
    """
    c = setup.stage
    its_label, its_weight = (inputs.source_label, jnp.ones_like(weight)) if pasted is None else pasted
    present = class_mix.classes_present(its_label, setup.model.classes)
    if c.mix_classes == "batch":
        anywhere = steps.reduce(setup, present.sum(0, dtype=jnp.int32)) > 0
        present = jnp.broadcast_to(anywhere, present.shape)
    chosen = class_mix.draw_classes(steps.example_keys(state, inputs.slots, steps.MIXED_CLASSES), present)
    shown = class_mix.paste_mask(its_label, chosen)
    image = class_mix.paste(shown, inputs.source_image, inputs.target_image)
    return Pair(
        strong(image, steps.example_keys(state, inputs.slots, steps.MIXED_COLOUR), setup),
        class_mix.paste(shown, its_label, label),
        class_mix.paste(shown, its_weight, weight),
        inputs.mixed_keys,
        inputs.mixed_places,
    )


def mask(state: TrainState, inputs: Inputs, label: jax.Array, weight: jax.Array, setup: steps.Setup) -> Pair:
    """Target images of which blocks are hidden, with labels and weights of the whole ones (MIC).

    With `mask_source`, every second place of the global batch has the source's image and true labels instead.
    """
    c, image = setup.stage, inputs.target_image
    if c.mask_source:
        of_source = (inputs.slots % 2 == 0)[:, None, None]
        image = jnp.where(of_source[..., None], inputs.source_image, image)
        label = jnp.where(of_source, inputs.source_label, label)
        weight = jnp.where(of_source, 1.0, weight)
    if c.mask_strong:
        image = strong(image, steps.example_keys(state, inputs.slots, steps.MASKED_COLOUR), setup)
    visible = block_mask.draw_block_mask(
        steps.example_keys(state, inputs.slots, steps.MASK), image.shape[1:3], block=c.mask_block, ratio=c.mask_ratio
    )
    zero = state.batch_stats["input"]["mean"]  # what is zero once the network has centred it
    return Pair(block_mask.hide(image, visible, zero), label, weight, inputs.masked_keys, inputs.masked_places)


def contrast_of(
    state: TrainState, inputs: Inputs, label: jax.Array, weight: jax.Array, setup: steps.Setup
) -> Contrasted:
    """Which features are contrasted; `label`, `weight`: of the target images, [batch, h, w]."""
    image = strong(inputs.target_image, steps.example_keys(state, inputs.slots, steps.TARGET_COLOUR), setup)
    counted = jnp.where(weight > 0, label, IGNORE)
    return Contrasted(contrast.cell_labels(inputs.source_label, setup), contrast.cell_labels(counted, setup), image)


def contrast_term(
    state: TrainState, output: Output, labels: jax.Array, known: Any, total: jax.Array, setup: steps.Setup
) -> tuple[jax.Array, jax.Array]:
    """The contrast times its weight, nothing at first; and as it is."""
    value = contrast.loss(output.projected, labels, known, total, setup)
    return jnp.where(state.step >= setup.stage.contrast_after, setup.stage.contrast_weight, 0.0) * value, value


def labels_on_backbone_grid(labels: jax.Array, setup: steps.Setup) -> jax.Array:
    """Labels [batch, height, width] on the grid of the backbone's last map."""
    grid = setup.model.backbone.level_sizes(setup.model.context_size(labels.shape[1:3]))[-1]
    return resize_nearest(labels, grid)


def strong(images: jax.Array, keys: jax.Array, setup: steps.Setup) -> jax.Array:
    """Colour jitter and blur by the section `strong`."""
    return views.strong_photometric(images, keys, colours=setup.stage.strong_colours, **setup.stage.strong)


def thing_mask(source_label: jax.Array, setup: steps.Setup) -> jax.Array:
    """Positions of the backbone's grid that are mostly of one of the classes whose features are compared, bool."""
    c, seen = setup.stage, setup.model.context_size(source_label.shape[1:3])
    grid = setup.model.backbone.level_sizes(seen)[-1]
    if not c.feature_distance_classes:
        return jnp.ones((len(source_label), *grid), bool)
    found = feature_distance.dominant_label(source_label, grid, setup.model.classes, c.feature_distance_share)
    return feature_distance.is_any_of(found, tuple(c.feature_distance_classes))


def count_totals(
    inputs: Inputs, things: jax.Array | None, contrasted: Contrasted | None, setup: steps.Setup
) -> Totals:
    """Counts what losses and metrics of the whole batch are divided by."""
    labels, size = inputs.source_label, setup.model.detail_size
    own = crop(labels, inputs.source_places, size) if size and labels is not None else None
    local = Totals(
        source=None if labels is None else losses.count(labels != IGNORE, setup.stage.reduction),
        pixels=losses.count(jnp.ones(inputs.inside.shape, bool)),
        inside=losses.count(inputs.inside),
        source_detail=None if own is None else losses.count(own != IGNORE, setup.stage.reduction),
        detail=losses.count(jnp.ones((len(inputs.inside), *size), bool)) if size else None,
        things=None if things is None else losses.count(things),
        source_contrast=None if contrasted is None else losses.count(contrasted.source != IGNORE),
        target_contrast=None if contrasted is None else losses.count(contrasted.target != IGNORE),
        likened=losses.count(labels_on_backbone_grid(labels, setup) != IGNORE) if setup.stage.foundation else None,
    )
    return steps.reduce(setup, local)


def at_both(
    setup: steps.Setup, output: Output, places: jax.Array | None, maps: tuple[jax.Array, ...],
    totals: tuple[jax.Array, jax.Array | None], loss: Callable[..., jax.Array],
) -> jax.Array:  # fmt: skip
    """A loss of logits; with two resolutions, that of both together and that of the windows alone (HRDA).

    Args:
      setup, output: of the pass.
      places: of the windows, see `Inputs`.
      maps: labels, and weights if there are any, [batch, h, w].
      totals: what the losses of the whole images and of the windows are divided by.
      loss: (logits, *maps, total=) -> its share.
    """
    whole = loss(output.logits, *maps, total=totals[0])
    if output.detail is None:
        return whole
    own = (crop(values, places, setup.model.detail_size) for values in maps)
    weight = setup.stage.detail_weight
    return (1.0 - weight) * whole + weight * loss(output.detail, *own, total=totals[1])


def source_pass(
    state: TrainState, inputs: Inputs, things: jax.Array | None, frozen: Any, contrasted: Contrasted | None,
    known: Any, totals: Totals, setup: steps.Setup,
) -> passes.Pass:  # fmt: skip
    """The source with its cross entropy, and feature distance and contrast if asked for."""
    c, fixed = setup.stage, None
    if things is not None:
        _, kept = setup.model.apply(frozen, inputs.source_image, train=False, mutable=["intermediates"])
        (fixed,) = kept["intermediates"]["encoded"]
    cross_entropy = functools.partial(losses.upsampled_cross_entropy, reduction=c.reduction)

    def loss(output: Output):
        fit = at_both(
            setup, output, inputs.source_places, (inputs.source_label,), (totals.source, totals.source_detail),
            cross_entropy,
        )  # fmt: skip
        total, metrics = fit, {"source_ce": fit}
        if things is not None:
            apart = feature_distance.feature_distance(output.encoded, fixed)
            metrics["feature_distance"] = losses.share_of_mean(apart, things, totals.things)
            total = total + c.feature_distance_weight * metrics["feature_distance"]
        if contrasted is not None:
            term, metrics["source_contrast"] = contrast_term(
                state, output, contrasted.source, known, totals.source_contrast, setup
            )
            total = total + term
        if c.foundation:
            logits = prototypes.cosines(output.likened, state.foundation) / c.foundation_temperature
            labels = labels_on_backbone_grid(inputs.source_label, setup)
            metrics["likeness"] = losses.cross_entropy(logits, labels, total=totals.likened)
            total = total + c.foundation_weight * metrics["likeness"]
        return total, metrics

    return passes.Pass(
        inputs.source_image, inputs.source_keys, loss, "source", encoded=things is not None, places=inputs.source_places
    )


def target_pass(
    state: TrainState, inputs: Inputs, contrasted: Contrasted, known: Any, totals: Totals, setup: steps.Setup
) -> passes.Pass:
    """Target images with their contrast."""

    def loss(output: Output):
        term, value = contrast_term(state, output, contrasted.target, known, totals.target_contrast, setup)
        return term, {"target_contrast": value}

    return passes.Pass(contrasted.image, inputs.target_keys, loss, places=inputs.target_places)


def pair_pass(name: str, pair: Pair, totals: Totals, setup: steps.Setup) -> passes.Pass:
    """'mixed' or 'masked' images with their weighted cross entropy, times the setting '<name>_weight'."""

    def loss(output: Output):
        fit = at_both(
            setup, output, pair.places, (pair.label, pair.weight), (totals.pixels, totals.detail),
            losses.weighted_cross_entropy,
        )  # fmt: skip
        return setup.stage[f"{name}_weight"] * fit, {f"{name}_ce": fit}

    domain = "masked" if name == "masked" else "target"
    return passes.Pass(pair.image, pair.keys, loss, domain, places=pair.places)


def follow(
    state: TrainState, new_state: TrainState, taught: TeacherPredictions, setup: steps.Setup
) -> tuple[TrainState, steps.Metrics]:
    """The teacher, and the prototypes, after a step of the network; and metrics of these."""
    c = setup.stage
    momentum = rising_momentum(new_state.step, c.ema_momentum)
    network = new_state.params
    if c.teacher_statistics == "averaged":
        network = {"params": network, "batch_stats": new_state.batch_stats}
    new_state = new_state.replace(ema_params=average(state.ema_params, network, momentum))
    if c.weighting == "prototypes":
        return follow_prototypes(state, new_state, taught, setup)
    return new_state, {}
