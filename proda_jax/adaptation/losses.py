"""The paper's losses (Equations 1, 7, 9, 10, 12) and the warm-up's adversarial loss.

Each returns the **share of a global mean** that the pixels it is given have: their sum, divided by the `total` number
of pixels that count in the whole batch (`count`, summed over devices and micro-batches). The sum of all shares is the
loss, and the sum of their gradients its gradient, however unevenly ignored pixels are spread. Where `total` is not
given, these pixels are the whole batch, and the share is the loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from proda_jax.adaptation.prototypes import log_assignment_weights
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.precision import at_least_float32
from proda_jax.models.resizing import resize_align_corners

PREDICTION_FLOOR = 1e-7  # clamp of the prediction in the reverse cross entropy (released code)
REDUCTIONS = ("mean", "sum", "image")
LABEL_FLOOR = 1e-4  # clamp of its one-hot label, whose log would be infinite (Equation 7 and the line below it)


def count(mask: jax.Array, reduction: str = "mean") -> jax.Array:
    """What the sum of losses over these pixels is to be divided by; whole batches add these up to their `total`.

    Args:
      mask: bool [batch, ...], true for pixels that count.
      reduction: 'mean' counts pixels (released code); 'sum' counts images, as the paper's equations sum within one;
        'image' counts images too, each of which has its own mean (batches of one, as many codes have).

    Returns:
      int32 scalar.

    Raises:
      ValueError: unknown `reduction`.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"loss reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return jnp.sum(mask, dtype=jnp.int32) if reduction == "mean" else jnp.int32(len(mask))


def share_of_mean(
    values: jax.Array, mask: jax.Array, total: jax.Array | None = None, reduction: str = "mean"
) -> jax.Array:
    """The share of a mean that these values have.

    Args:
      values: [batch, ...].
      mask: bool, the shape of `values`; only what is true counts.
      total: `count` of the whole batch; None: these are all.
      reduction: see `count`.

    Returns:
      float32 scalar; zero where nothing counts.
    """
    total = count(mask, reduction) if total is None else total
    if reduction == "image":
        counted = jnp.sum(mask, axis=tuple(range(1, mask.ndim)), keepdims=True)
        values = values / jnp.maximum(counted, 1)
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(total, 1).astype(jnp.float32)


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _pixel_cross_entropy(logits: jax.Array, labels: jax.Array, focus: float = 0.0) -> jax.Array:
    # a product with the one-hot label rather than a lookup: its backward pass has no scatter (slow, unordered on GPU)
    loss = -jnp.sum(_log_softmax(logits) * jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), axis=-1)
    return (1.0 - jnp.exp(-loss)) ** focus * loss if focus else loss


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, total: jax.Array | None = None, reduction: str = "mean"
) -> jax.Array:
    """Cross entropy with hard labels (Equation 1).

    Args:
      logits: [batch, ..., classes].
      labels: integer [batch, ...]; IGNORE does not count.
      total, reduction: see `share_of_mean`.

    Returns:
      The share of the loss, float32 scalar.
    """
    return share_of_mean(_pixel_cross_entropy(logits, labels), labels != IGNORE, total, reduction)


def upsampled_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    total: jax.Array | None = None,
    reduction: str = "mean",
    focus: float = 0.0,
) -> jax.Array:
    """Cross entropy at label size: logits are resized to the labels, corners aligned (Equation 1, source images).

    The backward pass resizes again instead of keeping logits at label size, the largest tensors of a step.

    Args:
      logits: [batch, height, width, classes].
      labels: integer [batch, label height, label width]; IGNORE does not count.
      total, reduction: see `share_of_mean`.
      focus: gamma of the focal loss, (1 - p)^gamma of the label times its cross entropy (arXiv:1708.02002).

    Returns:
      The share of the loss, float32 scalar.
    """
    @jax.checkpoint
    def pixel_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return _pixel_cross_entropy(resize_align_corners(logits, labels.shape[1:3]), labels, focus)

    return share_of_mean(pixel_losses(logits, labels), labels != IGNORE, total, reduction)


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    total: jax.Array | None = None,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array] = resize_align_corners,
) -> jax.Array:
    """Cross entropy at label size in which each pixel has a weight of its own: of mixed and masked images (DACS).

    It is the mean over **all** pixels, ignored ones too, which add nothing: fewer labels weigh less.

    Args:
      logits: [batch, height, width, classes]; resized to the labels, and again in the backward pass.
      labels: integer [batch, label height, label width]; IGNORE adds nothing.
      weights: float [batch, label height, label width].
      total: number of pixels in the whole batch; None: these are all.
      resize: (values, (height, width)) -> values of that size.

    Returns:
      The share of the loss, float32 scalar.
    """
    @jax.checkpoint
    def pixel_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return _pixel_cross_entropy(resize(logits, labels.shape[1:3]), labels)

    total = count(jnp.ones(labels.shape, bool)) if total is None else total
    return share_of_mean(weights * pixel_losses(logits, labels), labels != IGNORE, total)


def soft_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    total: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross entropy with soft labels (Equation 1 without the argmax of Equation 2; variants of Figure 4).

    Args:
      logits: [batch, ..., classes].
      targets: probabilities, [batch, ..., classes]; no gradient flows into them.
      mask: bool [batch, ...], pixels that count.
      total, reduction: see `share_of_mean`.

    Returns:
      The share of the loss, float32 scalar.
    """
    targets = jax.lax.stop_gradient(targets.astype(jnp.float32))
    return share_of_mean(-jnp.sum(targets * _log_softmax(logits), axis=-1), mask, total, reduction)


def reverse_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, total: jax.Array | None = None, reduction: str = "mean"
) -> jax.Array:
    """Cross entropy with prediction and label exchanged, l_ce(y, p) in Equation 7.

    The prediction is clamped to [1e-7, 1] and the one-hot label to [1e-4, 1].

    Args and returns as in `cross_entropy`.
    """
    prediction = jnp.clip(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), PREDICTION_FLOOR, 1.0)
    label = jnp.clip(jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), LABEL_FLOOR, 1.0)
    return share_of_mean(-jnp.sum(prediction * jnp.log(label), axis=-1), labels != IGNORE, total, reduction)


def symmetric_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float,
    beta: float,
    total: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """alpha * l_ce(p, y) + beta * l_ce(y, p) (Equation 7; Table 9).

    Args:
      logits: [batch, ..., classes].
      labels: integer [batch, ...]; IGNORE does not count.
      alpha: weight of the cross entropy (paper: 0.1).
      beta: weight of the reverse cross entropy (paper: 1).
      total, reduction: see `share_of_mean`.

    Returns:
      The share of the loss, float32 scalar.
    """
    forward = cross_entropy(logits, labels, total=total, reduction=reduction)
    return alpha * forward + beta * reverse_cross_entropy(logits, labels, total=total, reduction=reduction)


def class_balance(
    logits: jax.Array,
    kind: str = "mrkld",
    *,
    mask: jax.Array | None = None,
    total: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Regulariser of predictions: against the collapse onto few classes (Equation 10), or another of `REGULARISERS`.

    Args:
      logits: [batch, ..., classes].
      kind: one of `REGULARISERS`.
      mask: bool [batch, ...], pixels that count (CRST: those that have a label); None: every pixel.
      total: see `share_of_mean`.
      reduction: 'mean' over pixels (and classes, with 'mrkld') as released, 'sum' over them as in the paper.

    Returns:
      The share of the loss, float32 scalar.

    Raises:
      ValueError: unknown `kind`.
    """
    log_p = _log_softmax(logits)
    mask = jnp.ones(logits.shape[:-1], bool) if mask is None else mask
    if kind not in REGULARISERS:
        raise ValueError(f"class balance: expected one of {', '.join(REGULARISERS)}, got {kind!r}")
    return share_of_mean(REGULARISERS[kind](log_p, reduction), mask, total, reduction)


def mrkld(log_p: jax.Array, reduction: str) -> jax.Array:
    """-log p over classes (Equation 10): divergence of a flat prediction from that of each pixel."""
    return (jnp.sum if reduction == "sum" else jnp.mean)(-log_p, axis=-1)


def mrent(log_p: jax.Array, reduction: str) -> jax.Array:
    """Negative entropy of each pixel's prediction, the alternative in the released code."""
    del reduction  # over classes it is a sum by definition
    return jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def robust_entropy(log_p: jax.Array, reduction: str, power: float = 2.0) -> jax.Array:
    """Entropy of each pixel's prediction, of which sure pixels count little: ((E / log K)^2 + 1e-8)^power (FDA).

    `power` is eta, 2 in FDA. Its gradient pulls on pixels that are not sure.
    """
    del reduction  # over classes it is a sum by definition
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1) / jnp.log(log_p.shape[-1])
    return (entropy**2 + 1e-8) ** power


# Regularisers that `regulariser` chooses: log p [..., classes], reduction -> value of each pixel [...]
REGULARISERS = {"mrkld": mrkld, "mrent": mrent, "robust_entropy": robust_entropy}


def assignment_consistency(
    student_distances: jax.Array,
    teacher_distances: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 1.0,
    seen: jax.Array | None = None,
    over_classes: str = "mean",
    total: jax.Array | None = None,
) -> jax.Array:
    """KL(z_T || z_T'): the strong view's prototype assignment follows the weak view's (Equation 9).

    Args:
      student_distances: of the strong view's features to the prototypes, [batch, ..., classes].
      teacher_distances: of the momentum encoder's features, warped like the strong view, [batch, ..., classes]; no
        gradient flows into them.
      valid: bool [batch, ...]; false at the border and in the cutout, where there is no teacher.
      temperature: tau of Equation 8.
      seen: [classes] bool; classes without a prototype have assignment zero on both sides and add nothing.
      over_classes: 'mean' (released code: 1 / classes of a divergence) or 'sum', the divergence itself.
      total: see `share_of_mean`.

    Returns:
      The share of the mean over valid pixels.
    """
    log_student = log_assignment_weights(student_distances, temperature, seen)
    log_teacher = jax.lax.stop_gradient(log_assignment_weights(teacher_distances, temperature, seen))
    terms = jnp.exp(log_teacher) * (log_teacher - log_student)
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[over_classes]
    return share_of_mean(reduce(terms, axis=-1), valid, total)


def distillation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    valid: jax.Array,
    *,
    form: str = "equation12",
    total: jax.Array | None = None,
) -> jax.Array:
    """Knowledge distillation, KL(p_t || p_t^dagger) (last term of Equation 12).

    Args:
      student_logits: [batch, ..., classes].
      teacher_logits: [batch, ..., classes]; no gradient flows into them.
      valid: bool [batch, ...], pixels that count.
      form: 'equation12', the divergence averaged over pixels and classes; 'equation12_per_pixel', averaged over
        pixels; 'released', what the released code computes: the student's probabilities stand where their
        logarithms are due, so it is no divergence and can be negative; averaged over pixels and classes.
      total: see `share_of_mean`.

    Returns:
      The share of the loss, float32 scalar.

    Raises:
      ValueError: unknown `form`.
    """
    log_teacher = jax.lax.stop_gradient(_log_softmax(teacher_logits))
    log_student = _log_softmax(student_logits)
    over_classes = {"equation12": jnp.mean, "equation12_per_pixel": jnp.sum, "released": jnp.mean}
    if form not in over_classes:
        raise ValueError(f"distillation: expected form {' or '.join(map(repr, over_classes))}, got {form!r}")
    compared = jnp.exp(log_student) if form == "released" else log_student
    terms = jnp.exp(log_teacher) * (log_teacher - compared)
    return share_of_mean(over_classes[form](terms, axis=-1), valid, total)


def semantic_difference(logits: jax.Array, others: jax.Array, *, total: jax.Array | None = None) -> jax.Array:
    """How differently a segmentation network sees an image and its translation (BDL, Li et al., CVPR 2019).

    The mean squared difference of logits, each class map of each image normalised by its own mean and variance.

    Args:
      logits, others: of the two, [batch, h, w, classes].
      total: number of scores in the whole batch; None: these are all.

    Returns:
      The share of the mean, float32 scalar.
    """

    def normalised(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return (x - x.mean((1, 2), keepdims=True)) * jax.lax.rsqrt(x.var((1, 2), keepdims=True) + 1e-5)

    terms = (normalised(logits) - normalised(others)) ** 2
    return share_of_mean(terms, jnp.ones(terms.shape, bool), total)


def contrast(
    first: jax.Array,
    second: jax.Array,
    *,
    temperature: float,
    axis_name: str | None = None,
    total: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """NT-Xent, the loss of SimCLR (Chen et al., 2020, Equation 1): a view is to be nearer to the other view of the same
    image than to all other views of the batch, over every device.

    Args:
      first, second: projections of the two views of each of this device's images, [images, channels].
      temperature: of the softmax over cosine similarities.
      axis_name: mapped axis over the devices, or None on one.
      total: views in the whole batch, twice its images; None: these are all.

    Returns:
      The share of the mean loss over views that this device's views have, and the share of them that are nearest to
      their partner, float32 scalars.
    """
    own = jnp.concatenate([first, second]).astype(jnp.float32)
    own = own / jnp.maximum(jnp.linalg.norm(own, axis=-1, keepdims=True), 1e-12)
    views = own.reshape(2, len(first), -1)
    images, place = len(first), jnp.int32(0)
    if axis_name is not None:  # its gradient reaches the devices that the views are from
        views = jax.lax.all_gather(views, axis_name, axis=1, tiled=True)
        place = jax.lax.axis_index(axis_name) * images
    images_of_all = views.shape[1]
    similar = jnp.einsum("ic,jc->ij", own, views.reshape(2 * images_of_all, -1), precision=jax.lax.Precision.HIGHEST)
    here = place + jnp.arange(images)
    itself = jnp.concatenate([here, here + images_of_all])
    partner = jnp.concatenate([here + images_of_all, here])
    columns = jnp.arange(2 * images_of_all)
    logits = jnp.where(columns == itself[:, None], -jnp.inf, similar / temperature)
    terms = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(columns == partner[:, None], logits, 0.0), axis=-1)
    nearest = (jnp.argmax(logits, axis=-1) == partner).astype(jnp.float32)
    everywhere = jnp.ones(terms.shape, bool)
    return share_of_mean(terms, everywhere, total), share_of_mean(nearest, everywhere, total)


def gan_loss(
    scores: jax.Array,
    target: float,
    kind: str = "ls",
    *,
    total: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> jax.Array:
    """How far the discriminator's scores are from a domain's label (AdaptSegNet).

    Args:
      scores: the discriminator's output, [batch, height, width, 1].
      target: the label that is asked for: 0 source, 1 target.
      kind: one of `GAN_LOSSES`.
      total: see `share_of_mean`.
      weights: of each score, of their shape; None: all count alike.

    Returns:
      The share of the mean over all scores, float32 scalar.

    Raises:
      ValueError: unknown `kind`.
    """
    if kind not in GAN_LOSSES:
        raise ValueError(f"adversarial loss: expected kind {' or '.join(map(repr, GAN_LOSSES))}, got {kind!r}")
    scores = scores.astype(at_least_float32(scores.dtype))
    values = GAN_LOSSES[kind](scores, target)
    return share_of_mean(values if weights is None else weights * values, jnp.ones(scores.shape, bool), total)


def least_squares(scores: jax.Array, target: float) -> jax.Array:
    """Squared difference (least-squares GAN)."""
    return (scores - target) ** 2


def binary_cross_entropy(scores: jax.Array, target: float) -> jax.Array:
    """Binary cross entropy with logits, as GANs began."""
    return jax.nn.softplus(scores) - target * scores


# Adversarial losses that `gan` chooses: scores [...], label -> value of each score [...]
GAN_LOSSES = {"ls": least_squares, "vanilla": binary_cross_entropy}


# What the heads of a network, and a pixel's classes, say of each other


def self_information(probabilities: jax.Array) -> jax.Array:
    """-p log p / log K of each class, which adds up to a pixel's normalised entropy (ADVENT, Equation 4).

    Args:
      probabilities: [..., classes].

    Returns:
      Of that shape; in [0, 1] summed over classes.
    """
    classes = probabilities.shape[-1]
    return -probabilities * jnp.log2(probabilities + 1e-30) / jnp.log2(jnp.asarray(classes, probabilities.dtype))


def entropy(logits: jax.Array, size: tuple[int, int], *, total: jax.Array | None = None) -> jax.Array:
    """Mean normalised entropy of the prediction at the size of the image (MinEnt; ADVENT, Equation 3).

    Args:
      logits: [batch, h, w, classes].
      size: height and width of the image; the backward pass resizes again.
      total: pixels of the whole batch, see `share_of_mean`.

    Returns:
      The share of the mean over pixels, in [0, 1].
    """
    @jax.checkpoint
    def pixel_entropies(logits: jax.Array) -> jax.Array:
        logits = resize_align_corners(logits, size)
        p = jax.nn.softmax(logits.astype(at_least_float32(logits.dtype)), axis=-1)
        return jnp.sum(self_information(p), axis=-1)

    values = pixel_entropies(logits)
    return share_of_mean(values, jnp.ones(values.shape, bool), total)


def disagreement(first: jax.Array, second: jax.Array) -> jax.Array:
    """1 - cosine of two predictions of each pixel (CLAN, Equation 6).

    Args:
      first, second: probabilities, [..., classes].

    Returns:
      [...], in [0, 1].
    """
    return 1.0 - cosine(first, second)


def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
    """Cosine of two vectors in the last axis."""
    lengths = jnp.linalg.norm(first, axis=-1) * jnp.linalg.norm(second, axis=-1)
    return jnp.sum(first * second, axis=-1) / jnp.maximum(lengths, 1e-8)


def rectified_cross_entropy(
    logits: jax.Array,
    other: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
    *,
    total: jax.Array | None = None,
) -> jax.Array:
    """exp(-D) times cross entropy, plus D, the divergence KL(other || this) of two heads: pseudo labels that they
    disagree on count little (Seg-Uncertainty, arXiv:2003.03773, Equation 7). Gradients reach both heads.

    Args:
      logits, other: of the head that learns and of the other one, [batch, ..., classes].
      labels: integer [batch, ...]; IGNORE has no cross entropy, and its divergence counts.
      weights: of each pixel's cross entropy, [batch, ...]; None: 1.
      total: pixels of the whole batch, see `share_of_mean`.

    Returns:
      The share of the mean over all pixels.
    """
    log_this, log_other = _log_softmax(logits), _log_softmax(other)
    divergence = jnp.sum(jnp.exp(log_other) * (log_other - log_this), axis=-1)
    fit = _pixel_cross_entropy(logits, labels) * (1.0 if weights is None else weights)
    values = jnp.exp(-divergence) * fit + divergence
    return share_of_mean(values, jnp.ones(values.shape, bool), total)


# Rare classes and hard pixels (Seg-Uncertainty's code)

PRESENCE_MOMENTUM = 0.9


def class_weights(
    pixels: jax.Array, presence: jax.Array, *, weight: float, fewer_than: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Weights of classes: those with few pixels in a batch weigh more, and those that were often absent more still.

    Args:
      pixels: of each class in the whole batch, [classes].
      presence: running mean of `weight` where the class was absent and 1 where not, before this batch, [classes].
      weight: of a class with fewer pixels.
      fewer_than: how many that is.

    Returns:
      Weights float32 [classes], and `presence` after this batch.
    """
    now = jnp.where(pixels == 0, weight, 1.0)
    presence = PRESENCE_MOMENTUM * presence + (1.0 - PRESENCE_MOMENTUM) * now
    return jnp.where(pixels < fewer_than, weight, 1.0) * presence, presence


def hard_pixels(values: jax.Array, share: float, axis_name: str | None = None) -> jax.Array:
    """Where losses are among the largest.

    Args:
      values: loss of each pixel of this micro-batch, [batch, height, width].
      share: of all its pixels, over all devices, that are hard.
      axis_name: mapped axis over the devices, or None.

    Returns:
      bool, of that shape: losses of at least the quantile, between two losses by their distance from it.
    """
    every = jax.lax.stop_gradient(values)
    every = every if axis_name is None else jax.lax.all_gather(every, axis_name)
    return values >= jnp.quantile(every, 1.0 - share)


def selective_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    share: float,
    *,
    parts: int = 1,
    axis_name: str | None = None,
) -> jax.Array:
    """Weighted cross entropy of hard pixels: sum of weight times loss over sum of weights.

    Args:
      logits: [batch, h, w, classes]; resized to the labels.
      labels: integer [batch, height, width]; IGNORE does not count.
      weights: of the classes, [classes].
      share: see `hard_pixels`, by weight times loss, ignored pixels having none; 1: all count.
      parts: micro-batches, each of which has its own sum of weights.
      axis_name: mapped axis over the devices, or None.

    Returns:
      The share of the mean over micro-batches.
    """
    @jax.checkpoint
    def pixel_losses(logits: jax.Array) -> jax.Array:
        return _pixel_cross_entropy(resize_align_corners(logits, labels.shape[1:3]), labels)

    of_pixel = jax.nn.one_hot(labels, len(weights), dtype=jnp.float32) @ weights
    values = of_pixel * pixel_losses(logits)
    counted = labels != IGNORE
    if share < 1.0:
        counted &= hard_pixels(values, share, axis_name)
    total = jnp.sum(jnp.where(counted, of_pixel, 0.0))
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(total, 1e-9) / parts
