"""ResNet with bottleneck blocks at output stride 8, as DeepLabv2 uses it (arXiv:1606.00915, arXiv:1512.03385)."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones.backbone import Backbone, Level, Path, Size
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm, rectifier
from proda_jax.models.shapes import Shape, batch_norm

STATISTICS = "batch_stats"
SCANNED = 3  # blocks of a group from which on a loop over the alike ones, all but the first, is worth while
EXPANSION = 4  # output channels of a bottleneck over its inner channels
OUTPUT_STRIDE = 8
STRIDES_IN = ("1x1", "3x3")
STAGE_STRIDES = (1, 2, 1, 1)
STAGE_DILATIONS = (1, 1, 2, 4)  # what the last two stages lose in stride they gain in dilation
# How often the released optimizer steps a parameter in one iteration: its generator yields most of them three times, a
# block's projection once more than the block, the stem once.
RELEASED_STEPS = {"backbone": 3, "projection": 4, "stem": 1}
DEEP_STEM = (1, 1, 2)  # channels of the three convolutions of a deep stem, over half of the stem's
DOWNSAMPLE = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}  # names here and in files
BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")
STEM = re.compile(r"stem(\d)_(conv|bn)")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride sits in the first 1x1, as in the released code, or in
    the 3x3. Without `rectify`, the rectifier behind the shortcut is left to others."""

    channels: int
    stride: int
    dilation: int
    project: bool
    stride_in: str
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    rectify: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if self.project:
            conv = self.conv(EXPANSION * self.channels, stride=self.stride, name="downsample_conv")
            shortcut = self.norm(name="downsample_bn")(x, conv=conv)
        strides = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        conv = self.conv(self.channels, stride=strides[0], name="conv1")
        x = self.norm(rectify=True, name="bn1")(x, conv=conv)
        conv = self.conv(self.channels, kernel=3, stride=strides[1], dilation=self.dilation, name="conv2")
        x = self.norm(rectify=True, name="bn2")(x, conv=conv)
        conv = self.conv(EXPANSION * self.channels, name="conv3")
        return self.norm(rectify=self.rectify, name="bn3")(x, shortcut, conv=conv)


class ResNet(nn.Module):
    """Images [batch, height, width, 3] to a map from each group of blocks; ~height / 8, ~width / 8 from the second on.

    With `recompute`, the backward pass keeps what goes into each block and computes what is inside once more; with
    `scan_blocks`, like blocks are a loop. Neither changes names or values of variables.
    """

    row: "ResNetBackbone"
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        row = self.row
        bottleneck = nn.remat(Bottleneck) if self.recompute else Bottleneck
        x, maps = max_pool(self.stem(x), row.ceil_mode), []
        for stage, depth in enumerate(row.depths):
            block = partial(
                bottleneck, channels=row.width * 2**stage, stride_in=row.stride_in, conv=self.conv, norm=self.norm
            )
            names = [f"layer{stage + 1}_{number}" for number in range(depth)]
            dilation = STAGE_DILATIONS[stage]
            first = STAGE_DILATIONS[max(stage - 1, 0)] if row.contract_dilation else dilation
            x = block(stride=STAGE_STRIDES[stage], dilation=first, project=True, name=names[0])(x)
            alike = partial(block, stride=1, dilation=dilation, project=False)
            if row.scan_blocks and depth >= SCANNED and not self.is_initializing():
                x = self.scanned(alike(rectify=False, parent=None), names[1:], x)
            else:
                for name in names[1:]:
                    x = alike(name=name)(x)
            maps.append(x)
        return tuple(maps)

    def stem(self, x: jax.Array) -> jax.Array:
        """What comes before the pooling: one 7x7 convolution, or three of 3x3, the first of them with the stride."""
        if not self.row.deep_stem:
            conv = self.conv(self.row.width, kernel=7, stride=2, name="conv1")
            return self.norm(rectify=True, name="bn1")(x, conv=conv)
        for i, times in enumerate(DEEP_STEM):
            conv = self.conv(times * self.row.width // 2, kernel=3, stride=2 if i == 0 else 1, name=f"stem{i}_conv")
            x = self.norm(rectify=True, name=f"stem{i}_bn")(x, conv=conv)
        return x

    def scanned(self, block: Bottleneck, names: Sequence[str], x: jax.Array) -> jax.Array:
        """What blocks of equal shapes make of x, one after the other, by a loop over one of them.

        Args:
          block: one of them, without variables, and without the rectifier behind it. A loop keeps what goes into a step
            and what the backward pass wants besides; with the rectifier ahead of the block, where it changes nothing of
            what is rectified already, these two are one array.
          names: of them all, whose variables are stacked for the loop, and taken apart again behind it.
          x: [batch, height, width, channels].
        """
        moves, held = self.is_mutable_collection(STATISTICS), self.variables
        stacked = {kind: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(held[kind][name] for name in names))
                   for kind in held if names[0] in held[kind]}  # fmt: skip

        def step(x: jax.Array, variables: dict) -> tuple[jax.Array, dict]:
            return block.apply(variables, rectifier(x), mutable=[STATISTICS] if moves else [])

        x, changed = jax.lax.scan(step, x, stacked)
        for number, name in enumerate(names if moves else ()):
            self.put_variable(STATISTICS, name, jax.tree.map(lambda leaf, i=number: leaf[i], changed[STATISTICS]))
        return rectifier(x)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, ceil_mode: bool = True) -> jax.Array:
    """3x3 max pool with stride 2 and padding 1 that rounds its output's height and width up, or down.

    The gradient goes to the first of the largest, as in PyTorch. XLA's own scatters it, which neither CPUs nor GPUs are
    quick at; here each of the nine taps of a window takes its part.
    """
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=pool_padding(x, ceil_mode))


def pool_padding(x: jax.Array, ceil_mode: bool) -> list[tuple[int, int]]:
    """Rows and columns beside images [batch, height, width, channels]: one before, and two behind where an even number
    is to be rounded up, otherwise one."""
    return [(1, 1 + (ceil_mode and size % 2 == 0)) for size in x.shape[1:3]]


def _max_pool_gradient(ceil_mode, x, dy):
    padding, zero = pool_padding(x, ceil_mode), jnp.zeros((), dy.dtype)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    spans = [2 * size - 1 for size in dy.shape[1:3]]  # rows and columns from a tap's first to its last
    taps = list(itertools.product(range(3), repeat=2))
    largest, first_largest = jnp.full(dy.shape, -jnp.inf, x.dtype), jnp.full(dy.shape, -1, jnp.int8)
    for number, tap in enumerate(taps):
        values = padded[:, *(slice(first, first + span, 2) for first, span in zip(tap, spans, strict=True))]
        # not whether it equals what the forward pass found: XLA may compute x anew for either, and round it otherwise
        is_larger = values > largest
        largest = jnp.where(is_larger, values, largest)
        first_largest = jnp.where(is_larger, jnp.int8(number), first_largest)
    dx = jnp.zeros_like(padded)
    for number, tap in enumerate(taps):
        beside = [(first, size - first - span, 1)
                  for first, size, span in zip(tap, padded.shape[1:3], spans, strict=True)]  # fmt: skip
        dx += jax.lax.pad(jnp.where(first_largest == number, dy, zero), zero, ((0, 0, 0), *beside, (0, 0, 0)))
    within = [slice(before, before + size) for (before, _), size in zip(padding, x.shape[1:3], strict=True)]
    return (dx[:, *within],)


max_pool.defvjp(lambda x, ceil_mode: (max_pool(x, ceil_mode), x), _max_pool_gradient)


def halved(size: Size) -> Size:
    """Height and width behind a convolution of stride 2, padded by half of its kernel."""
    return tuple((side - 1) // 2 + 1 for side in size)


@dataclasses.dataclass(frozen=True)
class ResNetBackbone(Backbone):
    """ResNet as a row of the table of backbones: bottleneck blocks of each of up to four groups, channels of the stem.

    In files it has the names of torchvision, which the released code keeps.

    Attributes:
      stride_in: which convolution of a block that halves the size has its stride: '1x1', the first one
        (arXiv:1512.03385, released), or '3x3' (torchvision's and timm's weights).
      contract_dilation: the first block of a group that is dilated in place of a stride keeps the dilation of the group
        before, as in torchvision, timm and mmsegmentation (whose name for it this is); without, it has its own group's,
        as in DeepLabv2's Caffe networks and the released code.
      ceil_mode: the size of what the stem's pooling gives is rounded up (released) or down.
      deep_stem: three 3x3 convolutions in place of one of 7x7, as in mmsegmentation's ResNetV1c, and timm's 'c'.
      scan_blocks: the blocks of a group that are alike, all but its first, are a loop over one of them, in groups of
        three blocks and more. The program is smaller, but was not sooner compiled (docs/performance.md). Values are
        the same.
    """

    stride_in: str = "1x1"
    contract_dilation: bool = False
    ceil_mode: bool = True
    deep_stem: bool = False
    scan_blocks: bool = False

    options = ("stride_in", "contract_dilation", "ceil_mode", "deep_stem", "scan_blocks")
    family = "resnet"
    output_stride = OUTPUT_STRIDE
    groups = RELEASED_STEPS

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> ResNet:
        return ResNet(self, conv, norm, recompute, name=name)

    @property
    def first_convolution(self) -> str:
        return "stem0_conv" if self.deep_stem else "conv1"

    def takes_weights_of(self, other: Backbone) -> bool:
        return super().takes_weights_of(other) and self.deep_stem == other.deep_stem

    @property
    def words(self) -> str:
        return super().words + (" with a deep stem" if self.deep_stem else "")

    @property
    def channels(self) -> int:
        return EXPANSION * self.width * 2 ** (len(self.depths) - 1)

    def pooled_size(self, image_size: Size) -> Size:
        """Height and width of what the stem and the first group of blocks make of an image of this size."""
        size = halved(image_size)
        return tuple(side // 2 + 1 for side in size) if self.ceil_mode else halved(size)

    def output_size(self, image_size: Size) -> Size:
        return halved(self.pooled_size(image_size))

    @property
    def levels(self) -> tuple[Level, ...]:
        strides = (OUTPUT_STRIDE // 2, *[OUTPUT_STRIDE] * (len(self.depths) - 1))
        return tuple(Level(stride, EXPANSION * self.width * 2**i) for i, stride in enumerate(strides))

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        return self.pooled_size(image_size), *[self.output_size(image_size)] * (len(self.depths) - 1)

    def group(self, path: Path) -> str:
        if path[0] in ("conv1", "bn1") or STEM.fullmatch(path[0]):
            return "stem"
        return "projection" if path[1].startswith("downsample") else "backbone"

    def layer(self, path: Path) -> int:
        block = re.fullmatch(r"layer(\d)_(\d+)", path[0])
        return 1 + sum(self.depths[: int(block[1]) - 1]) + int(block[2]) if block else 0

    def check_sizes(self) -> tuple[str, str] | None:
        if not 2 <= len(self.depths) <= 4 or min(self.depths) < 1:
            return "depths", "two to four groups of blocks, each of at least one"
        if self.stride_in not in STRIDES_IN:
            return "stride_in", f"one of {', '.join(STRIDES_IN)}"
        if self.scan_blocks and max(self.depths) < SCANNED:
            return "scan_blocks", "False, as no group has three blocks"
        if self.deep_stem and self.width % 2:
            return "width", "an even number, as the stem is deep"
        return ("width", "at least 1") if self.width < 1 else None

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if first in ("conv1", "bn1"):
            return first
        if stem := STEM.fullmatch(first):  # a list of convolution, normalisation and rectifier in turn
            return f"stem.{3 * int(stem[1]) + (stem[2] == 'bn')}"
        block = re.fullmatch(r"layer(\d)_(\d+)", first)
        return block and ".".join([f"layer{block[1]}.{block[2]}", *(DOWNSAMPLE.get(name, name) for name in rest)])

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        inputs = 3
        for i, times in enumerate(DEEP_STEM if self.deep_stem else ()):
            yield f"stem.{3 * i}.weight", (times * self.width // 2, inputs, 3, 3)
            yield from batch_norm(f"stem.{3 * i + 1}", inputs := times * self.width // 2).items()
        if not self.deep_stem:
            yield "conv1.weight", (self.width, inputs, 7, 7)
            yield from batch_norm("bn1", self.width).items()
        inputs = self.width
        for stage, depth in enumerate(self.depths):
            inner = self.width * 2**stage
            for block in range(depth):
                name = f"layer{stage + 1}.{block}"
                if block == 0:
                    yield f"{name}.downsample.0.weight", (EXPANSION * inner, inputs, 1, 1)
                    yield from batch_norm(f"{name}.downsample.1", EXPANSION * inner).items()
                sizes = ((inner, inputs, 1), (inner, inner, 3), (EXPANSION * inner, inner, 1))
                for i, (out, into, kernel) in enumerate(sizes, start=1):
                    yield f"{name}.conv{i}.weight", (out, into, kernel, kernel)
                    yield from batch_norm(f"{name}.bn{i}", out).items()
                inputs = EXPANSION * inner

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "ResNetBackbone | None":
        depths: dict[int, int] = {}
        for match in filter(None, map(BLOCK.match, shapes)):
            group, block = int(match[1]), int(match[2])
            depths[group] = max(depths.get(group, 0), block + 1)
        if not depths:
            return None
        stems = ("conv1.weight", "bn1.weight", "stem.6.weight", "stem.7.weight")
        stem = next((name for name in stems if shapes.get(name)), None)
        return ResNetBackbone(
            tuple(depths.get(group, 1) for group in range(1, max(depths) + 1)), shapes[stem][0] if stem else self.width,
            deep_stem=any(name.startswith("stem.") for name in shapes),
        )  # fmt: skip
