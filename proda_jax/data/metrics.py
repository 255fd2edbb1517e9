"""Confusion matrix on the device, scores from it on the host."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(predictions: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Counts pixels by true and predicted class; matrices of batches add up.

    Args:
      predictions: integer class of each pixel, any shape.
      labels: true class, the same shape; IGNORE (and anything else outside 0 .. classes - 1) does not count.
      classes: number of classes.

    Returns:
      int32 [classes, classes]; row = truth, column = prediction. Exact up to 2^31 - 1 pixels a cell, about a
      thousand full Cityscapes images.
    """
    labels, predictions = labels.astype(jnp.int32).ravel(), predictions.astype(jnp.int32).ravel()
    counts = (labels >= 0) & (labels < classes)
    cells = jnp.where(counts, labels * classes + predictions, classes * classes)  # the extra cell is thrown away
    return jnp.bincount(cells, length=classes * classes + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _nanmean(values: np.ndarray) -> float:
    return float(values[~np.isnan(values)].mean()) if np.any(~np.isnan(values)) else float("nan")


def scores(confusion: np.ndarray, subset: Sequence[int] | None = None) -> dict[str, np.ndarray | float]:
    """Intersection over union, Dice and accuracies of a confusion matrix.

    Args:
      confusion: [classes, classes], row = truth, column = prediction; a further column, if there is one, counts pixels
        that were given no class, which is wrong.
      subset: classes to report, as for SYNTHIA's 13 of 16; None for all. Each class keeps the IoU it has among all
        classes, confusions with classes outside the subset included, and only the averages run over the subset: so
        the paper's mIoU* (Table 2) follows from the columns of its table. Accuracies are over the true pixels of
        the subset.

    Returns:
      `iou` [classes or subset] (nan for a class in neither truth nor prediction), `miou` (mean over the others),
      `dice` [classes or subset] (twice the pixels of both over the sum of the pixels of each; also called F1), `mdice`,
      `pixel_accuracy`, and `class_accuracy` (mean over classes of the share of their true pixels found). Fractions.
    """
    confusion = np.asarray(confusion, np.float64)
    chosen = np.arange(len(confusion)) if subset is None else np.asarray(subset, int)
    hits, truth, predicted = np.diag(confusion)[chosen], confusion.sum(1)[chosen], confusion.sum(0)[chosen]
    iou = _ratio(hits, truth + predicted - hits)
    dice = _ratio(2 * hits, truth + predicted)
    return {
        "iou": iou,
        "miou": _nanmean(iou),
        "dice": dice,
        "mdice": _nanmean(dice),
        "pixel_accuracy": float(_ratio(hits.sum(), truth.sum())),
        "class_accuracy": _nanmean(_ratio(hits, truth)),
    }
