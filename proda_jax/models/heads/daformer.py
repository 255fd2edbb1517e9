"""The decoder of DAFormer (Hoyer et al., CVPR 2022, arXiv:2111.14887)."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.heads.head import Head, Output, Path
from proda_jax.models.heads.released import channel_dropout
from proda_jax.models.interpolation import resize
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.shapes import Shape, batch_norm, conv, linear

PREFIX, FUSION = "decode_head", "decode_head.fuse_layer"  # of names in files, those of the authors' code
LAYERS = {  # of a branch, and of what follows the branches: names here and there
    "conv": "conv", "bn": "bn", "depthwise": "depthwise_conv.conv", "depthwise_bn": "depthwise_conv.bn",
    "pointwise": "pointwise_conv.conv", "pointwise_bn": "pointwise_conv.bn",
}  # fmt: skip
BRANCH = re.compile(rf"{re.escape(FUSION)}\.aspp_modules\.(\d+)\.")


class Branch(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, or with dilation 0 the latter alone; each normalised and rectified."""

    channels: int
    dilation: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    initialisation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        names = ("pointwise", "pointwise_bn") if self.dilation else ("conv", "bn")
        if self.dilation:
            depthwise = DepthwiseConv(x.shape[-1], dilation=self.dilation, initialisation=self.initialisation,
                                      dtype=x.dtype, name="depthwise")  # fmt: skip
            x = self.norm(rectify=True, name="depthwise_bn")(x, conv=depthwise)
        return self.norm(rectify=True, name=names[1])(x, conv=self.conv(self.channels, name=names[0]))


class DAFormerHead(Head):
    """DAFormer's context-aware feature fusion: all levels on the finest one's grid, then parallel separable branches.

    Each level is brought to as many channels and resized; together they go through a 1x1 branch and a separable 3x3 one
    for each dilation (6, 12 and 18 in DAFormer), all of which a 3x3 convolution joins to the feature.
    """

    takes_levels = True
    mark = "embed0"
    classifier = (f"{PREFIX}.conv_seg.weight", f"{PREFIX}.conv_seg.bias")

    classes: int
    dilations: tuple[int, ...]
    channels: int
    feature_channels: int
    dropout: float
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    initialisation: str

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "DAFormerHead":
        return cls(
            network.classes, network.dilations, network.head_channels, network.feature_channels, network.dropout, conv,
            norm, network.initialisation, name=name,
        )  # fmt: skip

    @classmethod
    def check_sizes(cls, model: Mapping[str, Any]) -> tuple[str, str] | None:
        small = (setting for setting in ("head_channels", "feature_channels") if model[setting] < 1)
        return next(((setting, "at least 1 (DAFormer: 256)") for setting in small), None)

    @classmethod
    def output_size(cls, backbone: Backbone, image_size: tuple[int, int]) -> tuple[int, int]:
        return backbone.level_sizes(image_size)[0]

    @classmethod
    def output_stride(cls, backbone: Backbone) -> float:
        return backbone.levels[0].stride

    @nn.compact
    def __call__(self, x: tuple[jax.Array, ...], dropout_keys: jax.Array | None) -> Output:
        embedded = [self.conv(self.channels, use_bias=True, name=f"embed{i}")(level) for i, level in enumerate(x)]
        size = x[0].shape[1:3]
        fused = jnp.concatenate([resize(level, size) for level in embedded], axis=-1)
        branches = [
            Branch(self.channels, dilation, self.conv, self.norm, self.initialisation, name=f"branch{i}")(fused)
            for i, dilation in enumerate((0, *self.dilations))
        ]
        bottleneck = self.conv(self.feature_channels, kernel=3, name="bottleneck_conv")
        joined = self.norm(rectify=True, name="bottleneck_bn")(jnp.concatenate(branches, axis=-1), conv=bottleneck)
        features = channel_dropout(joined, dropout_keys, self.dropout)
        return Output(features, self.conv(self.classes, use_bias=True, name="classifier")(features))

    @classmethod
    def file_name(cls, modules: Path) -> str | None:
        first, *rest = modules
        if embed := re.fullmatch(r"embed(\d+)", first):
            return f"{PREFIX}.embed_layers.{embed[1]}.proj"
        if branch := re.fullmatch(r"branch(\d+)", first):
            return f"{FUSION}.aspp_modules.{branch[1]}.{LAYERS[rest[0]]}"
        if bottleneck := re.fullmatch(r"bottleneck_(conv|bn)", first):
            return f"{FUSION}.bottleneck.{bottleneck[1]}"
        return f"{PREFIX}.conv_seg" if first == "classifier" else None

    @classmethod
    def shapes(cls, layout: Any) -> Iterator[tuple[str, Shape]]:
        levels, channels, features = layout.backbone.levels, layout.head_channels, layout.feature_channels
        for i, level in enumerate(levels):
            yield from linear(f"{PREFIX}.embed_layers.{i}.proj", channels, level.channels).items()
        fused = channels and channels * len(levels)
        for i in range(layout.dilated_branches + 1):
            name, last = f"{FUSION}.aspp_modules.{i}", f"{FUSION}.aspp_modules.{i}"
            if i:
                last += ".pointwise_conv"
                yield f"{name}.depthwise_conv.conv.weight", (fused, 1, 3, 3)
                yield from batch_norm(f"{name}.depthwise_conv.bn", fused).items()
            yield f"{last}.conv.weight", (channels, fused, 1, 1)
            yield from batch_norm(f"{last}.bn", channels).items()
        joined = channels and channels * (layout.dilated_branches + 1)
        yield f"{FUSION}.bottleneck.conv.weight", (features, joined, 3, 3)
        yield from batch_norm(f"{FUSION}.bottleneck.bn", features).items()
        yield from conv(f"{PREFIX}.conv_seg", layout.classes, features, 1).items()

    @classmethod
    def read_off(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None] | None:
        if not any(name.startswith(f"{FUSION}.") for name in shapes):
            return None

        def channels(*names: str) -> int | None:
            return next((shapes[name][0] for name in names if shapes.get(name)), None)

        branches = (int(match[1]) for match in map(BRANCH.match, shapes) if match)
        return {
            "dilated_branches": max(branches, default=0),
            "classes": channels(*cls.classifier),
            "head_channels": channels(f"{FUSION}.aspp_modules.0.conv.weight", f"{PREFIX}.embed_layers.0.proj.weight"),
            "feature_channels": channels(f"{FUSION}.bottleneck.conv.weight", f"{FUSION}.bottleneck.bn.weight"),
        }
