"""An ensemble of networks: the mean of their logits, as ADVENT tests MinEnt and AdvEnt together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.heads import Output
from proda_jax.models.resizing import resize_align_corners


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks with the same classes, to be applied like one of them; its variables are a tuple of theirs.

    Attributes:
      networks: the first one's output grid is that of the ensemble.
    """

    networks: tuple[SegmentationNetwork, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.networks[0].classes

    @property
    def dtype(self) -> Any:
        """What all of its networks compute in; float32 where they differ."""
        kinds = {jnp.dtype(network.dtype) for network in self.networks}
        return kinds.pop() if len(kinds) == 1 else jnp.dtype(jnp.float32)

    def clone(self, **fields: Any) -> "Ensemble":
        """The same with other fields in each of its networks, as Flax's modules have it."""
        return Ensemble(tuple(network.clone(**fields) for network in self.networks))

    def apply(self, variables: Sequence[Any], images: jax.Array, *, train: bool = False) -> Output:
        """Mean logits, and the features of the first network; images as `SegmentationNetwork` takes them."""
        said = [network.apply(own, images, train=train) for network, own in zip(self.networks, variables, strict=True)]
        size = said[0].logits.shape[1:3]
        logits = sum(resize_align_corners(output.logits, size) for output in said) / len(said)
        return Output(said[0].features, logits, (logits,))
