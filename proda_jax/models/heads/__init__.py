"""Heads: one file and one row of the table each; `model.head` chooses."""

from proda_jax.models.heads.deeplab import DeepLabHead
from proda_jax.models.heads.head import Head, Output
from proda_jax.models.heads.light import LightHead
from proda_jax.models.heads.projection import ProjectionHead
from proda_jax.models.heads.released import ReleasedHead

HEADS: dict[str, type[Head]] = {
    "released": ReleasedHead,
    "deeplab": DeepLabHead,
    "light": LightHead,
    "projection": ProjectionHead,
}

__all__ = ["HEADS", "Head", "Output"]
