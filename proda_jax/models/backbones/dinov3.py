"""DINOv3's vision transformers (Siméoni et al., 2025, arXiv:2508.10104)."""

import dataclasses
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.models.backbones.backbone import Size
from proda_jax.models.backbones.vision_transformer import HEAD_CHANNELS, Rotation, VisionTransformerBackbone
from proda_jax.models.shapes import Shape

LONGEST = 100.0  # period over the shortest one


class Embeddings(nn.Module):
    """Patches as tokens behind a token for the image and registers; where they are, attention is told."""

    registers: int

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """Patches [batch, rows, columns, channels] to tokens [batch, 1 + registers + rows * columns, channels]."""
        batch, _, _, channels = patches.shape
        normal = nn.initializers.truncated_normal(0.02)
        tokens = [self.param("cls_token", normal, (1, 1, channels))]
        if self.registers:
            tokens.append(self.param("storage_tokens", normal, (1, self.registers, channels)))
        before = jnp.concatenate(tokens, axis=1).astype(patches.dtype)
        before = jnp.broadcast_to(before, (batch, *before.shape[1:]))
        return jnp.concatenate([before, patches.reshape(batch, -1, channels)], axis=1)


def rotation(grid: Size, channels: int) -> Rotation:
    """By what channels of a head are turned: rows in one quarter of them, columns in the next, then once more.

    The angle is 2 pi times the centre of a patch, from -1 to 1 over the image, over a period from 1 to almost 100.

    Args:
      grid: rows and columns of patches.
      channels: of a head, a multiple of 4.

    Returns:
      Cosine and sine [rows * columns, channels], float32.
    """
    periods = LONGEST ** (np.arange(channels // 4) * 4 / channels)
    centres = np.meshgrid(*(2 * (np.arange(n) + 0.5) / n - 1 for n in grid), indexing="ij")
    angles = [2 * np.pi * axis.reshape(-1, 1) / periods for axis in centres]
    angles = np.concatenate([*angles, *angles], axis=1)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


@dataclasses.dataclass(frozen=True)
class DINOv3Backbone(VisionTransformerBackbone):
    """DINOv3 as a row of the table of backbones: networks with a plain MLP, S, B and L.

    The shifts and scales of positions that its authors draw in training are not drawn.
    """

    family = "dinov3"
    output_stride = 16
    epsilon = 1e-5
    key_bias = False

    registers: int = 4

    def embeddings(self, name: str) -> Embeddings:
        return Embeddings(self.registers, name=name)

    def rotation(self, grid: Size) -> Rotation:
        return rotation(grid, min(HEAD_CHANNELS, self.width))

    def token_shapes(self) -> Iterator[tuple[str, Shape]]:
        yield "cls_token", (1, 1, self.width)
        if self.registers:
            yield "storage_tokens", (1, self.registers, self.width)

    def read_off(self, shapes: Mapping[str, tuple[int, ...]]) -> "DINOv3Backbone | None":
        sizes = self.sizes_of(shapes)
        if sizes is None or "storage_tokens" not in shapes:
            return None
        return DINOv3Backbone(*sizes, registers=shapes["storage_tokens"][1])
