"""ProDA in JAX: domain-adaptive semantic segmentation with prototypes.

    from proda_jax import load

    model = load("runs/gta5")  # a workdir, a stage's folder, a checkpoint or a pretrained network
    labels = model("photo.jpg")  # train ids, uint8 [height, width]
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`load`, whose module is imported when it is first asked for."""
    if name == "load":
        from proda_jax.inference.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
