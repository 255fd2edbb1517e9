"""Where in a crop the window lies that is seen at full size (HRDA, Hoyer et al., ECCV 2022)."""

import jax
import jax.numpy as jnp

from proda_jax.adaptation.views.common import Size, integer_below


def draw_places(keys: jax.Array, crop_size: Size, detail_size: Size, unit: int) -> jax.Array:
    """Top and left of a window in each crop, equally likely, int32 [batch, 2].

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      crop_size, detail_size: height and width of the crop and of the window, multiples of `unit`.
      unit: pixels of which places are multiples.
    """
    room = jnp.asarray([(whole - part) // unit for whole, part in zip(crop_size, detail_size, strict=True)])
    return jax.vmap(lambda key: unit * integer_below(room + 1, jax.random.uniform(key, (2,))))(keys)
