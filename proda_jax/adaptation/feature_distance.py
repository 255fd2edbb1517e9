"""Feature distance to a frozen network, on classes of things (DAFormer, Hoyer et al., CVPR 2022, Section 3.4)."""

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.data.label_spaces import IGNORE

HIGHEST = jax.lax.Precision.HIGHEST


def area_weights(size_in: int, size_out: int) -> np.ndarray:
    """Share of each of `size_in` pixels in each of `size_out` equal parts of their row, [size_out, size_in]."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    pixels = np.arange(size_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * (size_out / size_in)).astype(np.float32)


def dominant_label(labels: jax.Array, size: tuple[int, int], classes: int, least: float = 0.75) -> jax.Array:
    """The class of each cell of a coarser grid that has at least this share of its pixels.

    Args:
      labels: integer [batch, height, width]; ignored pixels compete as a class.
      size: height and width of the grid.
      classes: number of classes.
      least: share of a cell's pixels (DAFormer: 0.75).

    Returns:
      int32 [batch, *size]; IGNORE where no class has as many, or ignored pixels do.
    """
    members = (jnp.where(labels == IGNORE, classes, labels)[..., None] == jnp.arange(classes + 1)).astype(jnp.float32)
    rows, columns = (area_weights(n, m) for n, m in zip(labels.shape[1:3], size, strict=True))
    shares = jnp.einsum("Hh,bhwk->bHwk", rows, members, precision=HIGHEST)
    shares = jnp.einsum("Ww,bhwk->bhWk", columns, shares, precision=HIGHEST)
    found = jnp.argmax(shares, axis=-1)
    return jnp.where((shares.max(-1) < least) | (found == classes), IGNORE, found).astype(jnp.int32)


def is_any_of(labels: jax.Array, chosen: tuple[int, ...]) -> jax.Array:
    """Which labels are among these classes, bool, the shape of `labels`."""
    return jnp.any(labels[..., None] == jnp.asarray(chosen, jnp.int32).reshape(-1), axis=-1)


def feature_distance(features: jax.Array, frozen: jax.Array) -> jax.Array:
    """Euclidean distance of each position's features from those of the frozen network (Equation 4 of DAFormer).

    Args:
      features: of the trained network, [batch, h, w, channels].
      frozen: of the frozen one, the same shape; no gradient flows into them.

    Returns:
      float32 [batch, h, w]. The gradient is zero, rather than undefined, where they are equal, as at the first step.
    """
    difference = features.astype(jnp.float32) - jax.lax.stop_gradient(frozen.astype(jnp.float32))
    squares = jnp.sum(difference**2, axis=-1)
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)
