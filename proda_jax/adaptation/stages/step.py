"""What the train steps of all stages share: keys, views of labelled images, sums, and the update that ends a step.

A step is a pure function of one device's share of the batch, computed one micro-batch after another (gradient
accumulation). What losses are divided by does not depend on the trained network, so it is counted over devices and
micro-batches first. Losses then come as *shares* (`losses.share_of_mean`), and one sum over micro-batches and devices
turns them, and their gradients, into those of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from proda_jax.adaptation import losses, views
from proda_jax.adaptation.stages.passes import Metrics, Pass, add
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.adaptation.state import DiscriminatorState, TrainState
from proda_jax.adaptation.views import colour, fourier
from proda_jax.models.heads import Output

# Every use of randomness within a step folds its own number into the example's key.
SOURCE_VIEW, SOURCE_COLOUR, TARGET_VIEW, STRONG_VIEW, SOURCE_PASS, WEAK_PASS, STRONG_PASS, TEACHER_PASS = range(8)
SECOND_VIEW, FIRST_COLOUR, SECOND_COLOUR, FIRST_GREY, SECOND_GREY = range(8, 13)
MIXED_CLASSES, MIXED_COLOUR, MIXED_PASS, MASK, MASKED_COLOUR, MASKED_PASS = range(13, 19)
SOURCE_DETAIL, MIXED_DETAIL, MASKED_DETAIL, SELF_LABELS, TARGET_DETAIL, TARGET_COLOUR, TARGET_PASS = range(19, 26)
POOL, SOURCE_BOX, QUEUE_CONTRAST = range(26, 29)
TARGET_SLOTS = 1 << 20  # where a target example draws as a source example does, and is to draw something else

Batch = dict[str, Any]


def example_keys(state: TrainState, slots: jax.Array, purpose: int) -> jax.Array:
    """Keys [batch] that depend on (seed, stage, step, place in the global batch) and on nothing else.

    Args:
      state: holds the key of (seed, stage) and the step.
      slots: place of each example in the global batch, int32 [batch].
      purpose: one of the numbers above.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), purpose)
    return jax.vmap(lambda slot: jax.random.fold_in(key, slot))(slots)


def labelled_pass(
    setup: Setup,
    images: jax.Array,
    labels: jax.Array,
    total: jax.Array,
    keys: jax.Array | None,
    domain: str = "source",
    weight: float = 1.0,
) -> Pass:
    """A pass with the cross entropy with true labels at full crop size (the l_ce^s of Equation 11), times `weight`.

    `total`: labels that count in the whole batch; `domain`: of the images, 'source' or 'target'.
    """

    def loss(output: Output) -> tuple[jax.Array, Metrics]:
        fit = losses.upsampled_cross_entropy(output.logits, labels, total=total, reduction=setup.stage.reduction)
        return weight * fit, {f"{domain}_ce": fit}

    return Pass(images, keys, loss, domain)


def domain_counts(setup: Setup, source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the losses of source and target labels are divided by, int32, before `reduce`.

    Args:
      setup: `stage.mean_over` says whether each domain has its own mean, or 'both' have one.
      source, target: bool [batch, ...], true where there is a label.
    """
    counts = tuple(losses.count(mask, setup.stage.reduction) for mask in (source, target))
    return (sum(counts),) * 2 if setup.stage.mean_over == "both" else counts


def regularised(setup: Setup, labelled: jax.Array) -> jax.Array:
    """Pixels that `stage.regulariser_over` names, of those that have a label where `labelled` is true."""
    return labelled if setup.stage.regulariser_over == "labels" else jnp.ones_like(labelled)


def regulariser(setup: Setup, logits: jax.Array, labelled: jax.Array, total: jax.Array) -> jax.Array:
    """The share of the regulariser of target predictions; `total`: pixels that are `regularised`."""
    c = setup.stage
    mask = regularised(setup, labelled)
    return losses.class_balance(logits, c.regulariser, mask=mask, total=total, reduction=c.reduction)


def labelled_view(
    setup: Setup,
    state: TrainState,
    batch: Batch,
    slots: jax.Array,
    target: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weak view of labelled images: RGB in [0, 1] [batch, h, w, 3] with colour jitter, and labels [batch, h, w].

    `target`: whole target images, whose weak views of the same places in the batch lend it their low frequencies'
    amplitudes where `stage.fourier_beta` is above zero (FDA).
    """
    view = draw_labelled_view(setup, batch, example_keys(state, slots, SOURCE_VIEW))
    image = views.weak_image(batch["image"], view, setup.crop_size)
    if setup.stage.fourier_beta and target is not None:
        other = views.weak_image(target, weak_target_view(setup, state, target, slots), setup.crop_size)
        window = fourier.WINDOWS[setup.stage.fourier_window](setup.crop_size, setup.stage.fourier_beta)
        image = fourier.exchange_amplitudes(image, other, window)
    if any(setup.stage.jitter.values()):
        keys = example_keys(state, slots, SOURCE_COLOUR)
        image = colour.jitter_colour(image, keys, **setup.stage.jitter)
    return image / 255.0, views.weak_label(batch["label"], view, setup.crop_size)


def draw_labelled_view(setup: Setup, batch: Batch, keys: jax.Array) -> views.WeakView:
    """Weak view of labelled images, `keys` [batch]; drawn again until its crop holds what is asked for (DAFormer).

    'rare_class' [batch] int32 of the batch, if it is there: the class that each image was drawn by.
    """
    c, stage = setup.views, setup.stage
    how = {"base_width": c.base_width, "scale": tuple(c.scale), "flip": c.flip}
    wanted = batch.get("rare_class") if stage.rare_class_sampling else None
    if stage.crop_tries == 1 or (stage.largest_class == 1.0 and wanted is None):
        return views.draw_weak_view(keys, batch["image"].shape[1:3], setup.crop_size, **how)
    return views.draw_chosen_view(
        keys, batch["label"], setup.crop_size, classes=setup.model.classes, tries=stage.crop_tries,
        largest_share=stage.largest_class, wanted=wanted, wanted_pixels=stage.rare_class_crop_pixels, **how,
    )  # fmt: skip


def each_micro_batch(setup: Setup, function: Callable[[Any], Any], examples: Any) -> Any:
    """`function` of each micro-batch, one after another; its results in the order of the examples.

    Args:
      setup: says how many there are.
      function: examples -> results.
      examples, and what is returned: trees of arrays [batch, ...].
    """
    if setup.micro_batches == 1:
        return function(examples)
    results = jax.lax.map(function, split(examples, setup.micro_batches))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), results)


def accumulate(
    setup: Setup, gradient_of: Callable[[Any, Any], tuple[Any, Any, Metrics]], batch_stats: Any, examples: Any
) -> tuple[Any, Any, Metrics]:
    """Gradient and metrics of the whole batch: their sums over micro-batches, one in memory at a time, and devices.

    It is the gradient of all examples at once, except that a micro-batch is normalised by its own statistics (shared by
    the devices), and that running statistics move once for each.

    Args:
      setup: says how many there are.
      gradient_of: (running statistics, examples) -> (gradient, running statistics, metrics), in shares.
      batch_stats: running statistics before the step.
      examples: tree of arrays [batch, ...].
    """
    if setup.micro_batches == 1:
        gradient, stats, metrics = gradient_of(batch_stats, examples)
    else:
        parts = split(examples, setup.micro_batches)
        shapes = jax.eval_shape(gradient_of, batch_stats, jax.tree.map(lambda x: x[0], parts))
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one_more(so_far: tuple, part: Any) -> tuple[tuple, None]:
            gradient, stats, metrics = so_far
            more, stats, extra = gradient_of(stats, part)
            return (add(gradient, more), stats, add(metrics, extra)), None

        (gradient, stats, metrics), _ = jax.lax.scan(one_more, (nothing[0], batch_stats, nothing[2]), parts)
    gradient, metrics = reduce(setup, (gradient, metrics))
    return gradient, stats, metrics


def split(examples: Any, parts: int) -> Any:
    """Arrays [batch, ...] as [parts, batch / parts, ...].

    A part takes every `parts`-th example, so that it has the same of the global batch on any number of devices.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples)


def reduce(setup: Setup, shares: Any) -> Any:
    """The whole batch's values from every device's shares: one sum over the devices."""
    return shares if setup.axis_name is None else jax.lax.psum(shares, setup.axis_name)


def update(
    setup: Setup, state: TrainState, gradient: Any, batch_stats: Any, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """Ends a step: moves the parameters.

    Args:
      setup: holds the optimizer.
      state: before the step.
      gradient, batch_stats, metrics: of the whole batch, see `accumulate`.

    Returns:
      The state with new parameters, and the metrics with the gradient's norm among them.
    """
    updates, opt_state = setup.optimizer.update(gradient, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, metrics | {"gradient_norm": optax.tree.norm(gradient)}


def update_discriminators(
    discriminator: DiscriminatorState | None, gradient: Any, setup: Setup
) -> DiscriminatorState | None:
    """The discriminators after a step of their optimizer."""
    if discriminator is None:
        return None
    updates, opt_state = setup.discriminator_optimizer.update(gradient, discriminator.opt_state, discriminator.params)
    return discriminator.replace(params=optax.apply_updates(discriminator.params, updates), opt_state=opt_state)


def unless_not_finite(train_step: Callable) -> Callable:
    """A train step that changes nothing but its number where something in it is not finite.

    That may be a metric, a running statistic, a prototype, what features are contrasted with, or anything of the
    discriminator. Such a step is counted in `TrainState.skipped` and in the metric 'skipped'; whoever runs it stops
    where they come in a row. Metrics are those of the whole batch, so all devices decide alike.

    Parameters, their optimizer's state and their average are not looked at: at any rate below 1e18 they are finite
    where the gradient's norm is, which `update` puts among the metrics. To look at each of their arrays was a seventh
    of all kernels of a step on a GPU, and kept the update from being made in place.
    """

    def step(state: TrainState, batch: Batch, teacher: Any, *, setup: Setup) -> tuple[TrainState, Metrics]:
        new, metrics = train_step(state, batch, teacher, setup=setup)
        learnt = new.learnt_prototypes and new.learnt_prototypes.vectors
        looked_at = (metrics, new.batch_stats, new.prototypes, new.discriminator, new.contrast, learnt)
        # one array, so that there is one test, and not a chain that XLA computes again for each array of the state
        finite = jnp.isfinite(jnp.concatenate([jnp.ravel(value) for value in jax.tree.leaves(looked_at)])).all()
        total, in_row = state.skipped
        skipped = jnp.stack([total + ~finite, jnp.where(finite, 0, in_row + 1)])
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), *map(changing, (new, state)))
        return new.replace(skipped=skipped, **kept), metrics | {"skipped": skipped[0]}

    return step


def changing(state: TrainState) -> dict[str, Any]:
    """What a step that is left out leaves as it was: all but its number, and what no step changes."""
    others = ("step", "key", "skipped", "foundation", "recomputed")
    return {name: value for name, value in vars(state).items() if name not in others}


def probabilities(logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


@flax.struct.dataclass
class TargetViews:
    """The two views of target images, RGB in 0..255 [batch, h, w, 3], and their geometry."""

    weak_view: views.WeakView
    strong_view: views.StrongView
    weak_image: jax.Array
    strong_image: jax.Array


def weak_target_view(setup: Setup, state: TrainState, image: jax.Array, slots: jax.Array) -> views.WeakView:
    """Draws T(x) of Section 4.2 for whole images [batch, height, width, 3]."""
    c = setup.views
    keys = example_keys(state, slots, TARGET_VIEW)
    return views.draw_weak_view(
        keys, image.shape[1:3], setup.crop_size, base_width=c.base_width, scale=tuple(c.scale), flip=c.flip
    )


def target_views(setup: Setup, state: TrainState, image: jax.Array, slots: jax.Array) -> TargetViews:
    """T(x) and T'(x) of Section 4.2: random scale, crop and flip; RandAugment and Cutout on top of it.

    Args:
      setup: holds the settings.
      state: holds key and step.
      image: whole images [batch, height, width, 3] uint8.
      slots: place of each in the global batch, [batch].
    """
    c = setup.views
    weak = weak_target_view(setup, state, image, slots)
    strong = views.draw_strong_view(
        example_keys(state, slots, STRONG_VIEW),
        setup.crop_size,
        operations=c.strong_operations,
        flip=c.strong_flip,
        randaugment=c.randaugment,
        cutout_fraction=c.cutout_fraction,
    )
    weak_image = views.weak_image(image, weak, setup.crop_size)
    return TargetViews(weak, strong, weak_image, views.strong_image(weak_image, strong))
