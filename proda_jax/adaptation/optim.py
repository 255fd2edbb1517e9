"""Learning rate schedules, and stochastic gradient descent with a rate for each group of parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

FROZEN = "frozen"  # the group whose parameters do not move, by decay neither


def poly(rate: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """rate * (1 - step / steps) ** power, zero from `steps` on (released code: power 0.9 over 90,000 steps)."""
    return lambda step: rate * jnp.maximum(1.0 - jnp.asarray(step, jnp.float32) / steps, 0.0) ** power


def per_epoch(rate: float, factor: float, steps_per_epoch: int) -> optax.Schedule:
    """rate * factor ** epoch (paper, Section 5.1: factor 0.9)."""
    return lambda step: rate * factor ** jnp.asarray(step // steps_per_epoch, jnp.float32)


def sgd(
    rates: Mapping[str, optax.Schedule],
    group_of: Callable[[tuple[str, ...]], str],
    *,
    momentum: float = 0.9,
    weight_decay: float = 2e-4,
    repeats: Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """PyTorch's SGD: decay is added to the gradient, momentum is not dampened, the rate multiplies the momentum.

    Args:
      rates: a schedule for each group.
      group_of: group of the parameter at a path such as ('layer1_0', 'conv1', 'kernel'); 'frozen' stays as it is.
      momentum: of the running sum of gradients.
      weight_decay: on every parameter of every group, norms and biases too (released code).
      repeats: how often a step updates the parameters of a group with the same gradient, decay and momentum applied
        each time; 1 where not given. The released optimizer steps most of the backbone three times.

    Returns:
      An optimizer whose `update` needs `params`.

    Raises:
      ValueError: at `init`, where `group_of` names a group that `rates` does not have.
    """
    repeats = dict(repeats or {})
    if unknown := set(repeats) - set(rates):
        raise ValueError(f"sgd: repeats are given for {sorted(unknown)}, but rates only for {sorted(rates)}")
    transforms = {
        group: _stepped(rate, momentum, weight_decay, repeats.get(group, 1)) for group, rate in rates.items()
    }
    transforms[FROZEN] = optax.set_to_zero()

    def label(path: tuple[Any, ...], _: jax.Array) -> str:
        names = tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        group = group_of(names)
        if group not in transforms:
            raise ValueError(f"sgd: {'/'.join(names)} is in group {group!r}; known groups are {sorted(transforms)}")
        return group

    return optax.partition(transforms, lambda params: jax.tree.map_with_path(label, params))


def _stepped(rate: optax.Schedule, momentum: float, weight_decay: float, times: int) -> optax.GradientTransformation:
    """SGD that takes `times` steps along the same gradient at the same rate."""
    inner = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(lambda count: rate(count // times)),
    )

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        moved = optax.tree.zeros_like(params)
        for _ in range(times):
            step, state = inner.update(gradients, state, optax.tree.add(params, moved))
            moved = optax.tree.add(moved, step)
        return moved, state

    return inner if times == 1 else optax.GradientTransformation(inner.init, update)
