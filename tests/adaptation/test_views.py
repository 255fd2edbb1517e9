"""Images, labels and maps follow the same weak and strong view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from view_examples import (
    CLASSES,
    CROP,
    PALETTE,
    QUARTER,
    SIZE,
    away_from_edges,
    blocks,
    draw_geometric,
    draw_strong_view,
    draw_weak,
    draw_weak_view,
    nearest_colour,
    strong_image,
    strong_label,
    strong_map,
    weak_features,
    weak_image,
    weak_label,
    weak_soft_label,
)

from proda_jax.data.label_spaces import IGNORE


def test_image_whose_colours_are_its_labels_shows_the_warped_label_in_random_views():
    batch, size = 24, (192, 288)
    label = blocks(batch, size, 36)
    weak_view, strong_view = draw_weak(5, batch, size), draw_geometric(6, batch)
    image = weak_image(jnp.asarray(PALETTE[label]), weak_view, CROP)
    warped = weak_label(jnp.asarray(label), weak_view, CROP)
    agreement_away_from_edges(nearest_colour(image), np.asarray(warped), radius=2)
    image, warped = strong_image(image, strong_view), strong_label(warped, strong_view, CROP)
    assert (np.asarray(warped) == IGNORE).mean() > 0.1
    agreement_away_from_edges(nearest_colour(image), np.asarray(warped), radius=2)


def agreement_away_from_edges(actual: np.ndarray, label: np.ndarray, radius: int) -> None:
    certain = away_from_edges(label, radius)
    assert certain.mean() > 0.25
    np.testing.assert_array_equal(actual[certain], label[certain])


def quarter_positions(size: int, quarter: int) -> np.ndarray:
    return np.round(np.arange(quarter) * (size - 1) / (quarter - 1)).astype(int)


@pytest.mark.parametrize("kind", ["soft label", "features"])
def test_one_hot_maps_show_the_warped_label_in_random_views(kind):
    batch, size, grid = 24, (192, 288), (49, 73)
    label = blocks(batch, size, 48)
    grid_rows, grid_columns = (quarter_positions(size[axis], grid[axis]) for axis in (0, 1))
    one_hot = np.eye(CLASSES, dtype=np.float32)[label[:, grid_rows[:, None], grid_columns]]
    weak_view, strong_view = draw_weak(7, batch, size), draw_geometric(8, batch)
    if kind == "soft label":
        values, radius = weak_soft_label(one_hot, weak_view, size, CROP, QUARTER), 8
    else:
        values, radius = weak_features(one_hot, weak_view, CROP, QUARTER), 10
    crop = np.asarray(weak_label(jnp.asarray(label), weak_view, CROP))
    rows, columns = quarter_positions(CROP[0], QUARTER[0])[:, None], quarter_positions(CROP[1], QUARTER[1])
    certain = away_from_edges(crop, radius)[:, rows, columns]
    assert certain.mean() > 0.15
    np.testing.assert_array_equal(np.argmax(values, axis=-1)[certain], crop[:, rows, columns][certain])

    warped, valid = strong_map(values, strong_view, CROP)
    label_warped = np.asarray(strong_label(jnp.asarray(crop), strong_view, CROP))
    rows, columns = np.arange(16)[:, None] * 4 + 2, np.arange(24) * 4 + 2
    certain = np.asarray(valid) & away_from_edges(label_warped, radius)[:, rows, columns]
    assert certain.mean() > 0.05
    np.testing.assert_array_equal(np.argmax(warped, axis=-1)[certain], label_warped[:, rows, columns][certain])


def test_validity_of_the_map_agrees_with_the_ignored_pixels_of_the_label():
    view = draw_geometric(9, 24)
    label = np.asarray(strong_label(np.zeros((24, *CROP), np.int32), view, CROP))
    _, valid = strong_map(np.zeros((24, *QUARTER, 1), np.float32), view, CROP)
    centres = label[:, 2::4, 2::4]
    clear = away_from_edges(label, 7)[:, 2::4, 2::4]
    assert clear.mean() > 0.2
    np.testing.assert_array_equal(np.asarray(valid)[clear], centres[clear] != IGNORE)


def test_views_depend_on_an_examples_own_key_and_not_on_the_batch():
    keys = jax.random.split(jax.random.key(4), 24)
    for draw in (
        lambda keys: draw_weak_view(keys, SIZE, CROP, base_width=SIZE[1], scale=(0.7, 1.5), flip=True),
        lambda keys: draw_strong_view(keys, CROP),
    ):
        together = draw(keys)
        jax.tree.map(np.testing.assert_array_equal, draw(keys[::-1]), jax.tree.map(lambda leaf: leaf[::-1], together))
        jax.tree.map(np.testing.assert_array_equal, draw(keys[2:3]), jax.tree.map(lambda leaf: leaf[2:3], together))
        assert any(np.any(leaf[0] != leaf[1]) for leaf in jax.tree.leaves(together))
