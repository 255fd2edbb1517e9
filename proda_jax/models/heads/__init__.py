"""Heads: one file and one row of the table each; `model.head` chooses."""

from proda_jax.models.heads.daformer import DAFormerHead
from proda_jax.models.heads.deeplab import DeepLabHead
from proda_jax.models.heads.deeplabv3plus import DeepLabV3PlusHead
from proda_jax.models.heads.head import Head, Output, Path
from proda_jax.models.heads.light import LightHead
from proda_jax.models.heads.projection import ProjectionHead
from proda_jax.models.heads.released import ReleasedHead

HEADS: dict[str, type[Head]] = {
    "released": ReleasedHead,
    "deeplab": DeepLabHead,
    "deeplabv3plus": DeepLabV3PlusHead,
    "daformer": DAFormerHead,
    "light": LightHead,
    "projection": ProjectionHead,
}


def file_name(head: str, modules: Path) -> str:
    """Name in files of weights of a module of a head, see `Head.file_name`.

    Raises:
      KeyError: the head has no such module, or files do not hold it.
    """
    found = HEADS[head].file_name(modules)
    if found is None:
        raise KeyError("/".join(modules))
    return found


__all__ = ["HEADS", "Head", "Output", "file_name"]
