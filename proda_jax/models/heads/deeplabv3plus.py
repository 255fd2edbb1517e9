"""The decoder of DeepLabv3+ (arXiv:1802.02611), in small, for backbones of large stride."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.heads.head import Head, Output, Path
from proda_jax.models.heads.released import channel_dropout
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.resizing import resize_align_corners
from proda_jax.models.shapes import Shape, batch_norm

STRIDE = 8  # of features and logits, where the backbone has such a map; DeepLabv3+ has 4
PREFIX = "decoder"  # of names in files; modules are called there as here
BRANCH = re.compile(rf"{PREFIX}\.branch(\d+)_")
DETAIL_CHANNELS = 48  # of the finer map beside the context (DeepLabv3+)


class DeepLabV3PlusHead(Head):
    """Context from separable dilated convolutions of the last map, joined with a finer one, and a feature from both.

    What DeepLabv3+ has besides is left out: the branch of the whole image's mean, one of two convolutions at the end,
    which is an ordinary 3x3 here.

    Attributes:
      classes: number of classes.
      dilations: of the depthwise 3x3 branches on the last map; there is one of 1x1 besides.
      channels: of each branch, `feature_channels` of the feature that prototypes live in.
      dropout: share of feature channels dropped while training.
      levels: which of the backbone's maps are joined, the finer first.
    """

    classes: int
    dilations: tuple[int, ...]
    channels: int
    feature_channels: int
    dropout: float
    levels: tuple[int, int]
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    initialisation: str
    dtype: jnp.dtype

    takes_levels = True
    mark = "context_conv"
    classifier = (f"{PREFIX}.classifier.weight",)

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "DeepLabV3PlusHead":
        levels = (finer(network.backbone), len(network.backbone.levels) - 1)
        return cls(
            network.classes, network.dilations, network.head_channels, network.feature_channels, network.dropout,
            levels, conv, norm, network.initialisation, network.dtype, name=name,
        )  # fmt: skip

    @classmethod
    def output_size(cls, backbone: Backbone, image_size: tuple[int, int]) -> tuple[int, int]:
        return backbone.level_sizes(image_size)[finer(backbone)]

    @classmethod
    def output_stride(cls, backbone: Backbone) -> float:
        return backbone.levels[finer(backbone)].stride

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...], dropout_keys: jax.Array | None) -> Output:
        detail, x = (maps[level] for level in self.levels)
        branches = [self.joined(x, self.channels, "branch0")]
        for i, dilation in enumerate(self.dilations, start=1):
            branches.append(self.separable(x, self.channels, f"branch{i}", dilation))
        context = self.joined(jnp.concatenate(branches, axis=-1), self.feature_channels, "context")
        context = resize_align_corners(context, detail.shape[1:3]).astype(self.dtype)
        detail = self.joined(detail, DETAIL_CHANNELS, "detail")
        joined = jnp.concatenate([context, detail], axis=-1)
        features = self.normed(joined, self.conv(self.feature_channels, kernel=3, name="fusion_conv"), "fusion")
        features = channel_dropout(features, dropout_keys, self.dropout)
        return Output(features, self.conv(self.classes, name="classifier")(features))

    def joined(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        """A 1x1 convolution, normalised and rectified."""
        return self.normed(x, self.conv(channels, name=f"{name}_conv"), name)

    def normed(self, x: jax.Array, conv: Conv, name: str) -> jax.Array:
        """A convolution, normalised and rectified."""
        return self.norm(rectify=True, name=f"{name}_bn")(x, conv=conv)

    def separable(self, x: jax.Array, channels: int, name: str, dilation: int = 1) -> jax.Array:
        """A depthwise 3x3 convolution and a 1x1 convolution, each normalised and rectified."""
        conv = partial(DepthwiseConv, initialisation=self.initialisation, dtype=self.dtype)
        conv = conv(x.shape[-1], kernel=3, dilation=dilation, name=f"{name}_depthwise_conv")
        return self.joined(self.norm(rectify=True, name=f"{name}_depthwise_bn")(x, conv=conv), channels, name)

    @classmethod
    def file_name(cls, modules: Path) -> str | None:
        return f"{PREFIX}.{modules[0]}"

    @classmethod
    def shapes(cls, layout: Any) -> Iterator[tuple[str, Shape]]:
        levels, channels, features = layout.backbone.levels, layout.head_channels, layout.feature_channels
        detail, last = levels[finer(layout.backbone)].channels, levels[-1].channels
        joined = channels and channels * (layout.dilated_branches + 1)
        fused = features and features + DETAIL_CHANNELS
        yield from joined_shapes("branch0", channels, last)
        for i in range(1, layout.dilated_branches + 1):
            yield from separable_shapes(f"branch{i}", channels, last)
        yield from joined_shapes("context", features, joined)
        yield from joined_shapes("detail", DETAIL_CHANNELS, detail)
        yield from joined_shapes("fusion", features, fused, kernel=3)
        yield f"{PREFIX}.classifier.weight", (layout.classes, features, 1, 1)

    @classmethod
    def read_off(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None] | None:
        if not any(name.startswith(f"{PREFIX}.{cls.mark}") for name in shapes):
            return None

        def channels(module: str) -> int | None:
            return next(iter(shapes.get(f"{PREFIX}.{module}.weight", ())), None)

        branches = (int(match[1]) for match in map(BRANCH.match, shapes) if match)
        return {
            "dilated_branches": max(branches, default=0),
            "classes": channels("classifier"),
            "head_channels": channels("branch0_conv"),
            "feature_channels": channels("context_conv"),
        }


def joined_shapes(name: str, out: int | None, into: int | None, kernel: int = 1) -> Iterator[tuple[str, Shape]]:
    yield f"{PREFIX}.{name}_conv.weight", (out, into, kernel, kernel)
    yield from batch_norm(f"{PREFIX}.{name}_bn", out).items()


def separable_shapes(name: str, out: int | None, into: int | None) -> Iterator[tuple[str, Shape]]:
    yield f"{PREFIX}.{name}_depthwise_conv.weight", (into, 1, 3, 3)
    yield from batch_norm(f"{PREFIX}.{name}_depthwise_bn", into).items()
    yield from joined_shapes(name, out, into)


def finer(backbone: Backbone) -> int:
    """The last of its levels that is finer than its last and as fine as `STRIDE`; its last where there is none."""
    strides = [level.stride for level in backbone.levels]
    fine = [i for i, stride in enumerate(strides) if stride <= STRIDE and stride < strides[-1]]
    return fine[-1] if fine else len(backbone.levels) - 1
