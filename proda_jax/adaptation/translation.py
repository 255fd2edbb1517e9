"""What two generators and their discriminators minimise: cycles that close, translations that mean the same.

CycleGAN (Zhu et al., ICCV 2017, Equations 1 to 3), with the semantic loss of CyCADA (Hoffman et al., ICML 2018,
Equation 4) or of BDL (Li et al., CVPR 2019, Equation 5 with its released code's form). Terms are shares of means over
the whole batch, as in `losses`. Images are RGB in [-1, 1], [batch, height, width, 3].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from proda_jax.adaptation import losses
from proda_jax.models.precision import at_least_float32


def absolute_difference(images: jax.Array, others: jax.Array, *, shares: int = 1) -> jax.Array:
    """Mean |a - b| over all numbers: of an image and what comes back of it, |G'(G(x)) - x| (CycleGAN, Equation 2), or
    of an image and what the generator of its own domain makes of it.

    Args:
      images, others: of one shape.
      shares: how many such batches, of as many images, the whole batch has.

    Returns:
      The share of the mean, a scalar.
    """
    dtype = at_least_float32(images.dtype)
    terms = jnp.abs(images.astype(dtype) - others.astype(dtype))
    return losses.share_of_mean(terms, jnp.ones(terms.shape, bool), jnp.int32(terms.size * shares))


def same_labels(logits: jax.Array, others: jax.Array, *, shares: int = 1) -> jax.Array:
    """Cross entropy of a network's prediction for a translation with its label of the image (CyCADA, Equation 4).

    Args:
      logits: of images, [batch, h, w, classes]; their argmax is the label, and no gradient flows there.
      others: logits of their translations.
      shares: see `absolute_difference`.

    Returns:
      The share of the mean over all positions, a scalar.
    """
    total = jnp.int32(logits[..., 0].size * shares)
    return losses.cross_entropy(others, jnp.argmax(logits, axis=-1), total=total)


def same_logits(logits: jax.Array, others: jax.Array, *, shares: int = 1) -> jax.Array:
    """Mean squared difference of normalised logits (BDL); see `losses.semantic_difference`."""
    total = jnp.int32(logits.size * shares)
    return losses.semantic_difference(jax.lax.stop_gradient(logits), others, total=total)


# What `semantic` chooses: (logits of images, of what was made of them) -> share of the loss
SEMANTIC: dict[str, Callable[..., jax.Array]] = {"labels": same_labels, "logits": same_logits}
