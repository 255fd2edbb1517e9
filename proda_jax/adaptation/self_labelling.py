"""Class-balanced self-labelling: optimal assignments to prototypes with given class shares (CPSL).

Li et al., CVPR 2022. Features and prototypes are compared by their cosine.
"""

import jax
import jax.numpy as jnp

from proda_jax.adaptation.losses import share_of_mean
from proda_jax.adaptation.prototypes import cosines, unit
from proda_jax.data.label_spaces import IGNORE

HIGHEST = jax.lax.Precision.HIGHEST
FAR = -1e30  # a similarity of which nothing is left; finite, for the gradient's sake


def cosine_weights(features: jax.Array, prototypes: jax.Array, temperature: float = 0.08) -> jax.Array:
    """CPSL's weight of Equation 3: softmax over classes of cosine / temperature, [..., classes]."""
    return jax.nn.softmax(cosines(features, prototypes) / temperature, axis=-1)


def sinkhorn(
    scores: jax.Array,
    distribution: jax.Array,
    *,
    counted: jax.Array | None = None,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> jax.Array:
    """Soft labels nearest to scores whose classes have given shares (Sinkhorn and Knopp).

    Args:
      scores: [pixels, classes].
      distribution: share of each class, [classes], which sum to one.
      counted: pixels that take part, bool [pixels]; None: all.
      epsilon: of the entropy that smooths them.
      iterations: number of rescalings.

    Returns:
      float32 [pixels, classes]; each pixel's sum to one, or are zero where it takes no part.
    """
    logits = scores.astype(jnp.float32) / epsilon
    q = jnp.exp(logits - logits.max())
    if counted is not None:
        q = jnp.where(counted[:, None], q, 0.0)
    for _ in range(iterations):
        q = q / jnp.maximum(jnp.sum(q, axis=0, keepdims=True), 1e-30) * distribution
        q = q / jnp.maximum(jnp.sum(q, axis=1, keepdims=True), 1e-30)
    return jax.lax.stop_gradient(q)


def self_labelling(
    features: jax.Array,
    prototypes: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 0.08,
    counted: jax.Array | None = None,
    total: jax.Array | None = None,
) -> jax.Array:
    """Cross entropy of the assignment to prototypes with soft labels of `sinkhorn`.

    As released, features are the momentum encoder's, so that it trains the prototypes alone.

    Args:
      features: [images, pixels, channels]; no gradient flows into them.
      prototypes: [classes, channels], which learn.
      targets: [images, pixels, classes].
      temperature: of the softmax over cosines.
      counted: pixels that take part, bool [images, pixels]; None: all.
      total: number of them in the whole batch; None: these are all.

    Returns:
      The share of the loss, float32 scalar.
    """
    logits = cosines(jax.lax.stop_gradient(features), prototypes) / temperature
    terms = -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    return share_of_mean(terms, jnp.ones(terms.shape, bool) if counted is None else counted, total)


def contrast_with_queue(
    features: jax.Array,
    labels: jax.Array,
    queue: jax.Array,
    queue_labels: jax.Array,
    *,
    temperature: float = 0.08,
    total: jax.Array | None = None,
) -> jax.Array:
    """Features are to be near those of their class in a queue, and far from all others.

    A feature whose class is not in the queue adds nothing, but is one that the mean is over (released).

    Args:
      features: [n, channels], of any length.
      labels: their classes, [n]; IGNORE: it does not count.
      queue: features of before, [m, channels], of length one; no gradient flows into them.
      queue_labels: their classes, [m]; IGNORE: there is none yet.
      temperature: of the similarities.
      total: number of features that count in the whole batch; None: these are all.

    Returns:
      The share of the loss, float32 scalar.
    """
    queue, held = jax.lax.stop_gradient(queue), queue_labels != IGNORE
    similar = jnp.einsum("nc,mc->nm", unit(features), queue, precision=HIGHEST) / temperature
    same = labels[:, None] == queue_labels[None, :]
    others = jax.nn.logsumexp(jnp.where(same | ~held, FAR, similar), axis=-1, keepdims=True)
    same = same & held
    terms = jnp.where(same, similar - jnp.logaddexp(similar, others), 0.0)
    terms = -jnp.sum(terms, axis=-1) / (jnp.sum(same, axis=-1) + 1e-5)
    return share_of_mean(terms, labels != IGNORE, total)
