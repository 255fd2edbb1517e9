"""CutMix: a box of one image, pasted on another (Yun et al., ICCV 2019; French et al., BMVC 2020)."""

import jax
import jax.numpy as jnp

from proda_jax.adaptation.views.common import Size

AREA = 0.5  # of a box, of the image's (French et al.)


def draw_boxes(keys: jax.Array, size: Size, share: float) -> jax.Array:
    """Draws a box of half the area, of any aspect ratio that fits and anywhere, on a share of the images.

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      size: height and width of the images.
      share: probability that an image has a box (CPSL: 0.5).

    Returns:
      bool [batch, *size], true within the box.
    """
    return boxes(jax.vmap(lambda key: jax.random.uniform(key, (4,)))(keys), size, share)


def boxes(draws: jax.Array, size: Size, share: float) -> jax.Array:
    """The boxes of uniform draws [batch, 4]: whether there is one, its shape, its row and its column."""
    there, shape, *place = jnp.moveaxis(draws, -1, 0)
    tall = AREA**shape  # of the image's height; as likely taller as wider than the image
    within = []
    for length, part, at in zip(size, (tall, AREA / tall), place, strict=True):
        side = jnp.round(part * length)
        start = jnp.round(at * (length - side))[:, None]
        pixels = jnp.arange(length)
        within.append((pixels >= start) & (pixels < start + side[:, None]))
    rows, columns = within
    return (there < share)[:, None, None] & rows[:, :, None] & columns[:, None, :]
