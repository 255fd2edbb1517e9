"""Views: where a crop comes from and how it was warped, as data that images, labels and maps all follow.

A weak view is a random scale, crop and flip of the image; a strong view is FixMatch's RandAugment, flip and Cutout on
top of it. Both are small arrays, drawn from one key per example and applied on the device with static shapes.

Coordinates: the pixel of *index* i has its centre at *position* i + 0.5; an image spans 0..size, as in Pillow.
"""

from proda_jax.adaptation.views.choosing import draw_chosen_view
from proda_jax.adaptation.views.photometric import strong_photometric
from proda_jax.adaptation.views.strong import (
    GEOMETRIC_OPERATIONS,
    POOL,
    StrongView,
    draw_strong_view,
    strong_image,
    strong_label,
    strong_map,
)
from proda_jax.adaptation.views.weak import (
    WeakView,
    draw_weak_view,
    weak_features,
    weak_image,
    weak_inside,
    weak_label,
    weak_soft_label,
)

__all__ = [
    "GEOMETRIC_OPERATIONS", "POOL", "StrongView", "WeakView", "draw_chosen_view", "draw_strong_view", "draw_weak_view",
    "strong_image", "strong_label", "strong_map", "strong_photometric", "weak_features", "weak_image", "weak_inside",
    "weak_label", "weak_soft_label",
]  # fmt: skip
