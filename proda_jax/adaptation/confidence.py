"""How much pseudo labels of a view count, by how sure the teacher is of them (DACS, Tranheden et al., WACV 2021)."""

import jax
import jax.numpy as jnp


def share_weight(
    confidence: jax.Array, counted: jax.Array, threshold: float, *, over_batch: jax.Array | None = None
) -> jax.Array:
    """q of DACS, DAFormer and MIC: one weight for all pixels of an image, the share of them that are confident.

    Args:
      confidence: largest class probability of each pixel, [batch, height, width].
      counted: pixels that the share is taken over, bool of the same shape.
      threshold: from which on a pixel is confident (0.968).
      over_batch: (confident, counted) pixels of the whole batch, int32 [2], for one weight for all of its images as in
        the released codes; None: each image has its own.

    Returns:
      float32 [batch, height, width].
    """
    if over_batch is None:
        parts = ((confidence >= threshold) & counted, counted)
        confident, number = (jnp.sum(part, axis=(1, 2), keepdims=True) for part in parts)
    else:
        confident, number = over_batch
    return jnp.broadcast_to(confident / jnp.maximum(number, 1), confidence.shape).astype(jnp.float32)


def count_confident(confidence: jax.Array, counted: jax.Array, threshold: float) -> jax.Array:
    """(confident, counted) pixels, int32 [2]: sums over the batch are what `share_weight` takes."""
    confident = jnp.sum((confidence >= threshold) & counted, dtype=jnp.int32)
    return jnp.stack([confident, jnp.sum(counted, dtype=jnp.int32)])


def pixel_weight(confidence: jax.Array, threshold: float) -> jax.Array:
    """1 where a pixel is confident and 0 elsewhere, float32; DACS's `threshold`."""
    return (confidence >= threshold).astype(jnp.float32)


def outside_margins(size: tuple[int, int], margins: tuple[int, int, int, int]) -> jax.Array:
    """False in an image's margins and true elsewhere, bool [height, width].

    A car's bonnet and the blurred edge of a camera's image have no sensible pseudo label (DAFormer: top 15 and bottom
    120 rows of a crop of 512).

    Args:
      size: height and width, pixels.
      margins: rows at the top and bottom, columns on the left and right.
    """
    top, bottom, left, right = margins
    rows, columns = jnp.arange(size[0]), jnp.arange(size[1])
    rows, columns = (rows >= top) & (rows < size[0] - bottom), (columns >= left) & (columns < size[1] - right)
    return rows[:, None] & columns[None, :]
