"""The light convolutional decoder of VFM-UDA (Englert et al., 2024, arXiv:2406.09896)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from proda_jax.models.backbones import Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.heads.head import Head, Output, Path
from proda_jax.models.layer_norm import LayerNorm
from proda_jax.models.shapes import Shape, affine
from proda_jax.models.upsampling import Upsampling

EPSILON = 1e-6
UPSAMPLED = 4  # positions in a row for one of the backbone's
NAMES = {  # of modules, here and in files, where they are those of the authors' code
    "upsampling1": "upscale.0", "norm1": "upscale.1", "upsampling2": "upscale.3", "norm2": "upscale.4",
    "conv": "upscale.5", "norm3": "upscale.6", "classifier": "out",
}  # fmt: skip


class LightHead(Head):
    """Two transposed convolutions, each halving the channels, a 3x3 convolution, and logits.

    Made for plain vision transformers, whose features are coarse: it scores four positions in a row for one of theirs.
    Layers are normalised over channels, so that nothing depends on the batch. Its feature is what the logits are
    computed from: a quarter of the backbone's channels.
    """

    mark = "upsampling1"
    classifier = ("out.weight",)
    unused = ("dilations", "head_channels", "feature_channels", "dropout")

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
        features = LayerNorm(EPSILON, name="norm3")(self.conv(quarter, kernel=3, name="conv")(x))
        return Output(features, self.conv(self.classes, name="classifier")(features))

    @classmethod
    def file_name(cls, modules: Path) -> str | None:
        return NAMES.get(modules[0])

    @classmethod
    def shapes(cls, layout: Any) -> Iterator[tuple[str, Shape]]:
        channels = layout.channels
        half, quarter = channels_of(channels)
        for i, (out, into) in {0: (half, channels), 3: (quarter, half)}.items():
            yield f"upscale.{i}.weight", (into, out, 2, 2)  # PyTorch's transposed convolutions have their inputs first
            yield from affine(f"upscale.{i + 1}", out).items()
        yield "upscale.5.weight", (quarter, quarter, 3, 3)
        yield from affine("upscale.6", quarter).items()
        yield "out.weight", (layout.classes, quarter, 1, 1)

    @classmethod
    def read_off(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None] | None:
        if not any(name.startswith("upscale.") for name in shapes):
            return None
        return {"classes": next((shapes[name][0] for name in cls.classifier if shapes.get(name)), None)}


def channels_of(channels: int) -> tuple[int, int]:
    """Channels after each of the two steps, from those of the backbone."""
    return max(channels // 2, 1), max(channels // 4, 1)
