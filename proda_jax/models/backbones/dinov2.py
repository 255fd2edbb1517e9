"""DINOv2's vision transformers (Oquab et al., 2023, arXiv:2304.07193; registers: Darcet et al., arXiv:2309.16588)."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.attention import attention
from proda_jax.models.backbones.backbone import Backbone, Level, Path, Size
from proda_jax.models.convolution import Conv
from proda_jax.models.drop_path import add_branch, branch_factors
from proda_jax.models.interpolation import antialiased_cubic_weights, cubic_weights, resize
from proda_jax.models.layer_norm import LayerNorm
from proda_jax.models.patches import PatchConv
from proda_jax.models.shapes import Shape, affine, conv, linear

PATCH = 14  # pixels on a side
HEAD_CHANNELS = 64  # of each head of attention
MLP_RATIO = 4
LEVELS = 4  # for heads that take several: the last block of each quarter
BLOCK = re.compile(r"blocks\.(\d+)\.")


def offset_weights(before: int, after: int) -> np.ndarray:
    """Interpolation whose scale is a tenth of a patch too large, which the authors' code took against rounding."""
    return cubic_weights(before, after, scale=(after + 0.1) / before)


POSITION_RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "offset": offset_weights,  # the authors' code without registers
    "plain": cubic_weights,  # transformers without registers
    "antialias": antialiased_cubic_weights,  # the authors' code and transformers with registers, timm
}


class Embeddings(nn.Module):
    """Patches as tokens, with where they are in the image, behind a token for the image and registers.

    Attributes:
      side: positions were learnt for side x side patches.
      registers: tokens that stand for nothing.
      position_resize: how positions are interpolated for other numbers of patches, one of `POSITION_RESIZES`.
    """

    side: int
    registers: int
    position_resize: str

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """Patches [batch, rows, columns, channels] to tokens [batch, 1 + registers + rows * columns, channels]."""
        batch, rows, columns, channels = patches.shape
        small, normal = nn.initializers.normal(1e-6), nn.initializers.truncated_normal(0.02)
        first = self.param("cls_token", small, (1, 1, channels))
        places = self.param("pos_embed", normal, (1, 1 + self.side**2, channels))
        grid = places[:, 1:].reshape(1, self.side, self.side, channels)
        grid = resize(grid, (rows, columns), POSITION_RESIZES[self.position_resize])
        tokens = [first + places[:, :1]]
        if self.registers:
            tokens.append(self.param("register_tokens", small, (1, self.registers, channels)))
        before = jnp.concatenate(tokens, axis=1).astype(patches.dtype)
        placed = (patches + grid.astype(patches.dtype)).reshape(batch, -1, channels)
        return jnp.concatenate([jnp.broadcast_to(before, (batch, *before.shape[1:])), placed], axis=1)


class Attention(nn.Module):
    """Attention of all tokens [batch, 1, tokens, channels] to each other, in heads of 64 channels."""

    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, _, tokens, channels = x.shape
        size = min(HEAD_CHANNELS, channels)
        qkv = self.linear(3 * channels, name="qkv")(x).reshape(batch, tokens, 3, channels // size, size)
        x = attention(*(qkv[:, :, i] for i in range(3))).reshape(x.shape)
        return self.linear(channels, name="proj")(x)


class MLP(nn.Module):
    """Two linear layers."""

    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.gelu(self.linear(MLP_RATIO * x.shape[-1], name="fc1")(x), approximate=False)
        return self.linear(x.shape[-1], name="fc2")(hidden)


class LayerScale(nn.Module):
    """A factor of each channel (arXiv:2103.17239)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("gamma", nn.initializers.ones_init(), x.shape[-1:]).astype(x.dtype)


class Block(nn.Module):
    """Attention and two layers, each around a shortcut; `factors` [batch, 2] are those of the two branches, or None."""

    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, factors: jax.Array | None) -> jax.Array:
        first, second = (None, None) if factors is None else factors.T
        branch = Attention(self.linear, name="attn")(LayerNorm(name="norm1")(x))
        x = add_branch(x, LayerScale(name="ls1")(branch), first)
        branch = MLP(self.linear, name="mlp")(LayerNorm(name="norm2")(x))
        return add_branch(x, LayerScale(name="ls2")(branch), second)


class VisionTransformer(nn.Module):
    """Images [batch, height, width, 3] to normalised patches [batch, rows, columns, width] after some of the blocks.

    Images whose sides are no multiples of 14 pixels are interpolated to the next ones, so that patches cover them.

    Attributes:
      backbone: its row.
      conv: makes linear layers.
      recompute: the backward pass keeps what goes into each block and computes what is inside once more.
    """

    backbone: "DINOv2Backbone"
    conv: Callable[..., Conv]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        row, block = self.backbone, nn.remat(Block) if self.recompute else Block
        linear = partial(self.conv, use_bias=True, initialisation="transformer")
        grid, (blocks,) = row.output_size(x.shape[1:3]), row.depths
        x = PatchConv(row.width, PATCH, name="patch_embed")(resize(x, tuple(PATCH * n for n in grid)))
        x = Embeddings(row.side, row.registers, row.position_resize, name="embeddings")(x)[:, None]
        factors, norm, maps = branch_factors(keys, row.drop_path, blocks), LayerNorm(name="norm"), []
        for i in range(blocks):
            x = block(linear, name=f"block_{i}")(x, None if factors is None else factors[:, i])
            if i in row.taken:
                maps.append(norm(x[:, 0, 1 + row.registers :]).reshape(x.shape[0], *grid, row.width))
        return tuple(maps)


@dataclasses.dataclass(frozen=True)
class DINOv2Backbone(Backbone):
    """DINOv2 as a row of the table of backbones: (number of blocks,), channels of tokens.

    In files it has the names of the authors' code. Their mask token, which nothing here uses, is left over.

    Attributes:
      registers: tokens besides those of the image and its patches.
      side: positions were learnt for side x side patches.
      position_resize: see `POSITION_RESIZES`; None: as the authors' code has it, with registers and without.
    """

    family = "dinov2"
    output_stride = PATCH
    first_convolution = "patch_embed"
    groups: ClassVar[Mapping[str, int]] = {"backbone": 1}
    options = ("drop_path", "position_resize")
    draws = True
    images = "imagenet"

    registers: int = 0
    side: int = 37
    position_resize: str | None = None

    def __post_init__(self):
        if self.position_resize is None:
            object.__setattr__(self, "position_resize", "antialias" if self.registers else "offset")

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> VisionTransformer:
        return VisionTransformer(self, conv, recompute, name=name)

    @property
    def channels(self) -> int:
        return self.width

    def output_size(self, image_size: Size) -> Size:
        return tuple(-(-n // PATCH) for n in image_size)

    @property
    def taken(self) -> tuple[int, ...]:
        """Blocks after which patches are given."""
        (blocks,) = self.depths
        levels = min(LEVELS, blocks)
        return tuple(blocks * (i + 1) // levels - 1 for i in range(levels))

    @property
    def levels(self) -> tuple[Level, ...]:
        return (Level(PATCH, self.width),) * len(self.taken)

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        return (self.output_size(image_size),) * len(self.taken)

    def group(self, path: Path) -> str:
        return "backbone"

    def layer(self, path: Path) -> int:
        if path[0] == "norm":
            return self.depths[0]
        block = re.fullmatch(r"block_(\d+)", path[0])
        return int(block[1]) + 1 if block else 0

    def check_sizes(self) -> tuple[str, str] | None:
        if len(self.depths) != 1 or min(self.depths) < 1:
            return "depths", "one number of blocks, at least 1, such as (12,)"
        if self.width < 1 or self.width > HEAD_CHANNELS and self.width % HEAD_CHANNELS:
            return "width", f"a multiple of {HEAD_CHANNELS}, the channels of a head of attention, or less"
        if self.position_resize not in POSITION_RESIZES:
            return "position_resize", f"one of {', '.join(POSITION_RESIZES)}"
        return None if 0 <= self.drop_path < 1 else ("drop_path", "a share below 1")

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if first == "embeddings":
            return ""  # its arrays belong to no module there
        if first == "patch_embed":
            return "patch_embed.proj"
        if first == "norm":
            return "norm"
        block = re.fullmatch(r"block_(\d+)", first)
        return block and ".".join([f"blocks.{block[1]}", *rest])

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        width = self.width
        yield "cls_token", (1, 1, width)
        yield "pos_embed", (1, 1 + self.side**2, width)
        if self.registers:
            yield "register_tokens", (1, self.registers, width)
        yield from conv("patch_embed.proj", width, 3, PATCH).items()
        for i in range(self.depths[0]):
            yield from block_shapes(f"blocks.{i}", width)
        yield from affine("norm", width).items()

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "DINOv2Backbone | None":
        blocks = [int(match[1]) for match in map(BLOCK.match, shapes) if match]
        if not blocks:
            return None
        width = next((shapes[name][-1] for name in ("cls_token", "pos_embed", "norm.weight") if shapes.get(name)), None)
        registers = shapes.get("register_tokens", (1, 0))[1]
        side = round((shapes.get("pos_embed", (1, 1 + self.side**2))[1] - 1) ** 0.5)
        return DINOv2Backbone((max(blocks) + 1,), width or self.width, registers=registers, side=side)


def block_shapes(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    """Name in files and shape of each array of a block."""
    yield from affine(f"{name}.norm1", width).items()
    yield from linear(f"{name}.attn.qkv", 3 * width, width).items()
    yield from linear(f"{name}.attn.proj", width, width).items()
    yield f"{name}.ls1.gamma", (width,)
    yield from affine(f"{name}.norm2", width).items()
    yield from linear(f"{name}.mlp.fc1", MLP_RATIO * width, width).items()
    yield from linear(f"{name}.mlp.fc2", width, MLP_RATIO * width).items()
    yield f"{name}.ls2.gamma", (width,)
