"""Class anchors: mean features of the source, whose neighbours get their label (CAG-UDA, Zhang et al., NeurIPS 2019).

Anchors are prototypes that do not move: `prototypes.class_means` of pixels that are predicted as what they are, and
`prototypes.accumulate`, which averages over images.
"""

import jax
import jax.numpy as jnp

from proda_jax.adaptation import prototypes
from proda_jax.data.label_spaces import IGNORE

CLOSEST_FIRST = 2  # anchors that are compared


def nearest_anchor_labels(distances: jax.Array, margin: float, seen: jax.Array | None = None) -> jax.Array:
    """The class of the nearest anchor, where the second-nearest is at least `margin` farther away.

    Args:
      distances: Euclidean, of features to anchors, [..., classes].
      margin: in units of feature distance (CAG-UDA: 2.5).
      seen: bool [classes]; a class without anchor is nowhere near.

    Returns:
      int32 [...], IGNORE where anchors are about as near.
    """
    apart = distances if seen is None else jnp.where(seen, distances, jnp.inf)
    nearest, second = jnp.moveaxis(-jax.lax.top_k(-apart, CLOSEST_FIRST)[0], -1, 0)
    return jnp.where(second - nearest >= margin, jnp.argmin(apart, axis=-1), IGNORE).astype(jnp.int32)


def class_vectors(
    features: jax.Array, logits: jax.Array, labels: jax.Array, *, min_pixels: int, gradient: str = "mean"
) -> tuple[jax.Array, jax.Array]:
    """Mean features of the pixels of each class in each image that are predicted as what their label says.

    Args:
      features, logits: [batch, h, w, channels] and [batch, h, w, classes].
      labels: integer [batch, h, w]; IGNORE belongs to no class.
      min_pixels: classes with fewer have no mean there (CAG-UDA: 10).
      gradient: 'mean', that of the mean; 'released': each pixel has 2 / (h w) of the mean's gradient, and not one over
        the number of pixels, so that small regions pull less.

    Returns:
      float32 [batch, classes, channels], and pixels [batch, classes], 0 where there is no mean.
    """
    assigned = jnp.where(jnp.argmax(logits, axis=-1) == labels, labels, IGNORE)
    means, pixels = prototypes.class_means(features, assigned, logits.shape[-1], min_pixels=min_pixels)
    if gradient == "released":
        pulled = means * (2.0 * pixels / (features.shape[1] * features.shape[2]))[..., None]
        means = jax.lax.stop_gradient(means - pulled) + pulled
    return means, pixels


def anchor_distances(vectors: jax.Array, anchors: jax.Array, *, scale: float = 10.0, most: float = 5.0) -> jax.Array:
    """Smooth L1 between class vectors and their anchors, mean over channels; far ones are brought down.

    Args:
      vectors: [..., classes, channels].
      anchors: [classes, channels].
      scale: of the result, and what a distance above `most` is divided by until it is not.

    Returns:
      float32 [..., classes].
    """
    apart = jnp.abs(vectors - anchors)
    terms = jnp.mean(jnp.where(apart < 1.0, 0.5 * apart**2, apart - 0.5), axis=-1)
    terms = jax.lax.fori_loop(0, 8, lambda _, x: jnp.where(x > most, x / scale, x), terms)  # up to 1e8 times as far
    return scale * terms
