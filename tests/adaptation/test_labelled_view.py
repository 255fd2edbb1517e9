"""Views of labelled images that hold what a stage asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import setup_of, stage_config
from tiny import CROP, block_source

from proda_jax.adaptation import views
from proda_jax.adaptation.stages import step as steps

RARE = 3


@pytest.mark.parametrize("name", ["supervised", "distill"])
def test_crops_hold_the_class_that_their_image_was_drawn_by(name):
    settings = {"under_test.rare_class_sampling": True, "under_test.rare_class_crop_pixels": 20}
    drawing = setup_of(stage_config(name, **settings, **{"views.scale": (1.0, 1.0)}), None)
    label = np.array(block_source(1, 0).labels)
    label = np.repeat(np.zeros_like(label), 24, axis=0)
    label[:, :12, :12] = RARE  # in a corner, which many crops leave out
    batch = {"image": jnp.zeros((*label.shape, 3), jnp.uint8), "label": jnp.asarray(label)}
    keys = jax.random.split(jax.random.key(0), len(label))

    def holding(batch: dict) -> int:
        view = jax.jit(lambda batch, keys: steps.draw_labelled_view(drawing, batch, keys))(batch, keys)
        return int(jnp.sum(jnp.sum(views.weak_label(batch["label"], view, CROP) == RARE, axis=(1, 2)) > 20))

    plain, chosen = holding(batch), holding(batch | {"rare_class": jnp.full(len(label), RARE)})
    assert plain < 10 < chosen  # of 24; ten draws each
