"""Statistics of batch normalisation: which passes move them, and how they are recomputed from target images.

How they are kept moves scores as much as methods do (docs/results.md), so it is a setting of every stage.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from proda_jax.adaptation.stages import kinds
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.normalisation import BATCH_NORM_MOMENTUM
from proda_jax.system import devices

# whose passes move running statistics, and whether what is scored and handed on has others
CHOICES = ("all", "target", "recomputed")


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
    total, count = None, 0
    for batch in batches:
        moments = devices.block_on_cpu(step(variables, batch["image"]))
        total = moments if total is None else jax.tree.map(jnp.add, total, moments)
        count += 1
    return from_moments(variables["batch_stats"], jax.tree.map(lambda x: x / count, total))


def moments_step(model: SegmentationNetwork, mesh: jax.sharding.Mesh) -> Callable:
    """Mapped function (variables, images) -> mean and mean square of each normalisation's inputs, see `moments`."""
    return devices.map_step(lambda variables, images: moments(model, variables, images), mesh, "rb", "r")


def moments(model: SegmentationNetwork, variables: Any, images: jax.Array) -> Any:
    """Means and mean squares of a batch, like variables['batch_stats'], where normalisations use the batch's own.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
    """
    stats = map_norms(lambda norm: jax.tree.map(jnp.zeros_like, norm), variables["batch_stats"])
    images = images.astype(jnp.float32) / 255.0
    given = {"params": variables["params"], "batch_stats": stats}
    _, updates = model.apply(given, images, train=True, mutable=["batch_stats"])

    def of_batch(norm: dict) -> dict:
        """Running statistics that were zero hold the batch's share of a step."""
        mean, var = (norm[name] / (1.0 - BATCH_NORM_MOMENTUM) for name in ("mean", "var"))
        return {"mean": mean, "var": var + mean**2}

    return map_norms(of_batch, updates["batch_stats"])


def from_moments(stats: Any, moments: Any) -> Any:
    """Means and variances where there are means and mean squares; others of `stats` stay as they are."""
    variances = map_norms(lambda norm: {"mean": norm["mean"], "var": norm["var"] - norm["mean"] ** 2}, moments)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), variances, stats)


def map_norms(function: Callable[[dict], dict], stats: Any) -> Any:
    """Running statistics with those of each normalisation, {'mean', 'var'}, replaced by a function of them."""
    if set(stats) == {"mean", "var"}:
        return function(stats)
    return {name: map_norms(function, inner) if hasattr(inner, "items") else inner for name, inner in stats.items()}
