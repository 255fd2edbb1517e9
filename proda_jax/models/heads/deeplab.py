"""The head of DeepLabv2 (arXiv:1606.00915)."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax

from proda_jax.models.convolution import Conv
from proda_jax.models.heads.head import Head, Output


class DeepLabHead(Head):
    """The plain DeepLabv2 head: the sum of dilated 3x3 convolutions straight to logits.

    Its feature is the backbone's own. AdaptSegNet's code returns early and sums only the first two branches.
    """

    unused: ClassVar[tuple[str, ...]] = ("head_channels", "feature_channels", "dropout")

    classes: int
    dilations: tuple[int, ...]
    conv: Callable[..., Conv]

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "DeepLabHead":
        return cls(network.classes, network.dilations, conv, name=name)

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        logits = sum(
            self.conv(self.classes, kernel=3, dilation=dilation, use_bias=True, name=f"branch{i}_conv")(x)
            for i, dilation in enumerate(self.dilations)
        )
        return Output(x, logits)

    @classmethod
    def score(cls, network: Any, params: Any, features: jax.Array) -> jax.Array:
        head = cls(network.classes, network.dilations, partial(Conv, dtype=network.dtype))
        return head.apply({"params": params}, features, None).logits.astype(features.dtype)
