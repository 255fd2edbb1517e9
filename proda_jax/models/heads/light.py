"""A light decoder for backbones of large stride: DeepLabv3+ (arXiv:1802.02611) in small."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.heads.head import Head, Output
from proda_jax.models.heads.released import channel_dropout
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.resizing import resize_align_corners

STRIDE = 8  # of features and class scores, where the backbone has such a map; DeepLabv3+ has 4
DETAIL_CHANNELS = 48  # of the finer map beside the context (DeepLabv3+)


class LightHead(Head):
    """Context from depthwise dilated convolutions of the last map, joined with a finer one, and a feature from both.

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

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "LightHead":
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
        features = self.separable(jnp.concatenate([context, detail], axis=-1), self.feature_channels, "fusion")
        features = channel_dropout(features, dropout_keys, self.dropout)
        return Output(features, self.conv(self.classes, name="scores")(features))

    def joined(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        """A 1x1 convolution, normalised and rectified."""
        return self.norm(rectify=True, name=f"{name}_bn")(x, conv=self.conv(channels, name=f"{name}_conv"))

    def separable(self, x: jax.Array, channels: int, name: str, dilation: int = 1) -> jax.Array:
        """A depthwise 3x3 convolution and a 1x1 convolution, each normalised and rectified."""
        conv = partial(DepthwiseConv, initialisation=self.initialisation, dtype=self.dtype)
        conv = conv(x.shape[-1], kernel=3, dilation=dilation, name=f"{name}_depthwise_conv")
        return self.joined(self.norm(rectify=True, name=f"{name}_depthwise_bn")(x, conv=conv), channels, name)


def finer(backbone: Backbone) -> int:
    """The last of its levels that is finer than its last and as fine as `STRIDE`; its last where there is none."""
    strides = [level.stride for level in backbone.levels]
    fine = [i for i, stride in enumerate(strides) if stride <= STRIDE and stride < strides[-1]]
    return fine[-1] if fine else len(backbone.levels) - 1
