"""What a head is: it takes what a backbone gives, and returns features and logits."""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.shapes import Shape

Path = tuple[str, ...]  # of a module below 'head'


@flax.struct.dataclass
class Output:
    """What the network says of each position of its output grid.

    Attributes:
      features: f of the paper, [batch, h, w, feature channels].
      logits: before the softmax, [batch, h, w, classes].
      heads: those of each head, the main one's first; of a network alone, whose heads do not know of each other.
      encoded: what the backbone gives last, [batch, height, width, channels], where it was asked for.
      detail: logits of the one window that was seen at full size, [batch, rows, columns, classes], if any (HRDA).
      projected: the backbone's features as they are contrasted, [batch, h, w, channels], if they are (SePiCo).
      likened: its last map as features of another network, [batch, h, w, channels], if they are to be (DFUDA).
    """

    features: jax.Array
    logits: jax.Array
    heads: tuple[jax.Array, ...] = ()
    encoded: jax.Array | None = None
    detail: jax.Array | None = None
    projected: jax.Array | None = None
    likened: jax.Array | None = None


class Head(nn.Module):
    """A head, called with what it takes of the backbone and one dropout key an image, or None.

    It takes the features [batch, h, w, channels], see `Backbone.features`; with `takes_levels`, the tuple of maps that
    `Backbone.levels` describes, in place of them.
    """

    segments: ClassVar[bool] = True  # whether its logits are of classes of pixels
    takes_levels: ClassVar[bool] = False
    mark: ClassVar[str | None] = None  # name of a module that no other head has, by which files of weights know it
    classifier: ClassVar[tuple[str, ...]] = ()  # names in files of what scores classes, which files may lack
    unused: ClassVar[tuple[str, ...]] = ()  # settings of `model` that other heads have, and that do nothing here

    @classmethod
    @abc.abstractmethod
    def of(cls, network: Any, conv: Callable, norm: Callable, name: str) -> "Head":
        """The head of a network with these attributes, see `SegmentationNetwork`; `conv` and `norm` make its layers."""

    @classmethod
    def output_size(cls, backbone: Backbone, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of features and logits of an image of this height and width, in pixels."""
        return backbone.output_size(image_size)

    @classmethod
    def output_stride(cls, backbone: Backbone) -> float:
        """Pixels between two of them."""
        return backbone.output_stride

    @classmethod
    def check_sizes(cls, model: Mapping[str, Any]) -> tuple[str, str] | None:
        """The setting of `model` that cannot be, and what was expected; None where all can."""
        return None

    def __call__(self, x: jax.Array | tuple[jax.Array, ...], dropout_keys: jax.Array | None) -> Output:
        raise NotImplementedError

    @classmethod
    def score(cls, network: Any, params: Any, features: jax.Array) -> jax.Array:
        """Logits of features, by the head's last layer alone.

        Args:
          network: see `of`.
          params: of the head.
          features: as in `Output`.

        Returns:
          The `logits` of such an output, in the features' type.
        """
        layer = Conv(network.classes, use_bias="bias" in params["classifier"], dtype=network.dtype)
        return layer.apply({"params": params["classifier"]}, features).astype(features.dtype)

    # In files of weights; those of 'released' and 'deeplab' are in `weights.layout` and `weights.torch_names`

    @classmethod
    def file_name(cls, modules: Path) -> str | None:
        """Name of a module in files of weights, without its leaf; None where no head of this kind has it."""
        return None

    @classmethod
    def shapes(cls, layout: Any) -> Iterator[tuple[str, Shape]]:
        """Name in such a file and shape of each of its arrays, in a network of this `weights.layout.Layout`."""
        yield from ()

    @classmethod
    def read_off(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None] | None:
        """Fields of a `Layout` as arrays of these names and shapes say; None where they are of another head."""
        return None
