"""Stage 1: online denoising of pseudo labels by prototypes, and target structure learning (Sections 4.1 and 4.2).

Conventional self-training, and the rows between it and the full method (Table 3, Figure 4), are settings of this
stage: `weighting='none'` keeps the pseudo labels as they were made, zero weights leave out the other terms.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation import losses, prototypes, selectors, views
from proda_jax.adaptation.stages import acts, kinds, learnt_prototypes, passes
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages.kinds import uses_momentum_encoder
from proda_jax.adaptation.state import Sampled, TrainState, average
from proda_jax.adaptation.views import class_mix, cutmix
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners, resize_nearest

ACTS_BESIDE: tuple[acts.Rule, ...] = (
    *acts.OF_SELF_LABELLING,
    (
        ("ema_momentum", "ema_view", "ema_crop", "ema_mode", "temperature", "unseen_prototypes", "prototype_momentum",
         "prototype_update", "prototype_min_pixels", "prototype_init", "prototype_init_by", "prototype_init_limit",
         "prototype_init_min_pixels", "prototype_init_passes", "prototype_distance", "self_label_weight"),
        uses_momentum_encoder,
        "a weighting other than 'none', label_source 'moving' or consistency_weight above 0",
    ),
    (("queue_contrast_weight",), lambda s: s.self_label_weight > 0 and s.self_label_queue > 0,
     "self_label_weight and self_label_queue above 0"),
    (("ema_crop",), lambda s: s.ema_view == "image", "ema_view 'image'"),
    (("consistency_over_classes",), lambda s: s.consistency_weight > 0, "consistency_weight above 0"),
    (("label_entropy",), lambda s: s.label_selector in ("class_balanced", "all_classes") and not s.hard_labels,
     "label_selector 'class_balanced' or 'all_classes' and hard_labels=False"),
    *acts.OF_SELECTION,
    *acts.OF_REGULARISER,
)  # fmt: skip
SMALLEST_FLOAT16 = 2.0**-24  # which soft labels are stored in


@flax.struct.dataclass
class Inputs:
    """A batch whose views are drawn; images are RGB in [0, 1]; target losses live on the grid [h / s, w / s],
    where s is `views.target_stride`.

    Attributes:
      source_image, source_label: weak view of the source, [batch, h, w, 3] and [batch, h, w].
      target_full: whole target images, [batch, height, width, 3].
      target_weak, target_strong: the two views, [batch, h, w, 3].
      soft_label: p_{t,0} in the weak view, [batch, h / s, w / s, classes].
      inside: where the weak view shows the image, bool [batch, h / s, w / s].
      weak_view, strong_view: the geometry, for what follows the images.
      source_keys, weak_keys, strong_keys, teacher_keys: of dropout, [batch], or None.
      slots: place of each example in the global batch, [batch], where prototypes are learnt.
      box: where the source is pasted on the weak view (CutMix), bool [batch, h, w], or None. What the momentum encoder
        sees, and the strong view, have no box.
    """

    source_image: jax.Array
    source_label: jax.Array
    target_full: jax.Array
    target_weak: jax.Array
    target_strong: jax.Array
    soft_label: jax.Array
    inside: jax.Array
    weak_view: views.WeakView
    strong_view: views.StrongView
    source_keys: jax.Array | None = None
    weak_keys: jax.Array | None = None
    strong_keys: jax.Array | None = None
    teacher_keys: jax.Array | None = None
    slots: jax.Array | None = None
    box: jax.Array | None = None


@flax.struct.dataclass
class Guidance:
    """What the momentum encoder says about the weak view, on the grid of target losses.

    Attributes:
      distances: of its features to the prototypes, [batch, h / s, w / s, classes].
      probabilities: its prediction p_t, same shape.
      means, pixels: class means of each image for Equation 6, [batch, classes, channels] and [batch, classes]; None
        where prototypes are learnt.
      sampled: what prototypes learn, or None.
    """

    distances: jax.Array
    probabilities: jax.Array
    means: jax.Array | None = None
    pixels: jax.Array | None = None
    sampled: Sampled | None = None


@flax.struct.dataclass
class Targets:
    """What the trained network's passes are compared with, on the grid of target losses.

    Attributes:
      labels, products: see `pseudo_labels`; with what is pasted.
      shown: where the weak view shows the target's image, and nothing pasted, bool [batch, h / s, w / s].
      distances: of the weak view's features to the prototypes, [batch, h / s, w / s, classes], or None.
      strong_distances: the same, warped like the strong view, or None.
      strong_valid: where they are known, bool [batch, h / s, w / s], or None.
      contrasted: which features are contrasted with the queue's, or None.
    """

    labels: jax.Array
    products: jax.Array
    shown: jax.Array
    distances: jax.Array | None = None
    strong_distances: jax.Array | None = None
    strong_valid: jax.Array | None = None
    contrasted: learnt_prototypes.Contrasted | None = None


@flax.struct.dataclass
class Totals:
    """What losses and metrics are divided by: `losses.count` over the whole batch, int32 scalars.

    Attributes:
      source, target: labels that count; `pixels`: those of the regulariser.
      compared: pixels of the strong view that have a teacher.
      shown, labelled: pixels that show the target's image, and those of them that have a label.
      contrasted: features that are contrasted with the queue's.
    """

    source: jax.Array
    target: jax.Array
    pixels: jax.Array
    shown: jax.Array
    labelled: jax.Array
    compared: jax.Array | None = None
    contrasted: jax.Array | None = None


def train_step(state: TrainState, batch: steps.Batch, teacher: Any, *, setup: steps.Setup):
    """One step of stage 1 (Algorithm 1, lines 6-20) on one device's share of the batch.

    Args:
      state: train state; with EMA parameters and prototypes unless the labels are fixed.
      batch: 'source': {'image' [batch, height, width, 3] uint8, 'label' [batch, height, width] uint8}, 'target':
        {'image' uint8, 'soft_label' [batch, grid height, grid width, classes] float16}, 'slot' [batch] int32.
      teacher: unused; this stage teaches itself.
      setup: what the step needs besides.

    Returns:
      (state, metrics)
    """
    del teacher
    return update(state, draw_inputs(state, batch, setup), setup=setup)


def draw_inputs(state: TrainState, batch: steps.Batch, setup: steps.Setup) -> Inputs:
    """Draws the views and applies them to everything that follows them."""
    source_image, source_label = steps.labelled_view(
        setup, state, batch["source"], batch["slot"], target=batch["target"]["image"]
    )
    image, slots = batch["target"]["image"], batch["slot"]
    target = steps.target_views(setup, state, image, slots)
    soft_label = soft_label_view(setup, batch["target"], target.weak_view)
    inside = views.weak_inside(target.weak_view, setup.crop_size, setup.target_size)

    def keys(purpose: int) -> jax.Array:
        return steps.example_keys(state, slots, purpose)

    box = None
    if setup.stage.cutmix_share:
        box = cutmix.draw_boxes(keys(steps.SOURCE_BOX), setup.crop_size, setup.stage.cutmix_share)
    return Inputs(
        source_image,
        source_label,
        image.astype(jnp.float32) / 255.0,
        target.weak_image / 255.0,
        target.strong_image / 255.0,
        soft_label,
        inside,
        target.weak_view,
        target.strong_view,
        source_keys=keys(steps.SOURCE_PASS),
        weak_keys=keys(steps.WEAK_PASS),
        strong_keys=keys(steps.STRONG_PASS),
        teacher_keys=keys(steps.TEACHER_PASS),
        slots=slots,
        box=box,
    )


def soft_label_view(setup: steps.Setup, target: steps.Batch, view: views.WeakView) -> jax.Array:
    """p_{t,0}, as it is kept, in the weak view on the grid of target losses."""
    soft, size = target["soft_label"].astype(jnp.float32), target["image"].shape[1:3]
    if setup.stage.soft_label_interpolation == "probabilities":
        return views.weak_soft_label(soft, view, size, setup.crop_size, setup.target_size)
    # what a pixel's logits all have in common cancels in the softmax, so its logarithms serve as well as its logits
    logits = jnp.log(jnp.maximum(soft, SMALLEST_FLOAT16))
    return steps.probabilities(views.weak_soft_label(logits, view, size, setup.crop_size, setup.target_size))


def update(state: TrainState, inputs: Inputs, *, setup: steps.Setup):
    """The step on views that are drawn already (total loss, Equation 11)."""
    c, guidance = setup.stage, None
    if uses_momentum_encoder(c):
        guidance = steps.each_micro_batch(setup, lambda part: guide(state, part, setup), inputs)
    targets = learning_targets(state, inputs, guidance, setup)
    totals = count_totals(inputs, targets, setup)

    def gradient_of(stats: Any, part: tuple[Inputs, Targets]):
        inputs, targets = part
        taken = [
            steps.labelled_pass(setup, inputs.source_image, inputs.source_label, totals.source, inputs.source_keys),
            weak_pass(state, inputs, targets, totals, setup),
        ]
        if c.consistency_weight:
            taken.append(strong_pass(state, inputs, targets, totals, setup))
        gradient, stats, metrics = passes.merged(*passes.gradients(setup, state, stats, taken))
        metrics |= label_metrics(targets, inputs, totals)
        if guidance is not None:
            metrics |= distance_metrics(state.prototypes, targets, totals)
        return gradient, stats, metrics

    examples = (inputs.replace(target_full=None), targets)
    new_state, metrics = steps.update(
        setup, state, *steps.accumulate(setup, gradient_of, state.batch_stats, examples)
    )
    if guidance is not None:
        new_state, extra = follow_prototypes(state, new_state, guidance, setup)
        new_state = new_state.replace(ema_params=average(state.ema_params, new_state.params, c.ema_momentum))
        metrics |= extra
    return new_state, metrics


def guide(state: TrainState, inputs: Inputs, setup: steps.Setup) -> Guidance:
    """Pass of the momentum encoder, and what prototypes and classifier say of it in the weak view."""
    c = setup.stage
    whole = c.ema_view == "image"
    images = inputs.target_full if whole else inputs.target_weak
    output = momentum_pass(state, images, inputs.teacher_keys, setup)
    features, logits = (follow_weak_view(x, inputs, setup) for x in (output.features, output.logits))
    size = setup.on_target_grid(images.shape[1:3])
    distances = prototypes.DISTANCES[c.prototype_distance](features, state.prototypes.vectors)
    guidance = Guidance(distances, steps.probabilities(logits))
    if kinds.learns_prototypes(c):
        grid = output.features.shape[1:3]
        shown = jnp.ones((len(images), *grid), bool) if whole else resize_nearest(inputs.inside, grid)
        return guidance.replace(
            sampled=learnt_prototypes.sample(state, output, shown, inputs.slots, c.self_label_pixels)
        )
    assigned = jnp.argmax(resize_align_corners(output.logits, size), axis=-1)
    if not whole:
        assigned = jnp.where(inputs.inside, assigned, IGNORE)
    means, pixels = prototypes.class_means(
        output.features, assigned, setup.model.classes, min_pixels=c.prototype_min_pixels, size=size
    )
    return guidance.replace(means=means, pixels=pixels)


def follow_weak_view(values: jax.Array, inputs: Inputs, setup: steps.Setup) -> jax.Array:
    """The momentum encoder's output [batch, h8, w8, channels] in the weak view, on the grid of target losses."""
    if setup.stage.ema_view == "crop":
        return resize_align_corners(values, setup.target_size)
    if setup.stage.ema_crop == "released":
        return views.weak_features(values, inputs.weak_view, setup.crop_size, setup.target_size)
    size = inputs.target_full.shape[1:3]
    return views.weak_soft_label(values, inputs.weak_view, size, setup.crop_size, setup.target_size)


def momentum_pass(state: TrainState, images: jax.Array, keys: jax.Array | None, setup: steps.Setup) -> Output:
    """The momentum encoder on images; the released one runs in training mode (batch statistics, dropout)."""
    variables = {"params": state.ema_params, "batch_stats": state.batch_stats}
    if setup.stage.ema_mode == "train":
        return setup.model.apply(variables, images, train=True, dropout_keys=keys, mutable=["batch_stats"])[0]
    return setup.model.apply(variables, images, train=False)


def learning_targets(
    state: TrainState, inputs: Inputs, guidance: Guidance | None, setup: steps.Setup
) -> Targets:
    """Pseudo labels of the weak view, and what the strong view's assignment follows."""
    labels, products = pseudo_labels(state, inputs, guidance, setup)
    targets = Targets(labels, products, inputs.inside)
    if inputs.box is not None:
        targets = with_source_labels(targets, inputs, setup)
    if setup.stage.queue_contrast_weight:
        targets = targets.replace(contrasted=contrasted_with_queue(state, inputs, targets.labels, setup))
    if guidance is None:
        return targets
    targets = targets.replace(distances=guidance.distances)
    if not setup.stage.consistency_weight:
        return targets
    distances, valid = views.strong_map(guidance.distances, inputs.strong_view, setup.crop_size)
    inside, _ = views.strong_map(inputs.inside[..., None].astype(jnp.float32), inputs.strong_view, setup.crop_size)
    valid = valid & (inside[..., 0] > 0.999)  # bilinear: every tap was inside
    return targets.replace(strong_distances=distances, strong_valid=valid)


def with_source_labels(targets: Targets, inputs: Inputs, setup: steps.Setup) -> Targets:
    """True labels of the source within the box, as `paste`d images have them."""
    box, true = (resize_nearest(x, setup.target_size) for x in (inputs.box, inputs.source_label.astype(jnp.int32)))
    certain = jax.nn.one_hot(true, setup.model.classes, dtype=targets.products.dtype)
    return targets.replace(
        labels=class_mix.paste(box, true, targets.labels),
        products=class_mix.paste(box, certain, targets.products),
        shown=targets.shown & ~box,
    )


def contrasted_with_queue(
    state: TrainState, inputs: Inputs, labels: jax.Array, setup: steps.Setup
) -> learnt_prototypes.Contrasted:
    """Random positions of weak views that nothing is pasted on, with their pseudo labels (CPSL)."""
    grid = setup.model.backbone.output_size(setup.model.context_size(setup.crop_size))
    keys = steps.example_keys(state, inputs.slots, steps.QUEUE_CONTRAST)
    places = learnt_prototypes.places(keys, grid, setup.stage.self_label_pixels)
    labels = learnt_prototypes.taken(resize_nearest(labels, grid), places)[..., 0]
    if inputs.box is not None:
        labels = jnp.where(inputs.box.any(axis=(1, 2))[:, None], IGNORE, labels)
    return learnt_prototypes.Contrasted(places, labels)


def count_totals(inputs: Inputs, targets: Targets, setup: steps.Setup) -> Totals:
    """Counts what the losses of the whole batch are divided by."""
    labelled, reduction = targets.labels != IGNORE, setup.stage.reduction
    source, target = steps.domain_counts(setup, inputs.source_label != IGNORE, labelled)
    local = Totals(
        source=source,
        target=target,
        pixels=losses.count(steps.regularised(setup, labelled), reduction),
        shown=losses.count(targets.shown),
        labelled=losses.count(labelled & targets.shown),
        compared=None if targets.strong_valid is None else losses.count(targets.strong_valid),
        contrasted=None if targets.contrasted is None else losses.count(targets.contrasted.labels != IGNORE),
    )
    return steps.reduce(setup, local)


def pseudo_labels(
    state: TrainState, inputs: Inputs, guidance: Guidance | None, setup: steps.Setup
) -> tuple[jax.Array, jax.Array]:
    """Labels [batch, h / s, w / s] that the step learns from, IGNORE outside the image, and their products, which are
    labels themselves where these are soft; see `weigh`."""
    given = (None, None) if guidance is None else (guidance.distances, guidance.probabilities)
    soft, weights = weigh(setup.stage, inputs.soft_label, *given, state.prototypes)
    selector, kept = setup.stage.label_selector, inputs.inside
    labels, _ = prototypes.rectify(soft, weights, setup.stage.label_threshold, selectors.by_confidence(selector))
    if selector in selectors.CLASS_SELECTORS:  # labels reach halfway to where there is none, and zeros are kept
        kept &= inputs.soft_label.sum(-1) >= 0.5
    products = soft * weights
    products = products / jnp.maximum(products.sum(-1, keepdims=True), 1e-20)
    return jax.lax.stop_gradient((jnp.where(kept, labels, IGNORE), products))


def weigh(
    stage: ml_collections.ConfigDict,
    fixed: jax.Array,
    distances: jax.Array | None,
    probabilities: jax.Array | None,
    current: prototypes.Prototypes | None,
) -> tuple[jax.Array, jax.Array]:
    """The two factors of Equation 3.

    Figure 4's variants: `label_source` is what is weighted, the fixed p_{t,0} or the moving p_t; `weighting` is by
    'prototypes' (Equation 4), by the momentum encoder's own prediction, or 'none'.

    Args:
      stage: the settings.
      fixed: p_{t,0}, [..., classes].
      distances: of the momentum encoder's features to the prototypes, same shape; None where nothing asks for them.
      probabilities: p_t, likewise.
      current: the prototypes, likewise.

    Returns:
      soft labels and weights, same shape.
    """
    soft = fixed if stage.label_source == "fixed" else probabilities
    if stage.weighting == "prototypes":
        return soft, prototypes.assignment_weights(distances, stage.temperature, current.seen)
    return soft, probabilities if stage.weighting == "network" else jnp.ones_like(soft)


def weak_pass(
    state: TrainState, inputs: Inputs, targets: Targets, totals: Totals, setup: steps.Setup
) -> passes.Pass:
    """The weak view with its terms: symmetric cross entropy (Equation 7) and regulariser (Equation 10), and CPSL's."""
    c, labels, image = setup.stage, targets.labels, inputs.target_weak
    if inputs.box is not None:
        image = class_mix.paste(inputs.box, inputs.source_image, image)
    shared = {"total": totals.target, "reduction": c.reduction}

    def loss(output: Output):
        logits = resize_align_corners(output.logits, setup.target_size)
        if c.hard_labels:
            fit = losses.symmetric_cross_entropy(logits, labels, alpha=c.ce_weight, beta=c.rce_weight, **shared)
        else:
            fit = losses.soft_cross_entropy(logits, targets.products, labels != IGNORE, **shared)
            fit = (c.ce_weight + c.rce_weight) * fit
        metrics = {"target_fit": fit}
        if c.regulariser_weight:
            metrics["regulariser"] = steps.regulariser(setup, logits, labels != IGNORE, totals.pixels)
            fit = fit + c.regulariser_weight * metrics["regulariser"]
        if targets.contrasted is not None:
            metrics["queue_contrast"] = learnt_prototypes.contrast(
                output.features, targets.contrasted, state.learnt_prototypes.queue, totals.contrasted, setup
            )
            fit = fit + c.queue_contrast_weight * metrics["queue_contrast"]
        return fit, metrics

    return passes.Pass(image, inputs.weak_keys, loss)


def strong_pass(
    state: TrainState, inputs: Inputs, targets: Targets, totals: Totals, setup: steps.Setup
) -> passes.Pass:
    """The strong view with its term: it is assigned to the prototypes as the weak view is (Equations 8 and 9)."""
    c = setup.stage

    def loss(output: Output):
        student = prototypes.DISTANCES[c.prototype_distance](
            resize_align_corners(output.features, setup.target_size), state.prototypes.vectors
        )
        apart = losses.assignment_consistency(
            student,
            targets.strong_distances,
            targets.strong_valid,
            temperature=c.temperature,
            seen=state.prototypes.seen,
            over_classes=c.consistency_over_classes,
            total=totals.compared,
        )
        return c.consistency_weight * apart, {"consistency": apart}

    return passes.Pass(inputs.target_strong, inputs.strong_keys, loss)


def follow_prototypes(
    state: TrainState, new_state: TrainState, guidance: Any, setup: steps.Setup
) -> tuple[TrainState, steps.Metrics]:
    """The state after a step of the network with prototypes that moved, too, and metrics of how they were learnt.

    `guidance` has `sampled`, or else `means` and `pixels`.
    """
    if not kinds.learns_prototypes(setup.stage):
        return new_state.replace(prototypes=move_prototypes(state.prototypes, guidance, setup)), {}
    learnt, averaged, metrics = learnt_prototypes.move(state, guidance.sampled, setup)
    return new_state.replace(learnt_prototypes=learnt, prototypes=averaged), metrics


def move_prototypes(
    current: prototypes.Prototypes, guidance: Guidance, setup: steps.Setup
) -> prototypes.Prototypes:
    """Equation 6 with the class means of every device's images, in global image order."""
    means, pixels = guidance.means, guidance.pixels
    if setup.axis_name is not None:
        means, pixels = (jax.lax.all_gather(x, setup.axis_name, tiled=True) for x in (means, pixels))
    rule = {"in_turn": prototypes.update_in_turn, "batch": prototypes.update_by_batch}[setup.stage.prototype_update]
    return rule(
        current, means, pixels, rate=1.0 - setup.stage.prototype_momentum, unseen=setup.stage.unseen_prototypes
    )


def label_metrics(targets: Targets, inputs: Inputs, totals: Totals) -> steps.Metrics:
    """Share of pixels that have a label, and of those whose label left the fixed soft label's argmax."""
    labelled = (targets.labels != IGNORE) & targets.shown
    changed = targets.labels != jnp.argmax(inputs.soft_label, axis=-1)
    return {
        "labelled": losses.share_of_mean(labelled.astype(jnp.float32), targets.shown, totals.shown),
        "rectified": losses.share_of_mean(changed.astype(jnp.float32), labelled, totals.labelled),
    }


def distance_metrics(current: prototypes.Prototypes, targets: Targets, totals: Totals) -> steps.Metrics:
    """Shares of the mean distance of a pixel to the nearest prototype and to all: see Equation 4's tau.

    Scalars, in units of the feature; over classes that have a prototype, zero where none has.
    """
    seen, distances = current.seen, targets.distances
    nearest = jnp.where(seen.any(), jnp.min(distances, axis=-1, where=seen, initial=jnp.inf), 0.0)
    mean = jnp.sum(jnp.where(seen, distances, 0.0), axis=-1) / jnp.maximum(seen.sum(), 1)
    return {
        name: losses.share_of_mean(values, targets.shown, totals.shown)
        for name, values in (("nearest_prototype", nearest), ("mean_prototype", mean))
    }
