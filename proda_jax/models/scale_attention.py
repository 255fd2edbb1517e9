"""Where the detail of an image is trusted, and where its context (Hoyer et al., ECCV 2022, HRDA)."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.heads.released import channel_dropout
from proda_jax.models.interpolation import resize
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.shapes import Shape, batch_norm, conv, linear

MODULE = "scale_attention"  # its name in a network
PREFIX = "decode_head.scale_attention"  # of names in files, those of the authors' code
NAMES = {"fuse_conv": "fuse_layer.conv", "fuse_bn": "fuse_layer.bn", "classifier": "conv_seg"}


class ScaleAttention(nn.Module):
    """DAFormer's decoder with one 1x1 convolution in place of its branches: a map for each class.

    What the head takes, one map or several, is brought to as many channels and to the grid of the head's logits.
    """

    classes: int
    channels: int
    dropout: float
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], size: tuple[int, int], dropout_keys: jax.Array | None
    ) -> jax.Array:
        """Attention before the sigmoid, [batch, h, w, classes], `size` being h and w."""
        embedded = [self.conv(self.channels, use_bias=True, name=f"embed{i}")(level) for i, level in enumerate(maps)]
        joined = jnp.concatenate([resize(level, size) for level in embedded], axis=-1)
        fused = self.norm(rectify=True, name="fuse_bn")(joined, conv=self.conv(self.channels, name="fuse_conv"))
        return self.conv(self.classes, use_bias=True, name="classifier")(
            channel_dropout(fused, dropout_keys, self.dropout)
        )


def file_name(module: str) -> str:
    """Name of one of its modules in files of weights, without its leaf."""
    embed = re.fullmatch(r"embed(\d+)", module)
    return f"{PREFIX}." + (f"embed_layers.{embed[1]}.proj" if embed else NAMES[module])


def shapes(layout: Any, inputs: Sequence[int | None]) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each of its arrays, in a network of this `weights.layout.Layout`; `inputs`: of each map."""
    channels = layout.attention_channels
    for i, into in enumerate(inputs):
        yield from linear(f"{PREFIX}.embed_layers.{i}.proj", channels, into).items()
    yield f"{PREFIX}.fuse_layer.conv.weight", (channels, channels and channels * len(inputs), 1, 1)
    yield from batch_norm(f"{PREFIX}.fuse_layer.bn", channels).items()
    yield from conv(f"{PREFIX}.conv_seg", layout.classes, channels, 1).items()
