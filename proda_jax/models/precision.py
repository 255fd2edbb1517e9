"""Types that networks compute in."""

import jax.numpy as jnp


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The type for sums, statistics and outputs of a network that computes in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)
