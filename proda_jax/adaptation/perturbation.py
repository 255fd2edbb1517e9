"""Adversarial perturbations of features, each position by itself (APODA, Yang et al., AAAI 2020, arXiv:1912.08954).

Features move to where objectives are worse, by the sign of their gradient: those of small objects as far as all others.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

NOTHING = 1e-6  # of an image's largest gradient: less is rounding, whose sign another device or program may see other


def perturb(
    features: jax.Array, objectives: Sequence[Callable[[jax.Array], jax.Array]], radius: float, steps: int = 1
) -> jax.Array:
    """Features perturbed along the gradient of each of some objectives, which get worse.

    Args:
      features: [batch, h, w, channels].
      objectives: functions of such features, scalars that are to grow; each moves a position alike, whatever its scale.
      radius: how far, at most, each moves a channel: a share of the root mean square of the position's channels.
      steps: that it is gone in; gradients are computed anew before each.

    Returns:
      Of the same shape; no gradient flows into them.
    """
    stride = radius / steps * jnp.sqrt(jnp.mean(jnp.square(features), axis=-1, keepdims=True))

    def step(_: int, moved: jax.Array) -> jax.Array:
        return moved + stride * sum(gradient_sign(jax.grad(objective)(moved)) for objective in objectives)

    return jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, step, features))


def gradient_sign(gradient: jax.Array) -> jax.Array:
    """The sign of a gradient, [batch, h, w, channels], and 0 where there is none."""
    size = jnp.abs(gradient)
    return jnp.where(size > NOTHING * jnp.max(size, axis=(1, 2, 3), keepdims=True), jnp.sign(gradient), 0.0)
