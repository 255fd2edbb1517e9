"""Selectors: which pseudo labels a stage learns from, by how sure the network is. `label_selector` chooses one.

Each takes confidences [...] in [0, 1] and the stage's threshold, and says which labels are kept, bool [...].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def none(confidence: jax.Array, threshold: float) -> jax.Array:
    """All labels are kept."""
    del threshold
    return jnp.ones(confidence.shape, bool)


def threshold(confidence: jax.Array, threshold: float) -> jax.Array:
    """Labels of at least this confidence are kept (Table 4; released stage 1)."""
    return confidence >= threshold


def above_threshold(confidence: jax.Array, threshold: float) -> jax.Array:
    """Labels of more than this confidence are kept (Section 5.1; released stages 2 and 3)."""
    return confidence > threshold


SELECTORS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "none": none,
    "threshold": threshold,
    "above_threshold": above_threshold,
}
