"""What weak and strong views have in common."""

import jax
import jax.numpy as jnp

GREY = 127.0  # what lies outside the image or is cut out (released code)
EXACT = jax.lax.Precision.HIGHEST

Size = tuple[int, int]  # height, width


def integer_below(stop: jax.Array | int, uniform: jax.Array) -> jax.Array:
    """Integers 0..stop - 1, equally likely, from uniform numbers in [0, 1)."""
    return jnp.floor(uniform * stop).astype(jnp.int32)
