"""ClassMix: half of the classes of a labelled image, pasted on another (Olsson et al., WACV 2021; DACS, WACV 2021)."""

import jax
import jax.numpy as jnp

from proda_jax.data.label_spaces import IGNORE


def classes_present(labels: jax.Array, classes: int) -> jax.Array:
    """Which classes each image holds.

    Args:
      labels: integer [batch, height, width].
      classes: number of classes.

    Returns:
      bool [batch, classes + 1]; the last is said of ignored pixels, which count as a class (DACS).
    """
    return jnp.any(_members(labels, classes), axis=(1, 2))


def choose_half(present: jax.Array, draws: jax.Array) -> jax.Array:
    """Draws half of the classes that are present, rounded up: those with the smallest draws.

    Args:
      present: bool [batch, classes + 1], see `classes_present`.
      draws: numbers [batch, classes + 1], in any order equally likely.

    Returns:
      bool [batch, classes + 1].
    """
    order = jnp.arange(present.shape[-1])
    before = (draws[..., None, :] < draws[..., :, None]) | (
        (draws[..., None, :] == draws[..., :, None]) & (order[None, :] < order[:, None])
    )
    rank = jnp.sum(before & present[..., None, :], axis=-1)
    return present & (rank < (jnp.sum(present, axis=-1, keepdims=True) + 1) // 2)


def draw_classes(keys: jax.Array, present: jax.Array) -> jax.Array:
    """`choose_half` with one random key an image, [batch]."""
    return choose_half(present, jax.vmap(lambda key: jax.random.uniform(key, present.shape[-1:]))(keys))


def paste_mask(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Pixels of the chosen classes, bool [batch, height, width]; arguments as in the functions above."""
    return jnp.any(_members(labels, chosen.shape[-1] - 1) & chosen[:, None, None, :], axis=-1)


def paste(mask: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """The source where the mask is true, the target elsewhere: images [batch, h, w, 3], or labels [batch, h, w]."""
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (source.ndim - mask.ndim)), source, target)


def _members(labels: jax.Array, classes: int) -> jax.Array:
    """Membership of each pixel, bool [batch, height, width, classes + 1]."""
    return jnp.where(labels == IGNORE, classes, labels)[..., None] == jnp.arange(classes + 1)
