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
DOWNSAMPLE = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}  # names here and in files
BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")


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

    depths: tuple[int, ...]
    width: int
    stride_in: str
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    recompute: bool = False
    scan_blocks: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        bottleneck = nn.remat(Bottleneck) if self.recompute else Bottleneck
        conv = self.conv(self.width, kernel=7, stride=2, name="conv1")
        x, maps = max_pool(self.norm(rectify=True, name="bn1")(x, conv=conv)), []
        for stage, depth in enumerate(self.depths):
            block = partial(
                bottleneck, channels=self.width * 2**stage, dilation=STAGE_DILATIONS[stage], stride_in=self.stride_in,
                conv=self.conv, norm=self.norm,
            )  # fmt: skip
            names = [f"layer{stage + 1}_{number}" for number in range(depth)]
            x = block(stride=STAGE_STRIDES[stage], project=True, name=names[0])(x)
            alike = partial(block, stride=1, project=False)
            if self.scan_blocks and depth >= SCANNED and not self.is_initializing():
                x = self.scanned(alike(rectify=False, parent=None), names[1:], x)
            else:
                for name in names[1:]:
                    x = alike(name=name)(x)
            maps.append(x)
        return tuple(maps)

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


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pool with stride 2 and padding 1 that rounds its output size up (512 x 896 images give 65 x 113).

    The gradient goes to the first of the largest, as in PyTorch. XLA's own scatters it, which neither CPUs nor GPUs are
    quick at; here each of the nine taps of a window takes its part.
    """
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=pool_padding(x))


def pool_padding(x: jax.Array) -> list[tuple[int, int]]:
    """Rows and columns beside images [batch, height, width, channels]: one before, one or two behind."""
    return [(1, 1 + (size + 1) % 2) for size in x.shape[1:3]]


def _max_pool_gradient(x, dy):
    padding, zero = pool_padding(x), jnp.zeros((), dy.dtype)
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


max_pool.defvjp(lambda x: (max_pool(x), x), _max_pool_gradient)


def pooled_size(image_size: Size) -> Size:
    """Height and width of what the first group of blocks makes of an image of this size."""
    return tuple(((size - 1) // 2 + 1) // 2 + 1 for size in image_size)


def output_size(image_size: Size) -> Size:
    """Height and width of the feature map that an image of this size gives."""
    return tuple((size - 1) // 2 + 1 for size in pooled_size(image_size))


@dataclasses.dataclass(frozen=True)
class ResNetBackbone(Backbone):
    """ResNet as a row of the table of backbones: bottleneck blocks of each of up to four groups, channels of the stem.

    In files it has the names of torchvision, which the released code keeps.

    Attributes:
      stride_in: which convolution of a block that halves the size has its stride: '1x1', the first one
        (arXiv:1512.03385, released), or '3x3' (torchvision's and timm's weights).
      scan_blocks: the blocks of a group that are alike, all but its first, are a loop over one of them, in groups of
        three blocks and more. The program is smaller and sooner compiled; values are the same.
    """

    stride_in: str = "1x1"
    scan_blocks: bool = False

    options = ("stride_in", "scan_blocks")
    family = "resnet"
    output_stride = OUTPUT_STRIDE
    first_convolution = "conv1"
    groups = RELEASED_STEPS

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> ResNet:
        return ResNet(
            self.depths, self.width, self.stride_in, conv, norm, recompute, scan_blocks=self.scan_blocks, name=name
        )

    @property
    def channels(self) -> int:
        return EXPANSION * self.width * 2 ** (len(self.depths) - 1)

    def output_size(self, image_size: Size) -> Size:
        return output_size(image_size)

    @property
    def levels(self) -> tuple[Level, ...]:
        strides = (OUTPUT_STRIDE // 2, *[OUTPUT_STRIDE] * (len(self.depths) - 1))
        return tuple(Level(stride, EXPANSION * self.width * 2**i) for i, stride in enumerate(strides))

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        return pooled_size(image_size), *[output_size(image_size)] * (len(self.depths) - 1)

    def group(self, path: Path) -> str:
        if path[0] in ("conv1", "bn1"):
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
        return ("width", "at least 1") if self.width < 1 else None

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if first in ("conv1", "bn1"):
            return first
        block = re.fullmatch(r"layer(\d)_(\d+)", first)
        return block and ".".join([f"layer{block[1]}.{block[2]}", *(DOWNSAMPLE.get(name, name) for name in rest)])

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        yield "conv1.weight", (self.width, 3, 7, 7)
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
        stem = next((shapes[name][0] for name in ("conv1.weight", "bn1.weight") if shapes.get(name)), self.width)
        return ResNetBackbone(tuple(depths.get(group, 1) for group in range(1, max(depths) + 1)), stem)
