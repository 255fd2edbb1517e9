"""Weak views that are drawn again until their crop holds what it should (DAFormer's crops of source images)."""

import jax
import jax.numpy as jnp

from proda_jax.adaptation.views.common import Size
from proda_jax.adaptation.views.weak import WeakView, draw_weak_view, weak_label


def draw_chosen_view(
    keys: jax.Array,
    label: jax.Array,
    crop_size: Size,
    *,
    classes: int,
    tries: int,
    largest_share: float,
    wanted: jax.Array | None = None,
    wanted_pixels: int = 0,
    base_width: float,
    scale: tuple[float, float],
    flip: bool,
) -> WeakView:
    """Draws views until one is accepted; where none is, the last one drawn stays.

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      label: class indices of the whole images, [batch, image height, image width].
      crop_size: height and width of the crop.
      classes: number of classes.
      tries: how often a view is drawn at most (DAFormer: 10).
      largest_share: a crop has several classes, of which none has this share of its labelled pixels (DAFormer: 0.75);
        1 accepts any.
      wanted: class of which a crop holds more than `wanted_pixels`, int32 [batch]; None: of none (DAFormer: 1500).
      base_width, scale, flip: see `draw_weak_view`.
    """
    candidates = [
        draw_weak_view(
            jax.vmap(lambda key, attempt=attempt: jax.random.fold_in(key, attempt))(keys),
            label.shape[1:3], crop_size, base_width=base_width, scale=scale, flip=flip,
        )
        for attempt in range(tries)
    ]  # fmt: skip
    candidates = jax.tree.map(lambda *leaves: jnp.stack(leaves), *candidates)

    def accept(view: WeakView) -> jax.Array:
        pixels = class_pixels(weak_label(label, view, crop_size), classes)
        return accepted(pixels, largest_share, wanted, wanted_pixels)

    return first(candidates, jax.lax.map(accept, candidates))


def class_pixels(label: jax.Array, classes: int) -> jax.Array:
    """Pixels of each class in each image, int32 [batch, classes], of labels [batch, height, width]."""
    return jnp.sum(label[..., None] == jnp.arange(classes), axis=(1, 2), dtype=jnp.int32)


def accepted(
    pixels: jax.Array, largest_share: float, wanted: jax.Array | None = None, wanted_pixels: int = 0
) -> jax.Array:
    """Which crops hold what they should, bool [batch], by their pixels of each class [batch, classes].

    The other arguments are those of `draw_chosen_view`.
    """
    good = jnp.ones(len(pixels), bool)
    if largest_share < 1.0:
        several = jnp.sum(pixels > 0, axis=-1) > 1
        good &= several & (pixels.max(-1) < largest_share * pixels.sum(-1))
    if wanted is not None:
        good &= jnp.sum(jnp.where(jnp.arange(pixels.shape[-1]) == wanted[:, None], pixels, 0), -1) > wanted_pixels
    return good


def first(candidates: WeakView, good: jax.Array) -> WeakView:
    """The first good one of each image's candidates, or else the last.

    Args:
      candidates: whose arrays are [tries, batch, ...].
      good: bool [tries, batch].
    """
    index = jnp.where(good.any(0), jnp.argmax(good, axis=0), len(good) - 1)

    def pick(leaf: jax.Array) -> jax.Array:
        return jnp.take_along_axis(leaf, index.reshape(1, -1, *(1,) * (leaf.ndim - 2)), axis=0)[0]

    return jax.tree.map(pick, candidates)
