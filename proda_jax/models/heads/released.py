"""The head of the released code, with the feature that prototypes live in."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.heads.head import Head, Output

GROUP_NORM_GROUPS = 32
GROUP_NORM_EPSILON = 1e-5
SQUEEZE_RATIO = 16


class ReleasedHead(Head):
    """The released head: five parallel branches, squeeze and excitation, and a normalised feature of 256 channels."""

    classes: int
    dilations: tuple[int, ...]
    channels: int
    feature_channels: int
    dropout: float
    conv: Callable[..., Conv]
    initialisation: str
    dtype: jnp.dtype

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "ReleasedHead":
        return cls(
            network.classes, network.dilations, network.head_channels, network.feature_channels, network.dropout, conv,
            network.initialisation, network.dtype, name=name,
        )  # fmt: skip

    @classmethod
    def check_sizes(cls, model: Mapping[str, Any]) -> tuple[str, str] | None:
        for setting in ("head_channels", "feature_channels"):
            if model[setting] < GROUP_NORM_GROUPS or model[setting] % GROUP_NORM_GROUPS:
                return setting, f"a multiple of {GROUP_NORM_GROUPS}, the groups of its normalisation"
        return None

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        conv = partial(self.conv, use_bias=True)
        branches = [conv(self.channels, name="branch0_conv")(x)]
        for i, dilation in enumerate(self.dilations, start=1):
            branches.append(conv(self.channels, kernel=3, dilation=dilation, name=f"branch{i}_conv")(x))
        branches = [nn.relu(self.group_norm(f"branch{i}_norm")(b)) for i, b in enumerate(branches)]
        x = self.squeeze_excite(jnp.concatenate(branches, axis=-1))
        x = self.group_norm("bottleneck_norm")(conv(self.feature_channels, kernel=3, name="bottleneck_conv")(x))
        features = channel_dropout(x, dropout_keys, self.dropout)
        return Output(features, self.conv(self.classes, name="classifier")(features))

    def group_norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(
            GROUP_NORM_GROUPS, epsilon=GROUP_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name
        )

    def squeeze_excite(self, x: jax.Array) -> jax.Array:
        initialisation = "pytorch" if self.initialisation == "released" else self.initialisation
        conv = partial(self.conv, use_bias=True, initialisation=initialisation)
        gate = x.mean((1, 2), keepdims=True)
        gate = nn.relu(conv(x.shape[-1] // SQUEEZE_RATIO, name="squeeze")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="excite")(gate))


def channel_dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes whole channels of each image and scales up the rest.

    Args:
      x: [batch, h, w, channels].
      keys: one key an image [batch], so that the mask follows the example and not its place in the batch; or None.
      rate: probability that a channel is dropped.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (x.shape[-1],)))(keys)
    return x * (keep / (1.0 - rate)).astype(x.dtype)[:, None, None, :]
