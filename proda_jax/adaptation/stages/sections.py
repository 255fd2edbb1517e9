"""What a stage makes of the configuration's sections. JAX is not imported for it."""

import ml_collections

from proda_jax.data.checks import first_of


def views_of(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The views of a stage: the section 'views', with what the stage has of its own, and the width that follows."""
    views = ml_collections.ConfigDict(dict(config.views))
    views.update(dict(config[name].get("views", {})))
    views.base_width = base_width(config, views)
    return views


def base_width(config: ml_collections.ConfigDict, views: ml_collections.ConfigDict) -> int:
    """The width to which scale 1 of these views brings an image, pixels: that of target images, unless it is set."""
    return first_of(config.data, "target").image_size[1] if views.base_width is None else views.base_width
