"""Weak views of images, labels and maps, as Pillow and the released code would show them."""

from fractions import Fraction

import golden_inputs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from view_examples import (
    CLASSES,
    CROP,
    QUARTER,
    SIZE,
    blocks,
    draw_weak,
    identity_weak_view,
    noise,
    smooth,
    weak,
    weak_features,
    weak_image,
    weak_inside,
    weak_label,
    weak_soft_label,
)

from proda_jax.adaptation.views import WeakView
from proda_jax.adaptation.views.weak import products_of_halves, whole_triangles
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models import resizing


def pillow_weak(image: np.ndarray, view: WeakView, index: int, crop, method, outside: int) -> np.ndarray:
    """Resize, crop and flip of one image by Pillow, on a canvas of what lies outside."""
    height, width = (int(side) for side in view.scaled_size[index])
    top, left = (int(side) for side in view.offset[index])
    resized = np.asarray(Image.fromarray(image).resize((width, height), method))
    part = resized[top : top + crop[0], left : left + crop[1]]
    canvas = np.full((*crop, *image.shape[2:]), outside, np.uint8)
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas[:, ::-1] if view.flip[index] else canvas


@pytest.mark.parametrize("make", [lambda: noise(6, *SIZE, 3), lambda: smooth(6, SIZE)], ids=["noise", "smooth"])
def test_weak_image_is_pillows_when_shrinking_and_enlarging(make):
    scaled = [(96, 144), (64, 96), (67, 101), (131, 197), (192, 288), (70, 250)]
    offset = [(20, 40), (0, 0), (3, 5), (11, 60), (128, 192), (6, 100)]
    view = weak(scaled, offset, [True, False, True, False, True, False])
    image = make()
    actual = weak_image(jnp.asarray(image), view, CROP)
    assert actual.dtype == jnp.float32 and actual.shape == (6, *CROP, 3)
    for index in range(6):
        expected = pillow_weak(image[index], view, index, CROP, Image.Resampling.BILINEAR, 127)
        difference = np.abs(actual[index] - expected.astype(np.float32))
        keeps_shape = abs(scaled[index][1] / scaled[index][0] - 1.5) < 0.01  # as every weak view does
        assert difference.max() <= 1 and ((difference > 0).mean() < 0.005 or not keeps_shape), index


def test_weak_image_is_the_same_to_the_last_bit_whichever_images_are_beside_it():
    image, view = noise(6, *SIZE, 3), draw_weak(1, 6)
    together = weak_image(image, view, CROP)
    for index in range(6):
        alone = weak_image(image[index : index + 1], jax.tree.map(lambda x, i=index: x[i : i + 1], view), CROP)
        np.testing.assert_array_equal(together[index : index + 1], alone)


def test_weak_image_on_matrix_units_is_the_same_to_the_last_bit():
    rng = np.random.default_rng(0)
    weights = np.round(rng.dirichlet(np.full(9, 0.3), (2, 6)) * 2**16) / 2**16
    weights[0, 0] = np.eye(9)[4]  # a weight of one, which both halves together have to hold
    levels = rng.integers(0, 256, (2, 9, 5, 3))
    product = jax.jit(products_of_halves, static_argnums=0)
    actual = product("bhH,bHwc->bhwc", np.float32(weights), np.float32(levels))
    np.testing.assert_array_equal(actual, np.einsum("bhH,bHwc->bhwc", weights, levels))


def test_weak_image_without_scaling_is_the_crop_itself():
    image = noise(2, *SIZE, 3)
    actual = weak_image(jnp.asarray(image), weak([SIZE, SIZE], [(20, 40), (8, 12)], [True, False]), CROP)
    np.testing.assert_array_equal(actual[0], image[0, 20:84, 40:136][:, ::-1])
    np.testing.assert_array_equal(actual[1], image[1, 8:72, 12:108])


def test_weak_label_agrees_with_pillow_nearest():
    view = draw_weak(3, 24)
    label = np.random.default_rng(0).integers(0, 34, (24, *SIZE)).astype(np.uint8)
    actual = weak_label(jnp.asarray(label), view, CROP)
    assert actual.dtype == jnp.int32
    for index in range(24):
        expected = pillow_weak(label[index], view, index, CROP, Image.Resampling.NEAREST, IGNORE)
        clear = np.ones(CROP, bool)  # a crop pixel between two image pixels may show either
        for axis in (0, 1):
            place = 2 * (np.arange(CROP[axis]) + int(view.offset[index, axis])) + 1
            between = place * SIZE[axis] % (2 * int(view.scaled_size[index, axis])) == 0
            clear &= ~(between[:, None] if axis == 0 else between[:: -1 if view.flip[index] else 1])
        assert clear.mean() > 0.6
        np.testing.assert_array_equal(np.asarray(actual[index])[clear], expected[clear], err_msg=str(index))


@pytest.mark.parametrize("flip", [False, True])
def test_scaled_image_smaller_than_the_crop_is_surrounded_by_grey_and_ignored_pixels(flip):
    view = draw_weak(0, 1, scale=(0.5, 0.5), flip=False).replace(flip=np.asarray([flip]))
    np.testing.assert_array_equal(view.scaled_size, [(48, 72)])
    np.testing.assert_array_equal(view.offset, [(0, 0)])
    image, label = smooth(1, SIZE), blocks(1, SIZE, 16)
    expected = pillow_weak(image[0], view, 0, CROP, Image.Resampling.BILINEAR, 127)
    actual = np.asarray(weak_image(jnp.asarray(image), view, CROP)[0])
    assert np.abs(actual - expected.astype(np.float32)).max() <= 1
    crop = np.asarray(weak_label(jnp.asarray(label), view, CROP)[0])
    np.testing.assert_array_equal(
        crop, pillow_weak(label[0], view, 0, CROP, Image.Resampling.NEAREST, IGNORE).astype(np.int32)
    )
    inside = np.zeros(CROP, bool)
    inside[:48, :72] = True
    inside = inside[:, ::-1] if flip else inside
    np.testing.assert_array_equal(weak_inside(view, CROP, CROP)[0], inside)
    np.testing.assert_array_equal(crop == IGNORE, ~inside)
    assert (actual[~inside] == 127).all()
    soft = weak_soft_label(np.full((1, 13, 19, 3), 1 / 3, np.float32), view, SIZE, CROP, QUARTER)
    np.testing.assert_allclose(soft, 1 / 3, rtol=1e-5)


def golden_views() -> WeakView:
    return weak([SIZE, SIZE], [(20, 40), (8, 12)], [True, False])


def test_weak_features_are_cut_in_their_own_index_space_as_in_the_golden_steps():
    values = np.random.default_rng(0).standard_normal((2, 13, 19, 5)).astype(np.float32)
    resized = np.asarray(jax.jit(resizing.resize_align_corners, static_argnums=1)(values, (24, 36)))
    actual = weak_features(jnp.asarray(values), golden_views(), CROP, QUARTER)
    np.testing.assert_allclose(actual[0], resized[0, 5:21, 10:34][:, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(actual[1], resized[1, 2:18, 3:27], rtol=1e-4, atol=1e-5)


def test_weak_features_follow_torch_on_a_scaled_image():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((1, 4, 13, 19)).astype(np.float32)
    view = weak([(131, 197)], [(27, 75)], [True])
    resized = torch.nn.functional.interpolate(torch.tensor(values), (32, 49), mode="bilinear", align_corners=True)
    expected = resized.numpy()[0, :, 6:22, 18:42][:, :, ::-1]
    actual = weak_features(jnp.asarray(np.moveaxis(values, 1, -1)), view, CROP, QUARTER)
    np.testing.assert_allclose(np.moveaxis(actual[0], -1, 0), expected, rtol=1e-4, atol=1e-5)


def test_weak_maps_agree_with_the_released_resizing():
    golden, size = golden_inputs.load("functions"), (64, 96)
    whole = identity_weak_view(1, size)
    values = np.moveaxis(golden_inputs.normal("resize_in", (1, 3, 9, 13)), 1, -1)
    expected = np.moveaxis(golden["bilinear_align_corners_16x24"], 1, -1)
    np.testing.assert_allclose(weak_features(values, whole, size, QUARTER), expected, rtol=1e-4, atol=1e-5)
    soft = np.exp(np.moveaxis(golden_inputs.normal("resize_soft", (1, 19, 64, 96)), 1, -1))
    soft /= soft.sum(axis=-1, keepdims=True)
    actual = weak_soft_label(jnp.asarray(soft), whole, size, size, QUARTER)
    np.testing.assert_allclose(actual, np.moveaxis(golden["soft_quarter"], 1, -1), rtol=1e-4, atol=1e-5)


def test_weak_soft_label_shows_the_place_its_crop_pixel_shows():
    """A map of its own image coordinates says where each output pixel comes from."""
    rows, columns = np.meshgrid(np.linspace(0, 95, 13), np.linspace(0, 143, 19), indexing="ij")
    soft = jnp.asarray(np.stack([rows, columns], axis=-1)[None].repeat(2, axis=0), jnp.float32)
    view = weak([SIZE, (192, 288)], [(20, 40), (30, 50)], [True, False])
    actual = np.asarray(weak_soft_label(soft, view, SIZE, CROP, QUARTER))
    crop_rows, crop_columns = np.arange(16) * 63 / 15, np.arange(24) * 95 / 23
    np.testing.assert_allclose(actual[0, :, 0, 0], 20 + crop_rows, atol=1e-3)
    np.testing.assert_allclose(actual[0, 0, :, 1], 40 + 95 - crop_columns, atol=1e-3)
    np.testing.assert_allclose(actual[1, :, 0, 0], (30 + crop_rows + 0.5) / 2 - 0.5, atol=1e-3)
    np.testing.assert_allclose(actual[1, 0, :, 1], (50 + crop_columns + 0.5) / 2 - 0.5, atol=1e-3)


def test_weak_soft_label_sums_to_one_where_the_soft_label_does():
    soft = np.random.default_rng(0).dirichlet(np.ones(CLASSES), (24, 13, 19)).astype(np.float32)
    actual = weak_soft_label(jnp.asarray(soft), draw_weak(1, 24), SIZE, CROP, QUARTER)
    np.testing.assert_allclose(actual.sum(axis=-1), 1.0, rtol=1e-5)


def test_drawn_weak_views_keep_the_aspect_and_lie_inside():
    view = jax.device_get(draw_weak(0, 7000, (1052, 1914), (512, 896), base_width=2200, scale=(0.5, 1.5)))
    height, width = view.scaled_size.T
    assert 1100 <= width.min() < 1110 and 3290 < width.max() < 3300
    assert abs(width.mean() - 2200) < 40
    np.testing.assert_array_equal(height, 1052 * width // 1914)
    room = view.scaled_size - np.array((512, 896))
    assert (view.offset >= 0).all() and (view.offset <= room).all()
    fraction = view.offset / room
    np.testing.assert_allclose(fraction.mean(axis=0), 0.5, atol=0.03)
    assert (fraction.min(axis=0) < 0.01).all() and (fraction.max(axis=0) > 0.99).all()
    assert abs(view.flip.mean() - 0.5) < 0.04


def test_drawn_weak_view_reaches_every_offset_when_the_room_is_small():
    view = draw_weak(0, 7000, (66, 97), scale=(1.0, 1.0), flip=False)
    assert not view.flip.any()
    np.testing.assert_array_equal(np.unique(view.offset[:, 0]), [0, 1, 2])
    np.testing.assert_array_equal(np.unique(view.offset[:, 1]), [0, 1])


@pytest.mark.parametrize(("length", "scaled"), [(96, 143), (96, 96), (160, 61), (7, 1)])
def test_weights_are_pillows_triangle_in_whole_numbers(length, scaled):
    """So that no order of rounding, which differs with the number of devices, decides about a grey level."""
    found = jax.jit(whole_triangles, static_argnums=2)(np.arange(scaled)[None], np.array([[scaled]]), length)
    shrink = Fraction(length, scaled)
    for index in range(scaled):
        centre = (index + Fraction(1, 2)) * shrink - Fraction(1, 2)
        far = max(shrink, 1)
        expected = [max(2 * scaled * (far - abs(j - centre)), 0) for j in range(length)]
        assert found[0, index].tolist() == expected
