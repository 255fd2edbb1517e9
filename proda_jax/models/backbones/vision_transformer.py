"""Plain vision transformers (arXiv:2010.11929): what DINOv2 and DINOv3 have in common."""

import abc
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
from proda_jax.models.convolution import Conv, add_bias
from proda_jax.models.drop_path import add_branch, branch_factors
from proda_jax.models.interpolation import resize
from proda_jax.models.layer_norm import LayerNorm
from proda_jax.models.patches import PatchConv
from proda_jax.models.shapes import Shape, affine, conv, linear

HEAD_CHANNELS = 64  # of each head of attention
MLP_RATIO = 4
LEVELS = 4  # for heads that take several: the last block of each quarter
BLOCK = re.compile(r"blocks\.(\d+)\.")
Rotation = tuple[jax.Array, jax.Array]  # cosine and sine for each patch and channel of a head, [patches, channels]


class KeylessBias(nn.Module):
    """A bias of queries and values; that of keys, which is kept for the sake of files, is not added."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        return add_bias(x, jnp.where(np.repeat([True, False, True], x.shape[-1] // 3), bias, 0.0))


class Attention(nn.Module):
    """Attention of all tokens [batch, 1, tokens, channels] to each other, in heads of 64 channels.

    Attributes:
      linear: makes linear layers with a bias.
      key_bias: whether keys have one.
    """

    linear: Callable[..., Conv]
    key_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None) -> jax.Array:
        batch, _, tokens, channels = x.shape
        size = min(HEAD_CHANNELS, channels)
        together = self.linear(3 * channels, use_bias=self.key_bias, name="qkv")(x)
        together = together if self.key_bias else KeylessBias(name="qkv_bias")(together)
        together = together.reshape(batch, tokens, 3, channels // size, size)
        queries, keys, values = (together[:, :, i] for i in range(3))
        if rotation is not None:
            queries, keys = rotated(queries, rotation), rotated(keys, rotation)
        return self.linear(channels, name="proj")(attention(queries, keys, values).reshape(x.shape))


def rotated(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotary position embedding (arXiv:2104.09864) of the last tokens of x [batch, tokens, heads, channels].

    Channel i and the one half of them further are a point, which is turned; tokens before the patches stay.
    """
    cosine, sine = (part[:, None].astype(x.dtype) for part in rotation)
    first = x.shape[1] - len(cosine)
    patches, half = x[:, first:], x.shape[-1] // 2
    turned = jnp.concatenate([-patches[..., half:], patches[..., :half]], axis=-1)
    return jnp.concatenate([x[:, :first], patches * cosine + turned * sine], axis=1)


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
    epsilon: float
    key_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, factors: jax.Array | None, rotation: Rotation | None) -> jax.Array:
        first, second = (None, None) if factors is None else factors.T
        normalised = LayerNorm(self.epsilon, name="norm1")(x)
        branch = Attention(self.linear, self.key_bias, name="attn")(normalised, rotation)
        x = add_branch(x, LayerScale(name="ls1")(branch), first)
        branch = MLP(self.linear, name="mlp")(LayerNorm(self.epsilon, name="norm2")(x))
        return add_branch(x, LayerScale(name="ls2")(branch), second)


class VisionTransformer(nn.Module):
    """Images [batch, height, width, 3] to normalised patches [batch, rows, columns, width] after some of the blocks.

    Images whose sides are no multiples of a patch's are interpolated to the next ones, so that patches cover them.

    Attributes:
      backbone: its row.
      conv: makes linear layers.
      recompute: the backward pass keeps what goes into each block and computes what is inside once more.
    """

    backbone: "VisionTransformerBackbone"
    conv: Callable[..., Conv]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        row, block = self.backbone, nn.remat(Block) if self.recompute else Block
        linear = partial(self.conv, use_bias=True, initialisation="transformer")
        grid, (blocks,), side = row.output_size(x.shape[1:3]), row.depths, row.output_stride
        x = PatchConv(row.width, side, name="patch_embed")(resize(x, tuple(side * n for n in grid)))
        x = row.embeddings(name="embeddings")(x)[:, None]
        before, rotation = x.shape[2] - grid[0] * grid[1], row.rotation(grid)
        factors = branch_factors(keys, row.drop_path, blocks)
        norm, maps = LayerNorm(row.epsilon, name="norm"), []
        for i in range(blocks):
            of_block = None if factors is None else factors[:, i]
            x = block(linear, row.epsilon, row.key_bias, name=f"block_{i}")(x, of_block, rotation)
            if i in row.taken:
                maps.append(norm(x[:, 0, before:]).reshape(x.shape[0], *grid, row.width))
        return tuple(maps)


@dataclasses.dataclass(frozen=True)
class VisionTransformerBackbone(Backbone):
    """A plain vision transformer as a row of the table of backbones: (number of blocks,), channels of tokens.

    In files it has the names of the authors' code. Their mask token, which nothing here uses, is left over.

    Attributes:
      registers: tokens besides those of the image and its patches.
    """

    first_convolution = "patch_embed"
    groups: ClassVar[Mapping[str, int]] = {"backbone": 1}
    options = ("drop_path",)
    draws = True
    images = "imagenet"
    epsilon: ClassVar[float]  # of layer normalisation
    key_bias: ClassVar[bool]  # whether keys have a bias

    registers: int = 0

    @abc.abstractmethod
    def embeddings(self, name: str) -> nn.Module:
        """What makes tokens [batch, tokens, width], the last of which are the patches, of patches in rows."""

    def rotation(self, grid: Size) -> Rotation | None:
        """How queries and keys of so many rows and columns of patches are turned, if they are."""
        return None

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> VisionTransformer:
        return VisionTransformer(self, conv, recompute, name=name)

    @property
    def channels(self) -> int:
        return self.width

    def output_size(self, image_size: Size) -> Size:
        return tuple(-(-n // self.output_stride) for n in image_size)

    @property
    def taken(self) -> tuple[int, ...]:
        """Blocks after which patches are given."""
        (blocks,) = self.depths
        levels = min(LEVELS, blocks)
        return tuple(blocks * (i + 1) // levels - 1 for i in range(levels))

    @property
    def levels(self) -> tuple[Level, ...]:
        return (Level(self.output_stride, self.width),) * len(self.taken)

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
        if self.width < 4 or self.width % min(self.width, HEAD_CHANNELS) or self.width % 4:
            return "width", f"a multiple of {HEAD_CHANNELS}, the channels of a head of attention, or of 4 below that"
        return None if 0 <= self.drop_path < 1 else ("drop_path", "a share below 1")

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if first == "embeddings":
            return ""  # its arrays belong to no module there
        if first in ("patch_embed", "norm"):
            return {"patch_embed": "patch_embed.proj"}.get(first, first)
        block = re.fullmatch(r"block_(\d+)", first)
        return block and ".".join([f"blocks.{block[1]}", *("qkv" if name == "qkv_bias" else name for name in rest)])

    @abc.abstractmethod
    def token_shapes(self) -> Iterator[tuple[str, Shape]]:
        """Name in files and shape of each array of `embeddings`."""

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        width, hidden = self.width, MLP_RATIO * self.width
        yield from self.token_shapes()
        yield from conv("patch_embed.proj", width, 3, self.output_stride).items()
        for name in (f"blocks.{i}" for i in range(self.depths[0])):
            for part in ("norm1", "norm2"):
                yield from affine(f"{name}.{part}", width).items()
            yield from linear(f"{name}.attn.qkv", 3 * width, width).items()
            yield from linear(f"{name}.attn.proj", width, width).items()
            yield from linear(f"{name}.mlp.fc1", hidden, width).items()
            yield from linear(f"{name}.mlp.fc2", width, hidden).items()
            for part in ("ls1", "ls2"):
                yield f"{name}.{part}.gamma", (width,)
        yield from affine("norm", width).items()

    def sizes_of(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int], int] | None:
        """(number of blocks,) and width that arrays of these names and shapes seem to be of; None without blocks."""
        blocks = [int(match[1]) for match in map(BLOCK.match, shapes) if match]
        names = ("cls_token", "norm.weight", "patch_embed.proj.bias", "blocks.0.norm1.weight")
        width = next((shapes[name][-1] for name in names if shapes.get(name)), self.width)
        return ((max(blocks) + 1,), width) if blocks else None
