"""Scores at the labels' own size: the network's scores are interpolated to each label, which is never resized."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from proda_jax.data import metrics
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.source import Batch, ExampleSource
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.system import devices, hosts

BAND = 64  # rows of a label that are scored at once, so that scores of all its pixels never are in memory


def confusion_step(model: SegmentationNetwork, mesh: Mesh) -> Callable:
    """Function (variables, matrix, batch) -> the matrix with all devices' pixels added; batches are those of `batches`.

    The network is a program of its own, so that labels of another size compile a small one alone.
    """
    logits_of = devices.map_step(functools.partial(_logits, model), mesh, "rb", "b")
    count = devices.map_step(_count, mesh, "rbb", "r")

    def step(variables: Any, matrix: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        labels = {name: batch[name] for name in ("label", "label_size", "record")}
        return count(matrix, logits_of(variables, batch["image"]), labels)

    return step


def batches(source: ExampleSource, batch_size: int) -> Iterator[Batch]:
    """This host's shares of `ExampleSource.scored_batches`, labels filled up to whole bands, on all hosts alike."""
    for batch in source.scored_batches(batch_size, shard=hosts.share()):
        held = np.array(batch["label"].shape[1:])
        height, width = -(-hosts.largest(held) // BAND) * BAND - held
        yield batch | {"label": np.pad(batch["label"], ((0, 0), (0, height), (0, width)), constant_values=IGNORE)}


def resized_classes(logits: jax.Array, rows: jax.Array, width: int, size: jax.Array) -> jax.Array:
    """Classes of some rows of an image, from logits interpolated with corners aligned (`resize_align_corners`).

    Args:
      logits: float32 [h, w, classes].
      rows: int32 [rows], of the result.
      width: columns of the result that are wanted, from the first.
      size: int32 [2], height and width of the whole result, which need be known on the device alone; rows and columns
        outside of it repeat its last ones.

    Returns:
      int32 [rows, width].
    """
    below, above, share = _between(rows, logits.shape[0], size[0])
    share = share[:, None, None]
    of_rows = logits[below] * (1 - share) + logits[above] * share
    below, above, share = _between(jnp.arange(width), logits.shape[1], size[1])
    share = share[None, :, None]
    return jnp.argmax(of_rows[:, below] * (1 - share) + of_rows[:, above] * share, axis=-1)


def _between(places: jax.Array, size_in: int, size_out: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The samples on both sides of each place of a result, and the second one's share; in whole numbers, so exactly."""
    last = jnp.maximum(size_out - 1, 1)
    product = jnp.minimum(places, size_out - 1) * (size_in - 1)
    below = product // last
    share = (product - below * last).astype(jnp.float32) / last.astype(jnp.float32)
    return below, jnp.minimum(below + 1, size_in - 1), share


def _logits(model: SegmentationNetwork, variables: Any, images: jax.Array) -> jax.Array:
    return model.apply(variables, images.astype(jnp.float32) / 255.0, train=False).logits.astype(jnp.float32)


def _count(matrix: jax.Array, logits: jax.Array, labels: dict[str, jax.Array]) -> jax.Array:
    """Adds what the devices' pixels are and are taken for, band by band."""
    batch, height, width = labels["label"].shape
    of_bands = jnp.moveaxis(labels["label"].astype(jnp.int32).reshape(batch, -1, BAND, width), 1, 0)

    def count_band(number_and_label: tuple[jax.Array, jax.Array]) -> jax.Array:
        number, label = number_and_label
        classes = jax.vmap(resized_classes, (0, None, None, 0))(
            logits, number * BAND + jnp.arange(BAND), width, labels["label_size"]
        )
        counted = jnp.where((labels["record"] >= 0)[:, None, None], label, -1)
        return metrics.confusion_matrix(classes, counted, logits.shape[-1])

    added = jax.lax.map(count_band, (jnp.arange(height // BAND), of_bands)).sum(0)
    return matrix + jax.lax.psum(added, devices.AXIS)
