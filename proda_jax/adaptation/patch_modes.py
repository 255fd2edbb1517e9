"""Modes of how classes are spread within patches, found in source labels (PatchAlign, Tsai et al., ICCV 2019).

There is no public code: what its abstract and excerpts leave open is our reading (configs/patchalign.py).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.data.label_spaces import IGNORE

QUARTERS = 2  # a patch has QUARTERS x QUARTERS histograms
ROUNDS = 100  # of k-means at most

Size = tuple[int, int]


def histograms(labels: jax.Array, classes: int, patch: Size) -> tuple[jax.Array, jax.Array]:
    """Shares of each class in the four quarters of each patch, and which patches have a label at all.

    Args:
      labels: integer [batch, height, width]; IGNORE counts nowhere, and rows and columns beyond whole patches are left
        out.
      classes: number of classes.
      patch: height and width of a patch, even.

    Returns:
      float32 [batch, rows, columns, 4 * classes], of each quarter's pixels; bool [batch, rows, columns].
    """
    rows, columns = (side // own for side, own in zip(labels.shape[1:], patch, strict=True))
    half = tuple(side // QUARTERS for side in patch)
    one_hot = jax.nn.one_hot(labels[:, : rows * patch[0], : columns * patch[1]], classes)
    parts = one_hot.reshape(-1, rows, QUARTERS, half[0], columns, QUARTERS, half[1], classes).mean((3, 6))
    found = parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, QUARTERS**2 * classes)
    return found, found.sum(-1) > 0


def nearest(found: jax.Array, there: jax.Array, modes: jax.Array) -> jax.Array:
    """The mode of each patch, int32 [batch, rows, columns]; IGNORE where nothing is labelled.

    Args:
      found, there: see `histograms`.
      modes: [number, 4 * classes].
    """
    distances = jnp.sum((found[..., None, :] - modes) ** 2, axis=-1)
    return jnp.where(there, jnp.argmin(distances, axis=-1), IGNORE).astype(jnp.int32)


def clusters(vectors: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Centres of k-means, float32 [number, size], which begin far apart (k-means++).

    Args:
      vectors: float [vectors, size].
      number: of centres.
      seed: of where they begin.

    Raises:
      ValueError: there are fewer different vectors.
    """
    generator, vectors = np.random.default_rng(seed), np.asarray(vectors, np.float64)
    centres = vectors[generator.integers(len(vectors))][None]
    distances = np.sum((vectors - centres[0]) ** 2, axis=-1)
    while len(centres) < number:
        if not distances.any():
            raise ValueError(f"{number} modes were asked for, and the source has patches of {len(centres)} sorts")
        chosen = vectors[generator.choice(len(vectors), p=distances / distances.sum())]
        centres = np.concatenate([centres, chosen[None]])
        distances = np.minimum(distances, np.sum((vectors - chosen) ** 2, axis=-1))
    for _ in range(ROUNDS):
        owner = np.argmin(-2.0 * vectors @ centres.T + np.sum(centres**2, axis=-1), axis=-1)
        moved = centres.copy()
        for k in np.unique(owner):
            moved[k] = vectors[owner == k].mean(0)
        if np.allclose(moved, centres, rtol=0, atol=1e-9):
            break
        centres = moved
    return centres.astype(np.float32)


def patches_of(labels: Iterator[np.ndarray], classes: int, patch: Size, most: int, seed: int) -> np.ndarray:
    """Histograms of at most `most` patches of all labels, drawn evenly, float32 [patches, 4 * classes].

    Args:
      labels: uint8 [height, width], one after another.
      classes, patch: see `histograms`.
      most: number of them.
      seed: of which.
    """
    count, kept = jax.jit(lambda label: histograms(label[None], classes, patch)), []
    for label in labels:
        found, there = map(np.asarray, count(label))
        kept.append(found[there])
    every = np.concatenate(kept)
    if len(every) <= most:
        return every
    return every[np.sort(np.random.default_rng(seed).choice(len(every), most, replace=False))]
