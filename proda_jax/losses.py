"""The paper's losses (Equations 1, 7, 9, 10, 12) and the warm-up's adversarial loss.

Each returns **this device's share of the global mean**: the sum over its own pixels divided by the number of pixels
that count on all devices of `axis_name`. The sum of the shares over the devices is the loss, and the sum of their
gradients its gradient, however unevenly ignored pixels are spread. With `axis_name=None` the share is the loss.
"""

import jax
import jax.numpy as jnp

from proda_jax.data.label_spaces import IGNORE
from proda_jax.prototypes import log_assignment_weights
from proda_jax.resizing import resize_align_corners

PREDICTION_FLOOR = 1e-7  # clamp of the prediction in the reverse cross entropy (released code)
LABEL_FLOOR = 1e-4  # clamp of its one-hot label, whose log would be infinite (Equation 7 and the line below it)


def share_of_mean(
    values: jax.Array, mask: jax.Array | None = None, axis_name: str | None = None, reduction: str = "mean"
) -> jax.Array:
    """This device's share of a mean over all devices.

    Args:
      values: [batch, ...].
      mask: bool, the shape of `values`; only what is true counts. None counts everything.
      axis_name: the mapped axis that spans the devices; None where there is one.
      reduction: 'mean' divides by the number of values that count (released code); 'sum' sums within an image, as
        the paper's equations do, and divides by the number of images.

    Returns:
      float32 scalar; zero where nothing counts on any device.

    Raises:
      ValueError: unknown `reduction`.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"loss reduction: expected 'mean' or 'sum', got {reduction!r}")
    if mask is None:
        mask = jnp.ones(values.shape, bool)
    count = jnp.sum(mask) if reduction == "mean" else jnp.asarray(values.shape[0])
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(count, 1).astype(jnp.float32)


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    # a product with the one-hot label rather than a lookup: its backward pass has no scatter (slow, unordered on GPU)
    return -jnp.sum(_log_softmax(logits) * jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), axis=-1)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, axis_name: str | None = None, reduction: str = "mean"
) -> jax.Array:
    """Cross entropy with hard labels (Equation 1).

    Args:
      logits: [batch, ..., classes].
      labels: integer [batch, ...]; IGNORE does not count.
      axis_name: see `share_of_mean`.
      reduction: see `share_of_mean`.

    Returns:
      This device's share, float32 scalar.
    """
    return share_of_mean(_pixel_cross_entropy(logits, labels), labels != IGNORE, axis_name, reduction)


def upsampled_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, axis_name: str | None = None, reduction: str = "mean"
) -> jax.Array:
    """Cross entropy at label size: logits are resized to the labels, corners aligned (Equation 1, source images).

    The backward pass resizes again instead of keeping logits at label size, the largest tensors of a step.

    Args:
      logits: [batch, height, width, classes].
      labels: integer [batch, label height, label width]; IGNORE does not count.
      axis_name: see `share_of_mean`.
      reduction: see `share_of_mean`.

    Returns:
      This device's share, float32 scalar.
    """
    @jax.checkpoint
    def pixel_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return _pixel_cross_entropy(resize_align_corners(logits, labels.shape[1:3]), labels)

    return share_of_mean(pixel_losses(logits, labels), labels != IGNORE, axis_name, reduction)


def soft_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array | None = None,
    *,
    axis_name: str | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Cross entropy with soft labels (Equation 1 without the argmax of Equation 2; variants of Figure 4).

    Args:
      logits: [batch, ..., classes].
      targets: probabilities, [batch, ..., classes]; no gradient flows into them.
      mask: bool [batch, ...], pixels that count; None for all.
      axis_name: see `share_of_mean`.
      reduction: see `share_of_mean`.

    Returns:
      This device's share, float32 scalar.
    """
    targets = jax.lax.stop_gradient(targets.astype(jnp.float32))
    return share_of_mean(-jnp.sum(targets * _log_softmax(logits), axis=-1), mask, axis_name, reduction)


def reverse_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, axis_name: str | None = None, reduction: str = "mean"
) -> jax.Array:
    """Cross entropy with prediction and label exchanged, l_ce(y, p) in Equation 7.

    The prediction is clamped to [1e-7, 1] and the one-hot label to [1e-4, 1].

    Args and returns as in `cross_entropy`.
    """
    prediction = jnp.clip(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), PREDICTION_FLOOR, 1.0)
    label = jnp.clip(jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), LABEL_FLOOR, 1.0)
    return share_of_mean(-jnp.sum(prediction * jnp.log(label), axis=-1), labels != IGNORE, axis_name, reduction)


def symmetric_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float,
    beta: float,
    axis_name: str | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """alpha * l_ce(p, y) + beta * l_ce(y, p) (Equation 7; Table 9).

    Args:
      logits: [batch, ..., classes].
      labels: integer [batch, ...]; IGNORE does not count.
      alpha: weight of the cross entropy (paper: 0.1).
      beta: weight of the reverse cross entropy (paper: 1).
      axis_name: see `share_of_mean`.
      reduction: see `share_of_mean`.

    Returns:
      This device's share, float32 scalar.
    """
    forward = cross_entropy(logits, labels, axis_name=axis_name, reduction=reduction)
    return alpha * forward + beta * reverse_cross_entropy(logits, labels, axis_name=axis_name, reduction=reduction)


def class_balance(
    logits: jax.Array, kind: str = "mrkld", *, axis_name: str | None = None, reduction: str = "mean"
) -> jax.Array:
    """Regulariser against the collapse onto few classes (Equation 10).

    Args:
      logits: [batch, ..., classes]; every pixel counts.
      kind: 'mrkld', -log p over pixels and classes (Equation 10), or 'mrent', sum of p log p over pixels (negative
        entropy, the alternative in the released code).
      axis_name: see `share_of_mean`.
      reduction: 'mean' over pixels (and classes, with 'mrkld') as released, 'sum' over them as in the paper.

    Returns:
      This device's share, float32 scalar.

    Raises:
      ValueError: unknown `kind`.
    """
    log_p = _log_softmax(logits)
    if kind == "mrkld":
        return share_of_mean(-log_p, None, axis_name, reduction)
    if kind == "mrent":
        return share_of_mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1), None, axis_name, reduction)
    raise ValueError(f"class balance: expected kind 'mrkld' or 'mrent', got {kind!r}")


def assignment_consistency(
    student_distances: jax.Array,
    teacher_distances: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 1.0,
    seen: jax.Array | None = None,
    over_classes: str = "mean",
    axis_name: str | None = None,
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
      axis_name: see `share_of_mean`.

    Returns:
      This device's share of the mean over valid pixels.
    """
    log_student = log_assignment_weights(student_distances, temperature, seen)
    log_teacher = jax.lax.stop_gradient(log_assignment_weights(teacher_distances, temperature, seen))
    terms = jnp.exp(log_teacher) * (log_teacher - log_student)
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[over_classes]
    return share_of_mean(reduce(terms, axis=-1), valid, axis_name)


def distillation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    valid: jax.Array,
    *,
    form: str = "equation12",
    axis_name: str | None = None,
) -> jax.Array:
    """Knowledge distillation, KL(p_t || p_t^dagger) (last term of Equation 12).

    Args:
      student_logits: [batch, ..., classes].
      teacher_logits: [batch, ..., classes]; no gradient flows into them.
      valid: bool [batch, ...], pixels that count.
      form: 'equation12', the divergence averaged over pixels and classes; 'equation12_per_pixel', averaged over
        pixels; 'released', what the released code computes: the student's probabilities stand where their
        logarithms are due, so it is no divergence and can be negative; averaged over pixels and classes.
      axis_name: see `share_of_mean`.

    Returns:
      This device's share, float32 scalar.

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
    return share_of_mean(over_classes[form](terms, axis=-1), valid, axis_name)


def gan_loss(scores: jax.Array, target: float, kind: str = "ls", *, axis_name: str | None = None) -> jax.Array:
    """How far the discriminator's scores are from a domain's label (warm-up, AdaptSegNet).

    Args:
      scores: the discriminator's output, [batch, height, width, 1].
      target: the label that is asked for: 0 source, 1 target.
      kind: 'ls', squared difference (least-squares GAN), or 'vanilla', binary cross entropy with logits.
      axis_name: see `share_of_mean`.

    Returns:
      This device's share of the mean over all scores, float32 scalar.

    Raises:
      ValueError: unknown `kind`.
    """
    scores = scores.astype(jnp.float32)
    if kind == "ls":
        return share_of_mean((scores - target) ** 2, None, axis_name)
    if kind == "vanilla":
        return share_of_mean(jax.nn.softplus(scores) - target * scores, None, axis_name)
    raise ValueError(f"adversarial loss: expected kind 'ls' or 'vanilla', got {kind!r}")
