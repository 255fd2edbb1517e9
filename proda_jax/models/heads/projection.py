"""The head of self-supervised pretraining."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from proda_jax.models.convolution import Conv
from proda_jax.models.heads.head import Head, Output


class ProjectionHead(Head):
    """SimCLR's head, which is thrown away after pretraining: mean over the image, then two layers (Chen et al., 2020).

    Its logits are the projections z, its feature what they are computed from, both of one position an image.
    """

    segments: ClassVar[bool] = False

    hidden: int
    channels: int
    conv: Callable[..., Conv]

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "ProjectionHead":
        return cls(network.head_channels, network.classes, conv, name=name)

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        x = x.mean((1, 2), keepdims=True)
        hidden = nn.relu(self.conv(self.hidden, use_bias=True, name="projection1")(x))
        return Output(x, self.conv(self.channels, use_bias=True, name="projection2")(hidden))
