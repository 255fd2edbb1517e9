"""Heads: one file and one row of the table each; `model.head` chooses."""

from proda_jax.models.heads.deeplab import DeepLabHead
from proda_jax.models.heads.deeplabv3plus import DeepLabV3PlusHead
from proda_jax.models.heads.head import Head, Output
from proda_jax.models.heads.projection import ProjectionHead
from proda_jax.models.heads.released import ReleasedHead

HEADS: dict[str, type[Head]] = {
    "released": ReleasedHead,
    "deeplab": DeepLabHead,
    "deeplabv3plus": DeepLabV3PlusHead,
    "projection": ProjectionHead,
}

__all__ = ["HEADS", "Head", "Output"]
