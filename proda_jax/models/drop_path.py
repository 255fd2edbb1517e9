"""Stochastic depth (arXiv:1603.09382): residual branches that are left out in training."""

import jax
import jax.numpy as jnp
import numpy as np

PURPOSE = 1  # folded into an example's key, from which a head draws its dropout, too


def branch_factors(keys: jax.Array | None, rate: float, blocks: int, branches: int = 2) -> jax.Array | None:
    """What the residual branches of each image are multiplied by: 0 where one is left out, more than 1 elsewhere.

    The probability to be left out rises linearly from 0 in the first block to `rate` in the last.

    Args:
      keys: one key an image [batch], so that the draw follows the example; or None.
      rate: of the last block.
      blocks: number of them, each with so many `branches`.

    Returns:
      [batch, blocks, branches], or None where all branches are kept.
    """
    if keys is None or rate == 0.0:
        return None
    kept = 1.0 - jnp.asarray(np.linspace(0.0, rate, blocks), jnp.float32)[:, None]

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, PURPOSE), kept, (blocks, branches))

    return jax.vmap(draw)(keys) / kept


def add_branch(x: jax.Array, branch: jax.Array, factor: jax.Array | None) -> jax.Array:
    """x plus a residual branch, times the factor [batch] of each image where there is one."""
    if factor is None:
        return x + branch
    return x + branch * factor.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
