"""What a head is: it takes what a backbone gives, and returns features and class scores."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax


@flax.struct.dataclass
class Output:
    """What the network says of each position of its output grid.

    Attributes:
      features: f of the paper, [batch, h, w, feature channels].
      logits: class scores before the softmax, [batch, h, w, classes].
    """

    features: jax.Array
    logits: jax.Array


class Head(nn.Module):
    """A head, called with the backbone's features [batch, h, w, channels] and one dropout key an image, or None."""

    segments: ClassVar[bool] = True  # whether its class scores label pixels
    unused: ClassVar[tuple[str, ...]] = ()  # settings of `model` that other heads have, and that do nothing here

    @classmethod
    @abc.abstractmethod
    def of(cls, network: Any, conv: Callable, name: str) -> "Head":
        """The head of a network with these attributes, see `DeepLab`; `conv` makes convolutions."""

    @classmethod
    def check_sizes(cls, model: Mapping[str, Any]) -> tuple[str, str] | None:
        """The setting of `model` that cannot be, and what was expected; None where all can."""
        return None

    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        raise NotImplementedError
