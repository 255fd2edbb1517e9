"""Means and variances of each class's features over all batches so far, and what contrasts with them (SePiCo).

Xie et al., TPAMI 2023.
"""

import flax.struct
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class ClassStatistics:
    """Of features of each class.

    Attributes:
      mean, variance: [classes, channels].
      amount: how many features each class has had, [classes].
    """

    mean: jax.Array
    variance: jax.Array
    amount: jax.Array


def empty(classes: int, channels: int) -> ClassStatistics:
    """Statistics before any data."""
    zeros = jnp.zeros((classes, channels), jnp.float32)
    return ClassStatistics(zeros, zeros, jnp.zeros(classes, jnp.float32))


def batch_means(features: jax.Array, labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean [classes, channels], biased variance and number [classes] of a batch's features [n, channels]."""
    members = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    number = members.sum(axis=0)
    divisor = jnp.maximum(number, 1.0)[:, None]
    mean = jnp.einsum("nk,nc->kc", members, features, precision=HIGHEST) / divisor
    own = jnp.einsum("nk,kc->nc", members, mean, precision=HIGHEST)
    variance = jnp.einsum("nk,nc->kc", members, (features - own) ** 2, precision=HIGHEST) / divisor
    return mean, variance, number


def add(current: ClassStatistics, features: jax.Array, labels: jax.Array) -> ClassStatistics:
    """The statistics with one more batch: each feature counts as much as those before it.

    Args:
      current: so far.
      features: [n, channels].
      labels: their classes, [n]; IGNORE and other values outside of the classes add nothing.
    """
    mean, variance, number = batch_means(features, labels, len(current.amount))
    amount = current.amount + number
    rate = (number / jnp.maximum(amount, 1.0))[:, None]
    apart = rate * (1.0 - rate) * (mean - current.mean) ** 2
    return ClassStatistics(
        current.mean + rate * (mean - current.mean),
        current.variance + rate * (variance - current.variance) + apart,
        amount,
    )


def _picked(values: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(values * jax.nn.one_hot(labels, values.shape[-1], dtype=jnp.float32), axis=-1)


def prototype_contrast(features: jax.Array, labels: jax.Array, mean: jax.Array, temperature: float) -> jax.Array:
    """Cross entropy of each feature's similarity to the classes' means, [n] of [n, channels]."""
    logits = jnp.einsum("nc,kc->nk", features, mean, precision=HIGHEST) / temperature
    return -_picked(jax.nn.log_softmax(logits, axis=-1), labels)


def distribution_contrast(
    features: jax.Array, labels: jax.Array, mean: jax.Array, variance: jax.Array, temperature: float
) -> jax.Array:
    """The same with infinitely many features of each class, as Gaussians with a diagonal covariance, [n]."""
    spread = jnp.einsum("nc,kc->nk", features**2, variance / temperature, precision=HIGHEST)
    logits = (jnp.einsum("nc,kc->nk", features, mean, precision=HIGHEST) + 0.5 * spread) / temperature
    own = 0.5 * _picked(spread, labels) / temperature
    return -_picked(jax.nn.log_softmax(logits, axis=-1), labels) + own


def bank_contrast(
    features: jax.Array, labels: jax.Array, bank: jax.Array, held: jax.Array, temperature: float
) -> jax.Array:
    """The same with the means of each class in the last batches, [n].

    Args:
      features: [n, channels].
      labels: [n].
      bank: [classes, batches, channels].
      held: which of them there are, bool [classes, batches].
      temperature: of the similarities.
    """
    similar = jnp.einsum("nc,kbc->nkb", features, bank, precision=HIGHEST) / temperature
    number = jnp.maximum(held.sum(axis=-1), 1)
    of_class = jnp.sum(jnp.where(held, similar, 0.0), axis=-1) / number
    own = jax.nn.one_hot(labels, len(bank), dtype=jnp.float32)
    others = jax.nn.logsumexp(jnp.where(own > 0, -jnp.inf, of_class), axis=-1)[:, None]
    mine = jnp.einsum("nk,nkb->nb", own, similar, precision=HIGHEST)
    there = jnp.einsum("nk,kb->nb", own, held.astype(jnp.float32))
    terms = jnp.logaddexp(mine, others) - mine
    return jnp.sum(there * terms, axis=-1) / jnp.maximum(there.sum(axis=-1), 1.0)


def mean_feature_spread(features: jax.Array, mean: jax.Array, temperature: float) -> jax.Array:
    """SePiCo's regulariser as released: log probabilities of the mean feature, summed, over K log K.

    It is largest where the mean feature is equally near to all classes, from which minimising it leads away.
    """
    logits = jnp.einsum("c,kc->k", features.mean(axis=0), mean, precision=HIGHEST) / temperature
    return jnp.sum(jax.nn.log_softmax(logits)) / (len(mean) * jnp.log(len(mean)))
