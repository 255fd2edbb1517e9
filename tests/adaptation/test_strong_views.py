"""Strong views of images, labels and maps, as Pillow would show them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from view_examples import (
    CROP,
    QUARTER,
    away_from_edges,
    blocks,
    draw_strong,
    identity_strong_view,
    noise,
    smooth,
    strong,
    strong_image,
    strong_label,
    strong_map,
)

from proda_jax.adaptation import views
from proda_jax.adaptation.views import POOL, colour
from proda_jax.data.label_spaces import IGNORE


def pillow_strong(image: np.ndarray, name: str, level: int, sign: int) -> np.ndarray:
    height, width = image.shape[:2]
    amount, pillow = sign * level / 10, Image.fromarray(image)
    settings = dict(resample=Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
    if name == "rotate":
        return np.asarray(pillow.rotate(30 * amount, **settings))
    matrix = {
        "shear_x": (1, 0.3 * amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * amount, 1, 0),
        "translate_x": (1, 0, 0.3 * amount * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.3 * amount * height),
    }[name]
    return np.asarray(pillow.transform(pillow.size, Image.Transform.AFFINE, matrix, **settings))


def test_strong_view_that_does_nothing_returns_image_label_and_map_as_they_are():
    image, label, view = noise(2, *CROP, 3), blocks(2, CROP, 5), identity_strong_view(2)
    np.testing.assert_array_equal(strong_image(jnp.asarray(image, jnp.float32), view), image)
    np.testing.assert_array_equal(strong_label(jnp.asarray(label), view, CROP), label)
    values = np.random.default_rng(0).standard_normal((2, *QUARTER, 3)).astype(np.float32)
    warped, valid = strong_map(jnp.asarray(values), view, CROP)
    np.testing.assert_allclose(warped, values, atol=1e-5)
    assert valid.all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", views.GEOMETRIC_OPERATIONS)
def test_geometric_operation_agrees_with_pillow(name, sign):
    image = smooth(1, CROP)
    for level in range(1, 10):
        actual = np.asarray(strong_image(jnp.asarray(image, jnp.float32), strong((name, level, sign))))[0]
        difference = np.abs(actual - pillow_strong(image[0], name, level, sign).astype(np.float32)).max(axis=-1)
        outside = (pillow_strong(np.zeros_like(image[0]), name, level, sign) == 127).all(axis=-1)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(outside, 1, mode="edge"), (3, 3))
        border = around.any(axis=(-1, -2)) & ~around.all(axis=(-1, -2))  # may fall on either side in float32
        assert difference[~border].max() <= 1 and border.mean() < 0.08, level
        assert (actual[outside & ~border] == 127).all(), level
        assert (difference[border] > 1).mean() < 0.1, level


def test_an_image_of_one_colour_keeps_it_as_weights_of_neighbours_add_up_to_one():
    """Also where positions lie on centres of pixels, as columns do that are sheared up and down."""
    drawn = [
        strong((name, level, sign)) for name in views.GEOMETRIC_OPERATIONS for level in range(1, 10) for sign in (-1, 1)
    ]
    view = jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)
    actual = np.asarray(strong_image(np.full((len(drawn), *CROP, 3), 200.0, np.float32), view))
    assert set(np.unique(actual)) == {127.0, 200.0} and (actual == 200).mean() > 0.5


@pytest.mark.parametrize("name", ["posterize", "sharpness", "equalize"])
def test_colour_operations_are_applied_in_the_drawn_order_before_the_warp(name):
    image = noise(1, *CROP, 3).astype(np.float32)
    expected = image[0]
    for drawn, level in (("solarize", 7), (name, 3)):
        expected = np.asarray(colour.apply_operation(jnp.asarray(expected), POOL.index(drawn), jnp.int32(level)))
    view = strong(("solarize", 7, 1), (name, 3, 1), flip=True)
    np.testing.assert_array_equal(strong_image(jnp.asarray(image), view)[0], expected[:, ::-1])


def test_operation_that_is_not_active_changes_nothing():
    image = noise(2, *CROP, 3).astype(np.float32)
    view = jax.tree.map(lambda *parts: np.concatenate(parts), strong(("rotate", 9, 1)), strong(("solarize", 9, 1)))
    view = view.replace(active=np.zeros_like(view.active))
    np.testing.assert_array_equal(strong_image(jnp.asarray(image), view), image)


@pytest.mark.parametrize("first", [("rotate", 8, -1), ("shear_x", 9, 1), ("translate_x", 4, 1)])
@pytest.mark.parametrize("second", [("translate_y", 4, 1), ("rotate", 6, 1), ("shear_y", 9, 1)])
def test_two_operations_and_a_flip_equal_pillow_applying_them_in_the_drawn_order(first, second):
    image = smooth(1, CROP)
    flipped = np.ascontiguousarray(image[0, :, ::-1])

    def sequence(image: np.ndarray, *operations) -> np.ndarray:
        for operation in operations:
            image = pillow_strong(image, *operation)
        return image.astype(np.float32)

    actual = np.asarray(strong_image(jnp.asarray(image, jnp.float32), strong(first, second, flip=True)))[0]

    def interior(*operations) -> np.ndarray:
        white = sequence(np.full_like(flipped, 255), *operations)[None, ..., 0]
        return ((white == 255) & away_from_edges(white, 1))[0]

    inside = interior(first, second)
    assert inside.mean() > 0.4
    assert np.abs(actual - sequence(flipped, first, second))[inside].max() <= 3
    if {first[0], second[0]} not in ({"rotate"}, {"translate_x", "translate_y"}):  # those commute
        both = inside & interior(second, first)
        assert np.abs(actual - sequence(flipped, second, first))[both].max() > 3


def test_operation_drawn_twice_is_applied_twice():
    label = jnp.asarray(blocks(1, CROP, 7))
    view = strong(("translate_x", 5, 1), ("translate_x", 5, 1))
    actual = np.asarray(strong_label(label, view, CROP))[0]
    np.testing.assert_array_equal(actual[:, :-29], label[0, :, 29:])  # 2 * 0.15 * 96 = 28.8 pixels
    assert (actual[:, -28:] == IGNORE).all()


def test_horizontal_translation_is_a_fraction_of_the_width_for_the_label_too():
    row_label = jnp.asarray(np.broadcast_to(np.arange(96), CROP)[None])
    shift = np.asarray(strong_label(row_label, strong(("translate_x", 5, 1)), CROP))[0, 30, 20] - 20
    assert shift == pytest.approx(0.15 * 96, abs=0.5)
    column_label = jnp.asarray(np.broadcast_to(np.arange(64)[:, None], CROP)[None])
    shift = np.asarray(strong_label(column_label, strong(("translate_y", 5, 1)), CROP))[0, 30, 20] - 30
    assert shift == pytest.approx(0.15 * 64, abs=0.5)


def test_cutout_greys_the_image_ignores_the_label_and_invalidates_the_map_after_the_flip():
    view = strong(flip=True, cutout=(8, 40, 16, 48))
    image, label = noise(1, *CROP, 3), blocks(1, CROP, 8)
    expected = image[:, :, ::-1].copy()
    expected[:, 8:40, 16:48] = 127
    np.testing.assert_array_equal(strong_image(jnp.asarray(image, jnp.float32), view), expected)
    expected = label[:, :, ::-1].copy()
    expected[:, 8:40, 16:48] = IGNORE
    np.testing.assert_array_equal(strong_label(jnp.asarray(label), view, CROP), expected)
    values = np.random.default_rng(0).standard_normal((1, *QUARTER, 3)).astype(np.float32)
    warped, valid = strong_map(jnp.asarray(values), view, CROP)
    np.testing.assert_allclose(warped, values[:, :, ::-1], atol=1e-5)
    expected = np.ones((1, *QUARTER), bool)
    expected[:, 2:10, 4:12] = False
    np.testing.assert_array_equal(valid, expected)


def test_smaller_label_follows_the_view_and_is_ignored_where_cut_out():
    label = blocks(1, QUARTER, 3)
    actual = strong_label(jnp.asarray(label), strong(("translate_x", 5, 1), cutout=(8, 40, 16, 48)), CROP)
    # 0.15 of 24 columns is 3.6: the centre of column c shows position c + 4.1, in column c + 4.
    expected = np.full((1, *QUARTER), IGNORE)
    expected[:, :, :20] = label[:, :, 4:]
    expected[:, 2:10, 4:12] = IGNORE
    np.testing.assert_array_equal(actual, expected)


def test_map_is_valid_only_where_everything_it_was_read_from_lies_inside():
    values = np.zeros((1, *QUARTER, 1), np.float32)
    for operation in (("translate_x", 5, 1), ("rotate", 9, -1), ("shear_y", 7, 1)):
        warped, valid = strong_map(jnp.asarray(values), strong(operation), CROP)
        padded = np.pad(values, ((0, 0), (8, 8), (8, 8), (0, 0)), constant_values=1.0)
        # The same warp of a map that continues as ones beyond the border: it stays zero where no tap was outside.
        matrix = np.asarray(jax.jit(views.strong._strong_matrix, static_argnums=1)(strong(operation), CROP))[0]
        row, column = np.mgrid[:16, :24]
        x, y = (matrix @ np.stack([4 * column + 2, 4 * row + 2, np.ones_like(row)]).reshape(3, -1))[:2] / 4 - 0.5
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        touched = sum(padded[0, top + 8 + dy, left + 8 + dx, 0] for dy in (0, 1) for dx in (0, 1)).reshape(QUARTER)
        exact = (np.abs(x - np.round(x)) < 1e-3) | (np.abs(y - np.round(y)) < 1e-3)  # a tap of no weight
        assert (np.asarray(valid)[0] == (touched == 0))[~exact.reshape(QUARTER)].all(), operation
        assert 0.3 < valid.mean() < 0.95


def test_drawn_operations_levels_signs_and_flips_are_uniform():
    view = jax.device_get(draw_strong(0, 7000, (512, 896)))
    assert view.operation.shape == (7000, 2)
    counts = np.bincount(view.operation.ravel(), minlength=14)
    assert len(counts) == 14 and np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    counts = np.bincount(view.level.ravel(), minlength=10)
    assert counts[0] == 0 and np.abs(counts[1:] - 14000 / 9).max() < 5 * np.sqrt(14000 / 9)
    assert set(np.unique(view.sign)) == {-1, 1}
    for half in (view.flip, view.active, view.sign > 0):
        assert abs(half.mean() - 0.5) < 0.03
    twice = (view.operation[:, 0] == view.operation[:, 1]).mean()
    assert abs(twice - 1 / 14) < 0.02  # with replacement, and independently


def test_settings_of_the_strong_view_switch_its_parts_off():
    view = draw_strong(0, 7000, operations=3, probability=1.0, flip=False, cutout_fraction=0.0)
    assert view.active.all() and view.operation.shape == (7000, 3)
    assert not view.flip.any() and not view.cutout.any()
    assert not draw_strong(0, 7000, randaugment=False).active.any()


def test_drawn_cutout_is_a_square_cut_at_the_bottom_and_right_and_shifted_at_the_top_and_left():
    top, bottom, left, right = np.asarray(draw_strong(0, 7000, (512, 896)).cutout).T
    for start, stop, size in ((top, bottom, 512), (left, right, 896)):
        assert start.min() == 0 and stop.max() == size and start.max() < size
        np.testing.assert_array_equal(stop, np.minimum(start + 170, size))  # min(512, 896) // 3
        # A centre in the first 85 pixels is shifted to start at 0, one in the last 85 loses part of its square.
        assert abs((start == 0).mean() - 86 / size) < 0.03
        assert abs((stop - start < 170).mean() - 85 / size) < 0.03
        middle = start[(start > 0) & (stop < size)]
        assert abs(middle.mean() - (size - 170) / 2) < 20
