"""Where features of a network are contrasted with those of classes (SePiCo, Xie et al., TPAMI 2023)."""

from collections.abc import Callable, Iterator

import flax.linen as nn
import jax

from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.shapes import Shape, batch_norm

MODULE = "projection"  # its name in a network, and before names in files
NAMES = {f"{layer}_{part}": f"{MODULE}.{layer}.{part}" for layer in ("hidden", "last") for part in ("conv", "bn")}


class ContrastProjection(nn.Module):
    """Two 1x1 convolutions of the backbone's features, each normalised and rectified; helps in training alone."""

    channels: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, channels in (("hidden", x.shape[-1]), ("last", self.channels)):
            conv = self.conv(channels, name=f"{layer}_conv")
            x = self.norm(rectify=True, name=f"{layer}_bn")(x, conv=conv)
        return x


def shapes(inputs: int, channels: int | None) -> Iterator[tuple[str, Shape]]:
    """Name in files and shape of each of its arrays; `inputs`: channels of the backbone's features."""
    for layer, out in (("hidden", inputs), ("last", channels)):
        yield f"{MODULE}.{layer}.conv.weight", (out, inputs, 1, 1)
        yield from batch_norm(f"{MODULE}.{layer}.bn", out).items()
