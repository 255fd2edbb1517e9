"""Whether a network sees things as large in training as where it is scored."""

from collections.abc import Iterator

import ml_collections

from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.data.checks import data_sets, first_of

TOLERATED = 4 / 3  # times that one scale may be the other before that is told


def notes(config: ml_collections.ConfigDict) -> Iterator[str]:
    """A line for each scale of training that is far from that of scoring, with the setting that mends it.

    Images are trained at `views.base_width` times `views.scale`, in the middle, and scored at the width of validation
    images, or where there are none labelled at that of target images.
    """
    role = "validation" if data_sets(config.data, "validation") else "target"
    scored, said = first_of(config.data, role).image_size[1], {}
    for name in config.stages:
        views = views_of(config, name)
        if kinds.of(config[name]).segments and config[name].weights is None:
            width = views.base_width or first_of(config.data, "target").image_size[1]
            said.setdefault(width * sum(views.scale) / 2, name)
    for trained, name in said.items():
        if not 1 / TOLERATED <= trained / scored <= TOLERATED:
            yield (
                f"stage {name!r} trains on images {trained:.0f} pixels wide (views.base_width times views.scale), and "
                f"{role} images are {scored} wide: {max(trained / scored, scored / trained):.1f} times apart, which "
                f"costs accuracy unless it is meant. data.target.image_size and views.base_width set it"
            )
