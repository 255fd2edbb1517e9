"""Masks of blocks: what masked image consistency hides of an image (MIC, Hoyer et al., CVPR 2023)."""

import jax
import jax.numpy as jnp

from proda_jax.adaptation.views.common import Size
from proda_jax.models.resizing import resize_nearest


def block_grid(size: Size, block: int) -> Size:
    """Rows and columns of blocks of this side, in pixels, in an image of this height and width; one at least."""
    return tuple(max(round(length / block), 1) for length in size)


def draw_block_mask(keys: jax.Array, size: Size, *, block: int, ratio: float) -> jax.Array:
    """Draws which blocks stay visible, each by itself.

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      size: height and width of the images.
      block: side of a block, pixels (MIC: 64).
      ratio: probability with which a block is hidden (MIC: 0.7).

    Returns:
      bool [batch, *size], true where the image stays visible.
    """
    grid = block_grid(size, block)
    return block_mask(jax.vmap(lambda key: jax.random.uniform(key, grid))(keys), size, ratio)


def block_mask(draws: jax.Array, size: Size, ratio: float) -> jax.Array:
    """The mask of uniform draws [batch, rows, columns], one a block; see `draw_block_mask`."""
    return resize_nearest(draws > ratio, size)


def hide(images: jax.Array, visible: jax.Array, fill: jax.Array | float) -> jax.Array:
    """Images [batch, h, w, 3] with `fill` [3] or scalar where not `visible`, bool [batch, h, w].

    MIC hides with zeros after normalisation: the mean that the network's input is centred by.
    """
    return jnp.where(visible[..., None], images, fill)
