"""DINOv2's vision transformers (Oquab et al., 2023, arXiv:2304.07193; registers: Darcet et al., arXiv:2309.16588)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.backbones.vision_transformer import VisionTransformerBackbone
from proda_jax.models.interpolation import antialiased_cubic_weights, cubic_weights, resize
from proda_jax.models.shapes import Shape


def offset_weights(before: int, after: int) -> np.ndarray:
    """Interpolation whose scale is a tenth of a patch too large, which the authors' code took against rounding."""
    return cubic_weights(before, after, scale=(after + 0.1) / before)


POSITION_RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "offset": offset_weights,  # the authors' code without registers
    "plain": cubic_weights,  # transformers without registers
    "antialias": antialiased_cubic_weights,  # the authors' code and transformers with registers, timm
}


class Embeddings(nn.Module):
    """Patches as tokens, with where they are in the image, behind a token for the image and registers.

    Attributes:
      side: positions were learnt for side x side patches.
      registers: tokens that stand for nothing.
      position_resize: how positions are interpolated for other numbers of patches, one of `POSITION_RESIZES`.
    """

    side: int
    registers: int
    position_resize: str

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """Patches [batch, rows, columns, channels] to tokens [batch, 1 + registers + rows * columns, channels]."""
        batch, rows, columns, channels = patches.shape
        small, normal = nn.initializers.normal(1e-6), nn.initializers.truncated_normal(0.02)
        first = self.param("cls_token", small, (1, 1, channels))
        places = self.param("pos_embed", normal, (1, 1 + self.side**2, channels))
        grid = places[:, 1:].reshape(1, self.side, self.side, channels)
        grid = resize(grid, (rows, columns), POSITION_RESIZES[self.position_resize])
        tokens = [first + places[:, :1]]
        if self.registers:
            tokens.append(self.param("register_tokens", small, (1, self.registers, channels)))
        before = jnp.concatenate(tokens, axis=1).astype(patches.dtype)
        placed = (patches + grid.astype(patches.dtype)).reshape(batch, -1, channels)
        return jnp.concatenate([jnp.broadcast_to(before, (batch, *before.shape[1:])), placed], axis=1)


@dataclasses.dataclass(frozen=True)
class DINOv2Backbone(VisionTransformerBackbone):
    """DINOv2 as a row of the table of backbones.

    Attributes:
      side: positions were learnt for side x side patches.
      position_resize: see `POSITION_RESIZES`; None: as the authors' code has it, with registers and without.
    """

    family = "dinov2"
    output_stride = 14
    options = ("drop_path", "position_resize")
    epsilon = 1e-6
    key_bias = True

    side: int = 37
    position_resize: str | None = None

    def __post_init__(self):
        if self.position_resize is None:
            object.__setattr__(self, "position_resize", "antialias" if self.registers else "offset")

    def embeddings(self, name: str) -> Embeddings:
        return Embeddings(self.side, self.registers, self.position_resize, name=name)

    def check_sizes(self) -> tuple[str, str] | None:
        if self.position_resize not in POSITION_RESIZES:
            return "position_resize", f"one of {', '.join(POSITION_RESIZES)}"
        return super().check_sizes()

    def token_shapes(self) -> Iterator[tuple[str, Shape]]:
        yield "cls_token", (1, 1, self.width)
        yield "pos_embed", (1, 1 + self.side**2, self.width)
        if self.registers:
            yield "register_tokens", (1, self.registers, self.width)

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "DINOv2Backbone | None":
        sizes = self.sizes_of(shapes)
        if sizes is None or "storage_tokens" in shapes:  # DINOv3's
            return None
        side = round((shapes.get("pos_embed", (1, 1 + self.side**2))[1] - 1) ** 0.5)
        return DINOv2Backbone(*sizes, registers=shapes.get("register_tokens", (1, 0))[1], side=side)
