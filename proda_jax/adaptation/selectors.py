"""Selectors: which pseudo labels a stage learns from, by how sure the network is. `label_selector` chooses one.

Those of `SELECTORS` take confidences [...] in [0, 1] and the stage's threshold, and say which labels are kept, bool
[...]. Those of `CLASS_SELECTORS` have a threshold for each class, from all target images, and choose when labels are
made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.adaptation import class_thresholds


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


@dataclass(frozen=True)
class ClassSelector:
    """A selector with a threshold for each class.

    Attributes:
      thresholds: (confidences of the pixels predicted as each class, `label_portion`, `label_threshold`) -> float32
        [classes].
      labels: (probabilities [..., classes], thresholds) -> int32 [...], IGNORE where a pixel has none.
      capped: whether `label_threshold` says how high thresholds are at most.
    """

    thresholds: Callable[[Sequence[np.ndarray], float, float], np.ndarray]
    labels: Callable[[jax.Array, jax.Array], jax.Array]
    capped: bool = False


CLASS_SELECTORS = {
    "class_balanced": ClassSelector(
        lambda confidences, portion, most: class_thresholds.top_portion(confidences, portion),
        class_thresholds.balanced_labels,
    ),
    "all_classes": ClassSelector(
        lambda confidences, portion, most: class_thresholds.top_portion_of_all(confidences, portion),
        class_thresholds.balanced_labels,
    ),
    "class_portion": ClassSelector(
        lambda confidences, portion, most: class_thresholds.all_but_portion(confidences, 1.0 - portion, most),
        class_thresholds.confident_labels,
        capped=True,
    ),
}  # fmt: skip


def by_confidence(name: str) -> Callable[[jax.Array, float], jax.Array]:
    """The row of `SELECTORS`; that of all labels for a selector that has chosen when they were made."""
    return none if name in CLASS_SELECTORS else SELECTORS[name]
