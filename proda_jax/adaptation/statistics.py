"""Statistics of batch normalisation: which passes move them, and how they are recomputed from target images.

How they are kept moves scores as much as methods do (docs/results.md), so it is a setting of every stage.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation import views
from proda_jax.adaptation.stages import kinds
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.normalisation import BATCH_NORM_MOMENTUM
from proda_jax.system import devices

RECOMPUTED, AVERAGED = "recomputed", "averaged"
AFTERWARDS = (RECOMPUTED, AVERAGED)  # what is scored and handed on has others than the running statistics
CHOICES = ("all", "target", *AFTERWARDS)  # whose passes move running statistics, or what takes their place


def moved_by(stage: ml_collections.ConfigDict, domain: str) -> bool:
    """Whether passes of images of a domain move a stage's running statistics.

    Args:
      stage: its section of the configuration.
      domain: 'source', 'target', or 'masked': target images most of which is hidden, unlike any that are scored.
    """
    if stage.get("statistics", "all") == "all" or domain == "target":
        return True
    return kinds.of(stage).target(stage) is None  # somebody has to


def recompute(step: Callable, variables: Any, batches: Iterable[dict[str, jax.Array]]) -> Any:
    """Statistics of whole images: means and variances over all of them (AdaBN, arXiv:1603.04779).

    Args:
      step: from `moments_step`.
      variables: of the network, {'params', 'batch_stats'}.
      batches: {'image': uint8 [batch, height, width, 3]}, one at least.

    Returns:
      Like variables['batch_stats'].
    """
    return from_moments(variables["batch_stats"], _mean(step(variables, batch["image"]) for batch in batches))


def average(step: Callable, variables: Any, batches: Iterable[dict[str, jax.Array]]) -> Any:
    """Statistics of crops as they are trained on: the mean of each batch's means and variances.

    It is what running statistics would be if the network stood still for as many steps, without the noise of the few
    batches that they are of (Wu and Johnson, arXiv:2105.07576, Section 3).

    Args:
      step: from `crop_moments_step`.
      variables: as of `recompute`.
      batches: {'image': uint8 [batch, height, width, 3], 'place': int32 [batch], which crop of all it is}.

    Returns:
      Like variables['batch_stats'].
    """
    found = _mean(step(variables, batch["image"], batch["place"]) for batch in batches)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), found, variables["batch_stats"])


def _mean(trees: Iterable[Any]) -> Any:
    total, count = None, 0
    for tree in map(devices.block_on_cpu, trees):
        total = tree if total is None else _sum(total, tree)
        count += 1
    return _share(total, count)


@jax.jit  # as one program: each operation on each array would be one of its own
def _sum(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)


@jax.jit
def _share(total: Any, count: jax.Array) -> Any:
    return jax.tree.map(lambda x: x / count, total)


def moments_step(model: SegmentationNetwork, mesh: jax.sharding.Mesh) -> Callable:
    """Mapped function (variables, images) -> mean and mean square of each normalisation's inputs, see `moments`."""
    return devices.map_step(lambda variables, images: moments(model, variables, images), mesh, "rb", "r")


def moments(model: SegmentationNetwork, variables: Any, images: jax.Array) -> Any:
    """Means and mean squares of a batch, like variables['batch_stats'], where normalisations use the batch's own.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
    """
    found = of_batch(model, variables, images.astype(jnp.float32) / 255.0)
    return map_norms(lambda norm: {"mean": norm["mean"], "var": norm["var"] + norm["mean"] ** 2}, found)


def crop_moments_step(
    model: SegmentationNetwork, mesh: jax.sharding.Mesh, settings: ml_collections.ConfigDict, seed: int
) -> Callable:
    """Mapped function (variables, images, places) -> mean and variance of each normalisation's inputs, see `average`.

    Args:
      model: the network.
      mesh: the devices.
      settings: the stage's section 'views', as `views_of` makes it.
      seed: of the crops.
    """
    sizes = {"crop_size": tuple(settings.crop_size), "base_width": settings.base_width}
    step = functools.partial(crop_moments, model, seed=seed, scale=tuple(settings.scale), flip=settings.flip, **sizes)
    return devices.map_step(step, mesh, "rbb", "r")


def crop_moments(
    model: SegmentationNetwork, variables: Any, images: jax.Array, places: jax.Array, *, seed: int,
    crop_size: tuple[int, int], base_width: float, scale: tuple[float, float], flip: bool,
) -> Any:  # fmt: skip
    """Means and variances of a batch of crops, like variables['batch_stats'].

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      places: int32 [batch], which crop of all each is: on this and the seed depends where it lies.
      seed: of the crops.
      crop_size, base_width, scale, flip: as of `views.draw_weak_view`.
    """
    key = jax.random.key(seed)
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
    view = views.draw_weak_view(keys, images.shape[1:3], crop_size, base_width=base_width, scale=scale, flip=flip)
    return of_batch(model, variables, views.weak_image(images, view, crop_size) / 255.0)


def of_batch(model: SegmentationNetwork, variables: Any, images: jax.Array) -> Any:
    """Mean and variance of a batch, RGB in [0, 1], at each normalisation, where all use the batch's own."""
    stats = map_norms(lambda norm: jax.tree.map(jnp.zeros_like, norm), variables["batch_stats"])
    given = {"params": variables["params"], "batch_stats": stats}
    _, updates = model.apply(given, images, train=True, mutable=["batch_stats"])
    # running statistics that were zero hold the batch's share of a step
    return map_norms(lambda norm: jax.tree.map(lambda x: x / (1.0 - BATCH_NORM_MOMENTUM), norm), updates["batch_stats"])


@jax.jit
def from_moments(stats: Any, moments: Any) -> Any:
    """Means and variances where there are means and mean squares; others of `stats` stay as they are."""
    variances = map_norms(lambda norm: {"mean": norm["mean"], "var": norm["var"] - norm["mean"] ** 2}, moments)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), variances, stats)


def map_norms(function: Callable[[dict], dict], stats: Any) -> Any:
    """Running statistics with those of each normalisation, {'mean', 'var'}, replaced by a function of them."""
    if set(stats) == {"mean", "var"}:
        return function(stats)
    return {name: map_norms(function, inner) if hasattr(inner, "items") else inner for name, inner in stats.items()}
