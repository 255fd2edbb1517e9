"""Predictions averaged over scales and flips of an image (test-time augmentation), in evaluation mode."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_align_corners


def logits_of_views(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[jax.Array]:
    """Logits of each scale of the images, and of the flipped ones.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      scales: the images are predicted at each of these sizes, relative to their own.
      flip: whether each is predicted mirrored, too.

    Returns:
      For each scale logits float32 [batch, views, h, w, classes], on the network's output grid for that size; views is
      1, or 2 with `flip`: the second is mirrored back.
    """
    images = images.astype(jnp.float32) / 255.0
    batch, height, width, _ = images.shape
    logits = []
    for scale in scales:
        size = (batch, max(round(height * scale), 1), max(round(width * scale), 1), 3)
        scaled = images if scale == 1 else jax.image.resize(images, size, "bilinear")
        said = model.apply(variables, jnp.concatenate([scaled, scaled[:, :, ::-1]]) if flip else scaled, train=False)
        direct, mirrored = said.logits[:batch], said.logits[batch:, :, ::-1]
        logits.append(jnp.stack([direct, mirrored] if flip else [direct], axis=1))
    return logits


def averaged_probabilities(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    size: tuple[int, int],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> jax.Array:
    """Mean prediction over scales and flips.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      size: height and width of the result, whose corners are the images' corners.
      scales, flip: see `logits_of_views`.

    Returns:
      Probabilities float32 [batch, *size, classes].
    """
    return mean_probabilities(logits_of_views(model, variables, images, scales=scales, flip=flip), size)


def mean_probabilities(logits: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
    """Mean over all views of the softmax of their logits at `size`.

    Args:
      logits: from `logits_of_views`.
      size: height and width of the result.

    Returns:
      Probabilities float32 [batch, *size, classes].
    """
    views = [
        jax.lax.index_in_dim(of_scale, view, axis=1, keepdims=False)  # indexing may be a gather
        for of_scale in logits for view in range(of_scale.shape[1])
    ]  # fmt: skip
    return sum(jax.nn.softmax(resize_align_corners(view, size), axis=-1) for view in views) / len(views)
