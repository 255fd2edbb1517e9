"""Thresholds of pseudo labels by the confidences of each class (BDL, Li et al., CVPR 2019; FDA, CVPR 2020)."""

import jax
import jax.numpy as jnp


def class_thresholds(
    confidence: jax.Array, predicted: jax.Array, classes: int, *, portion: float, most: float = 0.9
) -> jax.Array:
    """For each class, the confidence below which `portion` of its predicted pixels lie.

    Args:
      confidence: largest probability of each pixel, any shape.
      predicted: its class, integer of the same shape.
      classes: number of classes.
      portion: share of pixels left out (BDL: 0.5, FDA: 0.66).
      most: no threshold is higher.

    Returns:
      float32 [classes]; 0 where no pixel has the class.
    """
    confidence, predicted = confidence.reshape(-1), predicted.reshape(-1)

    def threshold(k: jax.Array) -> jax.Array:
        own = predicted == k
        number = jnp.sum(own)
        ascending = jnp.sort(jnp.where(own, confidence, jnp.inf))
        index = jnp.round(portion * number).astype(jnp.int32)  # halves to even
        found = ascending[jnp.minimum(index, jnp.maximum(number - 1, 0))]
        return jnp.where(number > 0, jnp.minimum(found, most), 0.0)

    return jax.lax.map(threshold, jnp.arange(classes))
