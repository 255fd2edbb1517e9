"""Thresholds of pseudo labels for each class, from the confidences of a whole data set (CBST, CRST, BDL, FDA).

One threshold for all classes leaves the hard ones without labels, as a network is less sure of them. Here each class
keeps the same portion of its pixels. References: CBST (Zou et al., ECCV 2018), CRST (Zou et al., ICCV 2019), BDL (Li et
al., CVPR 2019), FDA (Yang and Soatto, CVPR 2020).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.data.label_spaces import IGNORE


def by_class(confidence: np.ndarray, predicted: np.ndarray, classes: int, every: int = 1) -> list[np.ndarray]:
    """Confidences of an image's pixels, those of each predicted class by themselves.

    Args:
      confidence: largest probability of each pixel, [height, width].
      predicted: its class, integer of the same shape.
      classes: number of classes.
      every: of the pixels of a class, row by row, every so manieth is kept, the first of them first (CBST: 4).

    Returns:
      float32 arrays, one for each class.
    """
    return [np.asarray(confidence[predicted == k][::every], np.float32) for k in range(classes)]


def top_portion(confidences: Sequence[np.ndarray], portion: float) -> np.ndarray:
    """For each class, the least of the confidences that are its highest `portion` (lambda of CBST and CRST).

    Args:
      confidences: of the pixels predicted as each class, over the whole data set.
      portion: share of them that is to have a label, rounded down.

    Returns:
      float32 [classes]; 1 where that is no pixel at all.
    """

    def threshold(own: np.ndarray) -> float:
        number = int(np.floor(len(own) * portion))
        found = np.partition(own, len(own) - number)[len(own) - number] if number else 0.0
        return found or 1.0

    return np.array([threshold(own) for own in confidences], np.float32)


def top_portion_of_all(confidences: Sequence[np.ndarray], portion: float) -> np.ndarray:
    """The same threshold for all classes, float32 [classes]: self-training as CBST is compared with."""
    return np.repeat(top_portion([np.concatenate(confidences)], portion), len(confidences))


def all_but_portion(confidences: Sequence[np.ndarray], portion: float, most: float = 0.9) -> np.ndarray:
    """For each class, the confidence below which `portion` of its pixels lie, and no more than `most` (BDL, FDA).

    Args:
      confidences: of the pixels predicted as each class, over the whole data set.
      portion: share of them that is left out (BDL: 0.5, the median; FDA: 0.66).
      most: no threshold is higher: surer pixels have a label whatever the portion.

    Returns:
      float32 [classes]; 0 where there is no pixel.
    """

    def threshold(own: np.ndarray) -> float:
        if not len(own):
            return 0.0
        place = min(int(np.round(portion * len(own))), len(own) - 1)  # halves to even
        return min(np.partition(own, place)[place], most)

    return np.array([threshold(own) for own in confidences], np.float32)


def rare_classes(pixels: Sequence[int], number: int = 3, share: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Classes of which there are few labels to choose from: the `number` smallest, and those below a share of all.

    CBST and CRST draw more crops of them (*mining*), which no stage here does.

    Args:
      pixels: predicted as each class.
      number: of the smallest classes.
      share: of all pixels.

    Returns:
      Both int64, in ascending order of their pixels.
    """
    order = np.argsort(pixels, kind="stable")
    return order[:number], order[np.asarray(pixels)[order] < share * np.sum(pixels)]


def balanced_labels(probabilities: jax.Array, thresholds: jax.Array) -> jax.Array:
    """argmax_c p_c / lambda_c, where that is at least 1 (CBST). It need not be the class of the largest p.

    Args:
      probabilities: [..., classes].
      thresholds: lambda, [classes].

    Returns:
      int32 [...], IGNORE where a pixel has no label.
    """
    p = probabilities.astype(jnp.float32)
    kept = jnp.any(p >= thresholds, axis=-1)  # not by the ratio, which rounding may leave below 1 where both are equal
    return jnp.where(kept, jnp.argmax(p / thresholds, axis=-1), IGNORE).astype(jnp.int32)


def confident_labels(probabilities: jax.Array, thresholds: jax.Array) -> jax.Array:
    """argmax_c p_c, where p is at least that class's threshold (BDL, FDA); arguments as in `balanced_labels`."""
    labels = jnp.argmax(probabilities, axis=-1)
    return jnp.where(probabilities.max(-1) >= thresholds[labels], labels, IGNORE).astype(jnp.int32)


def regularised_labels(probabilities: jax.Array, thresholds: jax.Array, entropy: float) -> jax.Array:
    """Soft labels of LRENT (CRST): s proportional to (p / lambda)^(1 / entropy).

    A pixel has one where -sum s log p + entropy sum s log s < -sum s log lambda. With less and less entropy this is
    `balanced_labels`.

    Args:
      probabilities: [..., classes].
      thresholds: lambda, [classes].
      entropy: alpha, the weight of the labels' negative entropy (CRST: 0.25).

    Returns:
      float32 [..., classes], zero for all classes where a pixel has no label.
    """
    p, tiny = probabilities.astype(jnp.float32), 1e-32
    soft = jax.nn.softmax((jnp.log(p) - jnp.log(thresholds)) / entropy, axis=-1)
    cost = soft * (entropy * jnp.log(soft + tiny) - jnp.log(p + tiny) + jnp.log(thresholds + tiny))
    return jnp.where(cost.sum(-1, keepdims=True) < 0, soft, 0.0)
