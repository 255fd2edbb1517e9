"""Evaluation on whole images: one scale, no flip, confusion matrix on the device (Section 5.1).

Scores are at the labels' own size (`LABELS`), or at `IMAGE_SIZE`, to which labels are resized as images are; that of
configurations which do not say. Where labels have that size, as in the paper's tasks, it is the same.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from proda_jax.data import metrics
from proda_jax.data.label_spaces import LabelSpace
from proda_jax.data.source import ExampleSource
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_align_corners
from proda_jax.run import own_size
from proda_jax.system import devices, hosts
from proda_jax.system.progress import progress

LABELS, IMAGE_SIZE = "labels", "image_size"  # where scores are
NOTHING_COUNTS = (
    "no pixel of the {} validation images has a label that counts: do the label files hold the values that "
    "data.label_space expects?"
)


def scored_at(config: ml_collections.ConfigDict) -> str:
    """Where a configuration's scores are; those of older versions do not say."""
    return config.get("evaluate_at", IMAGE_SIZE)


def predict(model: SegmentationNetwork, variables: Any, images: jax.Array) -> jax.Array:
    """Classes of whole images.

    Args:
      model: the network.
      variables: {'params', 'batch_stats'}.
      images: uint8 [batch, height, width, 3], RGB.

    Returns:
      int32 [batch, height, width]: argmax of the logits upsampled with corners aligned.
    """
    logits = model.apply(variables, images.astype(jnp.float32) / 255.0, train=False).logits
    return jnp.argmax(resize_align_corners(logits, images.shape[1:3]), axis=-1)


def confusion_step(model: SegmentationNetwork, mesh: Mesh, at: str = IMAGE_SIZE) -> Callable:
    """Mapped function (variables, matrix, batch of images and labels) -> the matrix with all devices' pixels added."""
    if at == LABELS:
        return own_size.confusion_step(model, mesh)
    return devices.map_step(functools.partial(_add_confusion, model), mesh, "rrb", "r")


def _add_confusion(
    model: SegmentationNetwork, variables: Any, matrix: jax.Array, batch: dict[str, jax.Array]
) -> jax.Array:
    counted = jnp.where((batch["record"] >= 0)[:, None, None], batch["label"].astype(jnp.int32), -1)
    added = metrics.confusion_matrix(predict(model, variables, batch["image"]), counted, model.classes)
    return matrix + jax.lax.psum(added, devices.AXIS)


def evaluate(
    step: Callable,
    variables: Any,
    source: ExampleSource,
    batch_size: int,
    classes: int,
    mesh: Mesh,
    title: str = "evaluating",
    new: bool = True,
    at: str = IMAGE_SIZE,
) -> np.ndarray:
    """Confusion matrix of a network on a labelled data set.

    Args:
      step: from `confusion_step`.
      variables: of the network, replicated.
      source: the data set.
      batch_size: images in one step, over all devices.
      classes: number of classes.
      mesh: the devices.
      title: for the progress bar.
      new: whether `step` is called for the first time, which compiles it.
      at: where scores are, as `step` has them.

    Returns:
      int64 [classes, classes]; row = truth.

    Raises:
      ValueError: no pixel has a label that counts.
    """
    empty = devices.replicate(np.zeros((classes, classes), np.int32), mesh)
    total, matrix, pixels = np.zeros((classes, classes), np.int64), empty, 0
    if at == LABELS:
        batches = own_size.batches(source, batch_size)
    else:
        batches = source.ordered_batches(batch_size, labels=True, shard=hosts.share())
    with progress(title, len(source), leave=False) as bar:
        for batch in devices.prefetch(batches, mesh):
            pixels += batch["label"].size
            if pixels >= 2**31:  # more than a cell on the device is sure to hold
                total, matrix, pixels = total + np.asarray(matrix), empty, batch["label"].size
            with bar.compiling() if new else contextlib.nullcontext():
                matrix = devices.block_on_cpu(step(variables, matrix, batch))
            bar.update(min(batch_size, len(source) - bar.done))
        total += np.asarray(matrix)
    if not total.any():
        raise ValueError(NOTHING_COUNTS.format(len(source)))
    return total


def summary(
    confusion: np.ndarray,
    space: LabelSpace,
    subsets: Mapping[str, Sequence[int]] | None = None,
    *,
    dice: bool = False,
) -> dict:
    """Scores in percent, as results.json has them.

    Args:
      confusion: [classes, classes], or with a column more, see `metrics.scores`.
      space: label space of the classes.
      subsets: train ids over which mIoU is reported, too, by name; default: those of the space.
      dice: whether it is wanted, too.

    Returns:
      {'miou', 'pixel_accuracy', 'iou': {class: value or None}, 'miou_<name>' for each of the subsets}, and 'mdice' and
      'dice' likewise.
    """

    def percent(value: float) -> float | None:
        return None if np.isnan(value) else round(100.0 * float(value), 2)

    scores = metrics.scores(confusion)
    result = {"miou": percent(scores["miou"]), "pixel_accuracy": percent(scores["pixel_accuracy"])}
    for name, subset in (space.subsets if subsets is None else subsets).items():
        result[f"miou_{name}"] = percent(metrics.scores(confusion, subset)["miou"])
    for measure in ("iou", "dice") if dice else ("iou",):
        result[measure] = {name: percent(value) for name, value in zip(space.classes, scores[measure], strict=True)}
    return result | ({"mdice": percent(scores["mdice"])} if dice else {})
