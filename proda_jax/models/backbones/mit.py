"""Mix Transformer, the backbone of SegFormer (Xie et al., NeurIPS 2021, arXiv:2105.15203)."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.attention import attention
from proda_jax.models.backbones.backbone import Backbone, Level, Path, Size
from proda_jax.models.convolution import Conv
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.drop_path import add_branch, branch_factors
from proda_jax.models.interpolation import resize
from proda_jax.models.layer_norm import LayerNorm
from proda_jax.models.patches import PatchConv
from proda_jax.models.shapes import Shape, affine, conv, linear

STRIDES = (4, 8, 16, 32)  # of the levels
WIDTHS = HEADS = (1, 2, 5, 8)  # channels of each level over those of the first; heads of its attention
REDUCTIONS = (8, 4, 2, 1)  # rows, and columns, of tokens that make one key
MLP_RATIO = 4
# The authors' code gives its blocks and levels 1e-6 and leaves PyTorch's 1e-5 to what embeds patches and reduces keys.
# In transformers (5.24) all layers have 1e-5, whatever `layer_norm_eps` of the configuration says.
EPSILON, EMBEDDING_EPSILON = 1e-6, 1e-5
FUSED = 1  # level on whose grid all are put together for heads that take one map
BLOCK = re.compile(r"block([1-4])\.(\d+)\.")


class PatchEmbedding(nn.Module):
    """Overlapping patches: a convolution of stride 4 on images and 2 between levels, and a normalisation."""

    channels: int
    first: bool
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, stride = (7, 4) if self.first else (3, 2)
        x = self.conv(self.channels, kernel=kernel, stride=stride, use_bias=True, name="proj")(x)
        return LayerNorm(EMBEDDING_EPSILON, name="norm")(x)


class Attention(nn.Module):
    """Attention of every position to a smaller image, of which one position stands for reduction x reduction."""

    heads: int
    reduction: int
    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, shape = x.shape[-1], x.shape

        def of_heads(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], -1, self.heads, channels // self.heads)

        queries = self.linear(channels, name="q")(x)
        if self.reduction > 1:
            x = LayerNorm(EMBEDDING_EPSILON, name="norm")(PatchConv(channels, self.reduction, name="sr")(x))
        keys, values = jnp.split(self.linear(2 * channels, name="kv")(x), 2, axis=-1)
        x = attention(*map(of_heads, (queries, keys, values))).reshape(shape)
        return self.linear(channels, name="proj")(x)


class MixFFN(nn.Module):
    """Two linear layers around a 3x3 depthwise convolution, which tells positions where they are."""

    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, hidden = x.shape[-1], MLP_RATIO * x.shape[-1]
        x = self.linear(hidden, name="fc1")(x)
        x = DepthwiseConv(hidden, use_bias=True, initialisation="he", dtype=x.dtype, name="dwconv")(x)
        return self.linear(channels, name="fc2")(nn.gelu(x, approximate=False))


class Block(nn.Module):
    """Attention and Mix-FFN, each around a shortcut; `factors` [batch, 2] are those of the two branches, or None."""

    heads: int
    reduction: int
    linear: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, factors: jax.Array | None) -> jax.Array:
        first, second = (None, None) if factors is None else factors.T
        branch = Attention(self.heads, self.reduction, self.linear, name="attn")(LayerNorm(EPSILON, name="norm1")(x))
        x = add_branch(x, branch, first)
        return add_branch(x, MixFFN(self.linear, name="mlp")(LayerNorm(EPSILON, name="norm2")(x)), second)


class MixTransformer(nn.Module):
    """Images [batch, height, width, 3] to a map of each level, at strides 4, 8, 16 and 32.

    With `recompute`, the backward pass keeps what goes into each block and computes what is inside once more.
    """

    depths: tuple[int, ...]
    width: int
    drop_path: float
    conv: Callable[..., Conv]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        block = nn.remat(Block) if self.recompute else Block
        linear = partial(self.conv, use_bias=True, initialisation="transformer")
        factors, maps, number = branch_factors(keys, self.drop_path, sum(self.depths)), [], 0
        for i, depth in enumerate(self.depths):
            x = PatchEmbedding(WIDTHS[i] * self.width, i == 0, self.conv, name=f"patch_embed{i + 1}")(x)
            for j in range(depth):
                of_block = None if factors is None else factors[:, number]
                x = block(HEADS[i], REDUCTIONS[i], linear, name=f"block{i + 1}_{j}")(x, of_block)
                number += 1
            x = LayerNorm(EPSILON, name=f"norm{i + 1}")(x)
            maps.append(x)
        return tuple(maps)


@dataclasses.dataclass(frozen=True)
class MiTBackbone(Backbone):
    """MiT as a row of the table of backbones: blocks of each of two to four levels, channels of the first.

    In files it has the names of the authors' code. Heads that take one map have all levels, put together at stride 8.
    """

    family = "mit"
    output_stride = STRIDES[FUSED]
    first_convolution = "patch_embed1/proj"
    groups = {"backbone": 1}
    options = ("drop_path",)
    draws = True
    images = "imagenet"

    drop_path: float = 0.1

    def module(self, conv: Callable, norm: Callable, *, recompute: bool, name: str) -> MixTransformer:
        return MixTransformer(self.depths, self.width, self.drop_path, conv, recompute, name=name)

    @property
    def channels(self) -> int:
        return sum(level.channels for level in self.levels)

    def output_size(self, image_size: Size) -> Size:
        return self.level_sizes(image_size)[FUSED]

    @property
    def levels(self) -> tuple[Level, ...]:
        return tuple(Level(STRIDES[i], WIDTHS[i] * self.width) for i in range(len(self.depths)))

    def level_sizes(self, image_size: Size) -> tuple[Size, ...]:
        return tuple(tuple(-(-n // level.stride) for n in image_size) for level in self.levels)

    def features(self, maps: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([resize(x, maps[FUSED].shape[1:3]) for x in maps], axis=-1)

    def group(self, path: Path) -> str:
        return "backbone"

    def layer(self, path: Path) -> int:
        kind, level, block = re.fullmatch(r"(\w+?)(\d)(?:_(\d+))?", path[0]).groups()
        below = sum(self.depths[: int(level) - 1])
        if kind == "norm":
            return below + self.depths[int(level) - 1]
        return below if block is None else below + int(block) + 1

    def check_sizes(self) -> tuple[str, str] | None:
        if not 2 <= len(self.depths) <= 4 or min(self.depths) < 1:
            return "depths", "two to four levels, each of at least one block"
        if self.width < 1:
            return "width", "at least 1"
        return None if 0 <= self.drop_path < 1 else ("drop_path", "a share below 1")

    def file_name(self, modules: Path) -> str | None:
        first, *rest = modules
        if re.fullmatch(r"(patch_embed|norm)[1-4]", first):
            return ".".join(modules)
        block = re.fullmatch(r"block([1-4])_(\d+)", first)
        rest = ["dwconv.dwconv" if name == "dwconv" else name for name in rest]
        return block and ".".join([f"block{block[1]}.{block[2]}", *rest])

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        inputs = 3
        for i, (depth, level) in enumerate(zip(self.depths, self.levels, strict=True)):
            channels = level.channels
            yield from conv(f"patch_embed{i + 1}.proj", channels, inputs, 3 if i else 7).items()
            yield from affine(f"patch_embed{i + 1}.norm", channels).items()
            for j in range(depth):
                yield from block_shapes(f"block{i + 1}.{j}", channels, REDUCTIONS[i])
            yield from affine(f"norm{i + 1}", channels).items()
            inputs = channels

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "MiTBackbone | None":
        depths: dict[int, int] = {}
        for match in filter(None, map(BLOCK.match, shapes)):
            level, block = int(match[1]), int(match[2])
            depths[level] = max(depths.get(level, 0), block + 1)
        if not depths:
            return None
        names = ("patch_embed1.proj.weight", "patch_embed1.norm.weight", "norm1.weight")
        width = next((shapes[name][0] for name in names if shapes.get(name)), self.width)
        return MiTBackbone(tuple(depths.get(level, 1) for level in range(1, max(depths) + 1)), width)


def block_shapes(name: str, channels: int, reduction: int) -> Iterator[tuple[str, Shape]]:
    """Name in files and shape of each array of a block."""
    hidden = MLP_RATIO * channels
    yield from affine(f"{name}.norm1", channels).items()
    yield from linear(f"{name}.attn.q", channels, channels).items()
    yield from linear(f"{name}.attn.kv", 2 * channels, channels).items()
    yield from linear(f"{name}.attn.proj", channels, channels).items()
    if reduction > 1:
        yield from conv(f"{name}.attn.sr", channels, channels, reduction).items()
        yield from affine(f"{name}.attn.norm", channels).items()
    yield from affine(f"{name}.norm2", channels).items()
    yield from linear(f"{name}.mlp.fc1", hidden, channels).items()
    yield from conv(f"{name}.mlp.dwconv.dwconv", hidden, 1, 3).items()
    yield from linear(f"{name}.mlp.fc2", channels, hidden).items()
