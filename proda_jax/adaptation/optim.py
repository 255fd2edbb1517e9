"""Optimizers and learning rates: what a stage's settings choose, made of optax."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from proda_jax.models.backbones import TOKENS, Backbone
from proda_jax.models.normalisation import is_batch_norm

FROZEN = "frozen"  # the group whose parameters do not move, by decay neither
HEAD = "head"  # the group of all after the backbone


# Learning rates


def poly(rate: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """rate * (1 - step / steps) ** power, zero from `steps` on (released code: power 0.9 over 90,000 steps)."""
    return lambda step: rate * jnp.maximum(1.0 - jnp.asarray(step, jnp.float32) / steps, 0.0) ** power


def flat_then_linear(rate: float, steps: int) -> optax.Schedule:
    """The rate for half of the steps, from which it falls linearly to zero (CycleGAN)."""
    return lambda step: rate * jnp.clip(2.0 - 2.0 * jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)


def per_epoch(rate: float, factor: float, steps_per_epoch: int) -> optax.Schedule:
    """rate * factor ** epoch (paper, Section 5.1: factor 0.9)."""
    return lambda step: rate * factor ** jnp.asarray(step // steps_per_epoch, jnp.float32)


def warmed_up(schedule: optax.Schedule, steps: int, start: float, rate: float | None = None) -> optax.Schedule:
    """A learning rate that rises linearly over the first steps.

    Args:
      schedule: what it is then.
      steps: number of them.
      start: share from which the factor rises to 1.
      rate: what it rises to and is multiplied with until then; None: what the schedule says (as in DAFormer).
    """
    factor = optax.linear_schedule(start, 1.0, steps)

    def warm(step: jax.Array) -> jax.Array:
        rising = schedule(step) if rate is None else jnp.where(step < steps, rate, schedule(step))
        return rising * factor(step)

    return warm


SCHEDULES: dict[str, Callable[[ml_collections.ConfigDict, float, int], optax.Schedule]] = {
    "poly": lambda stage, rate, epoch: poly(rate, stage.schedule_steps, stage.schedule_power),
    "linear": lambda stage, rate, epoch: optax.linear_schedule(rate, 0.0, stage.schedule_steps),
    "flat_then_linear": lambda stage, rate, epoch: flat_then_linear(rate, stage.schedule_steps),
    "per_epoch": lambda stage, rate, epoch: per_epoch(rate, stage.schedule_factor, epoch),
    "constant": lambda stage, rate, epoch: optax.constant_schedule(rate),
}
ENDING = ("poly", "linear", "flat_then_linear")  # those that are zero from `schedule_steps` on


def schedule(
    stage: ml_collections.ConfigDict, rate: float, steps_per_epoch: int, warmed: bool = True
) -> optax.Schedule:
    """A learning rate's course over a stage: one of `SCHEDULES`, warmed up if the stage says so and it is `warmed`."""
    found = SCHEDULES[stage.schedule](stage, rate, steps_per_epoch)
    if not (stage.schedule_warmup and warmed):
        return found
    to = rate if stage.schedule_warmup_to == "rate" else None
    return warmed_up(found, stage.schedule_warmup, stage.schedule_warmup_start, to)


# Optimizers


def network_optimizer(
    stage: ml_collections.ConfigDict, backbone: Backbone, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of a stage's network; frozen batch normalisation and a frozen backbone do not move at all.

    Args:
      stage: its settings.
      backbone: whose parameters have the stage's `backbone_rate`, lower layers less of it with `layer_decay`; all
        others have its `head_rate`.
      steps_per_epoch: of rates that change with epochs.
    """
    decays = stage.layer_decay != 1.0

    def group_of(path: tuple[str, ...]) -> str:
        if stage.batch_norm != "batch" and is_batch_norm(path[-2]):
            return FROZEN
        if path[0] != "backbone":
            return HEAD
        if stage.get("freeze_backbone", False):
            return FROZEN
        return f"layer{backbone.layer(path[1:])}" if decays else backbone.group(path[1:])

    top, times = backbone.layers - 1, dict(backbone.groups) if stage.backbone_steps == "released" else {}
    if decays:
        rates = {f"layer{i}": stage.backbone_rate * stage.layer_decay ** (top - i) for i in range(backbone.layers)}
    else:
        rates = dict.fromkeys(backbone.groups, stage.backbone_rate)
    make = OPTIMIZERS[stage.optimizer]
    transforms = {
        group: make(stage, schedule(stage, rate, steps_per_epoch), times.get(group, 1))
        for group, rate in (rates | {HEAD: stage.head_rate}).items()
    }
    return partitioned(transforms, group_of)


def plain_optimizer(
    stage: ml_collections.ConfigDict, rate: float, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The stage's optimizer for parameters that all have one rate: of translation, which has no backbone."""
    return OPTIMIZERS[stage.optimizer](stage, schedule(stage, rate, steps_per_epoch), 1)


def discriminator_optimizer(stage: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam with AdaptSegNet's moments, decayed like the network's rate (released code)."""
    rate = schedule(stage, stage.discriminator_rate, steps_per_epoch, stage.discriminator_warmup)
    return optax.adam(rate, b1=0.9, b2=0.99)


def sgd(
    rate: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 2e-4,
    decayed: Callable[[Any], Any] | None = None,
    times: int = 1,
) -> optax.GradientTransformation:
    """PyTorch's SGD: decay is added to the gradient, momentum is not dampened, the rate multiplies the momentum.

    Args:
      rate: the learning rate's course.
      momentum: of the running sum of gradients.
      weight_decay: of the parameters that decay.
      decayed: parameters -> which of them decay, as booleans; None: all, norms and biases too (released code).
      times: how often a step updates the parameters with the same gradient, decay and momentum applied each time. The
        released optimizer steps most of the backbone three times.

    Returns:
      An optimizer whose `update` needs `params`.
    """
    inner = optax.chain(
        optax.add_decayed_weights(weight_decay, decayed),
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


def no_vectors(params: Any) -> Any:
    """Which parameters decay where vectors (scales and biases), learnt tokens and their positions do not."""

    def decays(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        name = getattr(path[-1], "key", None) if path else None  # prototypes that learn are one array
        return leaf.ndim > 1 and name not in TOKENS

    return jax.tree.map_with_path(decays, params)


def _sgd(stage: ml_collections.ConfigDict, rate: optax.Schedule, times: int) -> optax.GradientTransformation:
    decayed = None if stage.decay_vectors else no_vectors
    return sgd(rate, momentum=stage.momentum, weight_decay=stage.weight_decay, decayed=decayed, times=times)


def _adamw(stage: ml_collections.ConfigDict, rate: optax.Schedule, times: int) -> optax.GradientTransformation:
    del times  # a peculiarity of the released SGD
    decayed = None if stage.decay_vectors else no_vectors
    b1, b2 = stage.adam_betas
    return optax.adamw(rate, b1=b1, b2=b2, weight_decay=stage.weight_decay, mask=decayed)


OPTIMIZERS: dict[str, Callable[[ml_collections.ConfigDict, optax.Schedule, int], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def partitioned(
    transforms: Mapping[str, optax.GradientTransformation], group_of: Callable[[tuple[str, ...]], str]
) -> optax.GradientTransformation:
    """An optimizer for each group of parameters.

    Args:
      transforms: by group.
      group_of: group of the parameter at a path such as ('backbone', 'layer1_0', 'conv1', 'kernel'); 'frozen' stays as
        it is.

    Raises:
      ValueError: at `init`, where `group_of` names a group that `transforms` does not have.
    """
    transforms = {**transforms, FROZEN: optax.set_to_zero()}

    def label(path: tuple[Any, ...], _: jax.Array) -> str:
        names = tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        group = group_of(names)
        if group not in transforms:
            raise ValueError(f"{'/'.join(names)} is in group {group!r}; known groups are {sorted(transforms)}")
        return group

    return optax.partition(transforms, lambda params: jax.tree.map_with_path(label, params))
