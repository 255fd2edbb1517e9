"""The light convolutional decoder of VFM-UDA (Englert et al., CVPR workshops 2024, arXiv:2406.09896)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.heads.head import Head, Output, Path
from proda_jax.models.layer_norm import LayerNorm
from proda_jax.models.shapes import Shape, affine, conv
from proda_jax.models.upsampling import Upsampling

EPSILON = 1e-6
UPSAMPLED = 4  # positions in a row for one of the backbone's
PREFIX = "light_head"  # of its names in files
MODULES = ("upsampling1", "norm1", "upsampling2", "norm2", "conv", "norm3", "classifier")


class LightHead(Head):
    """Two transposed convolutions, each halving the channels, a 3x3 convolution, and class scores.

    Made for plain vision transformers, whose features are coarse: it scores four positions in a row for one of theirs.
    Layers are normalised over channels, so that nothing depends on the batch. Its feature is what the class scores are
    computed from: a quarter of the backbone's channels.
    """

    mark = "upsampling1"
    classifier = (f"{PREFIX}.classifier.weight",)

    classes: int
    conv: Callable[..., Conv]

    @classmethod
    def of(cls, network: Any, conv: Callable[..., Conv], norm: Callable, name: str) -> "LightHead":
        return cls(network.classes, conv, name=name)

    @classmethod
    def output_size(cls, backbone: Backbone, image_size: tuple[int, int]) -> tuple[int, int]:
        return tuple(UPSAMPLED * n for n in backbone.output_size(image_size))

    @classmethod
    def output_stride(cls, backbone: Backbone) -> float:
        return backbone.output_stride / UPSAMPLED

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None) -> Output:
        half, quarter = channels_of(x.shape[-1])
        x = nn.gelu(LayerNorm(EPSILON, name="norm1")(Upsampling(half, name="upsampling1")(x)), approximate=False)
        x = LayerNorm(EPSILON, name="norm2")(Upsampling(quarter, name="upsampling2")(x))
        features = LayerNorm(EPSILON, name="norm3")(self.conv(quarter, kernel=3, use_bias=True, name="conv")(x))
        return Output(features, self.conv(self.classes, name="classifier")(features))

    @classmethod
    def file_name(cls, modules: Path) -> str | None:
        return f"{PREFIX}.{modules[0]}" if modules[0] in MODULES else None

    @classmethod
    def shapes(cls, layout: Any) -> Iterator[tuple[str, Shape]]:
        channels = layout.backbone.channels
        half, quarter = channels_of(channels)
        for i, (out, into) in enumerate(((half, channels), (quarter, half)), start=1):
            # PyTorch's transposed convolutions have their inputs first
            yield f"{PREFIX}.upsampling{i}.weight", (into, out, 2, 2)
            yield f"{PREFIX}.upsampling{i}.bias", (out,)
            yield from affine(f"{PREFIX}.norm{i}", out).items()
        yield from conv(f"{PREFIX}.conv", quarter, quarter, 3).items()
        yield from affine(f"{PREFIX}.norm3", quarter).items()
        yield cls.classifier[0], (layout.classes, quarter, 1, 1)

    @classmethod
    def read_off(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None] | None:
        if not any(name.startswith(f"{PREFIX}.") for name in shapes):
            return None
        return {"classes": next((shapes[name][0] for name in cls.classifier if shapes.get(name)), None)}


def channels_of(channels: int) -> tuple[int, int]:
    """Channels after each of the two steps, from those of the backbone."""
    return max(channels // 2, 1), max(channels // 4, 1)
