"""What mixed and masked images are made by: colours and blur, ClassMix, blocks, weights, and crops that are chosen."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from proda_jax.adaptation import confidence, feature_distance
from proda_jax.adaptation.views import block_mask, choosing, class_mix, cutmix, photometric, weak_label
from proda_jax.data.label_spaces import IGNORE

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 24, 40, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)
DACS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.2, "jitter_probability": 0.8,
        "blur_probability": 0.5, "blur_sigma": (0.15, 1.15)}  # fmt: skip
OFF = DACS | {"jitter_probability": 0.0, "blur_probability": 0.0}


shift_hue = jax.jit(photometric.shift_hue)
gaussian_blur = jax.jit(photometric.gaussian_blur, static_argnames="widest")
jitter = jax.jit(photometric.jitter)
released_jitter = jax.jit(photometric.released_jitter)


def test_the_hue_turns_as_in_the_standard_librarys_hsv():
    pixels = np.concatenate([RNG.random((50, 3)), np.eye(3), 1 - np.eye(3), [[0.4, 0.4, 0.4]]])
    for turns in (0.0, 0.2, -0.15, 0.5):
        hsv = (colorsys.rgb_to_hsv(*pixel) for pixel in pixels)
        expected = [colorsys.hsv_to_rgb((h + turns) % 1.0, s, v) for h, s, v in hsv]
        np.testing.assert_allclose(shift_hue(np.float32(pixels), np.float32(turns)), expected, atol=2e-6)


@pytest.mark.parametrize("sigma", [0.15, 0.6, 1.15])
def test_the_blur_is_a_gaussian_over_a_mirrored_image(sigma):
    actual = gaussian_blur(IMAGES, np.full(3, sigma, np.float32), widest=1.15)
    expected = scipy.ndimage.gaussian_filter(IMAGES, (0, sigma, sigma, 0), mode="mirror", truncate=8)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_jitter_moves_each_image_by_its_own_draws_and_keeps_it_in_range():
    strong = jax.jit(lambda images, order: photometric.strong_photometric(images, KEYS[order], **DACS))
    moved = np.asarray(strong(IMAGES, np.arange(3)))
    assert moved.min() >= 0 and moved.max() <= 1 and np.abs(moved - IMAGES).max() > 0.05
    for i in range(3):  # alone it is the same, so it does not depend on the batch
        alone = np.asarray(strong(IMAGES[[i] * 3], np.array([i] * 3)))
        np.testing.assert_allclose(alone[0], moved[i], atol=1e-6)
    off = jax.jit(lambda images, keys: photometric.strong_photometric(images, keys, **OFF))
    np.testing.assert_array_equal(off(IMAGES, KEYS), IMAGES)


def test_jitter_and_blur_happen_as_often_as_they_should():
    keys = jax.random.split(jax.random.key(1), 200)
    images = jnp.asarray(np.broadcast_to(IMAGES[:1, :8, :8], (200, 8, 8, 3)))
    for part, probability in (("jitter", 0.8), ("blur", 0.5)):
        chosen = OFF | {f"{part}_probability": probability, "blur_sigma": (1.0, 1.5)}
        moved = jax.jit(functools.partial(photometric.strong_photometric, **chosen))(images, keys)
        changed = np.abs(moved - images).max(axis=(1, 2, 3)) > 1e-4
        assert abs(changed.mean() - probability) < 0.1


def test_brightness_contrast_and_saturation_by_hand():
    one = [np.full((3, 1, 1, 1), x, np.float32) for x in (1.0, 1.0, 1.0, 0.0)]
    weights = np.array([0.299, 0.587, 0.114])
    darker = jitter(IMAGES, one[0] * 0.5, *one[1:])
    np.testing.assert_allclose(darker, IMAGES * 0.5, atol=1e-6)
    mean = (IMAGES @ weights).mean((1, 2))[:, None, None, None]
    flatter = jitter(IMAGES, one[0], one[1] * 0.6, *one[2:])
    np.testing.assert_allclose(flatter, mean + 0.6 * (IMAGES - mean), atol=1e-4)
    grey = (IMAGES @ weights)[..., None]
    paler = jitter(IMAGES, one[0], one[1], one[2] * 0.3, one[3])
    np.testing.assert_allclose(paler, grey + 0.3 * (IMAGES - grey), atol=1e-4)


def test_the_released_codes_brightness_contrast_and_saturation_by_the_standard_librarys_hsv():
    """kornia until 0.6.3; `findings/kornia_colour_jitter_changed.sh` runs the library itself."""
    one = [np.full((3, 1, 1, 1), x, np.float32) for x in (1.0, 1.0, 1.0, 0.0)]
    np.testing.assert_allclose(released_jitter(IMAGES, one[0] * 0.8, *one[1:]), (IMAGES - 0.2).clip(0, 1), atol=1e-6)
    brighter = released_jitter(IMAGES, one[0], one[1] * 1.2, *one[2:])
    np.testing.assert_allclose(brighter, (IMAGES * 1.2).clip(0, 1), atol=1e-6)
    for factor in (0.3, 1.2, 3.0):
        moved = released_jitter(IMAGES, one[0], one[1], one[2] * factor, one[3] + 0.1)
        hsv = [colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in IMAGES.reshape(-1, 3)]
        expected = [colorsys.hsv_to_rgb((h + 0.1) % 1.0, min(1.0, s * factor), v) for h, s, v in hsv]
        np.testing.assert_allclose(np.reshape(moved, (-1, 3)), expected, atol=1e-5)
    grey = np.full((3, 2, 2, 3), 0.4, np.float32)
    np.testing.assert_array_equal(released_jitter(grey, *one[:2], one[2] * 1.2, one[3]), grey)
    black = np.zeros((3, 2, 2, 3), np.float32)
    np.testing.assert_array_equal(released_jitter(black, *one[:2], one[2] * 1.2, one[3]), black)


def test_a_stage_takes_the_colours_that_its_setting_names():
    jittered = {
        name: np.asarray(photometric.strong_photometric(IMAGES, KEYS, colours=name, **DACS | {"blur_probability": 0.0}))
        for name in photometric.JITTERS
    }
    draws = np.stack([jax.random.uniform(key, (photometric.DRAWS,)) for key in KEYS])[..., None, None, None]
    factors = [1 + 0.2 * (2 * draws[:, i] - 1) for i in (1, 2, 3)]
    for name, function in photometric.JITTERS.items():
        expected = function(IMAGES, *factors, 0.2 * (2 * draws[:, 4] - 1))
        expected = np.where(draws[:, 0] < 0.8, expected, IMAGES)
        np.testing.assert_allclose(jittered[name], expected, atol=1e-6)
    assert np.abs(jittered["torchvision"] - jittered["kornia"]).max() > 0.03


def test_half_of_the_classes_of_each_image_is_pasted_whole():
    labels = RNG.integers(0, 5, (3, 16, 16))
    labels[0, :, :8], labels[1] = IGNORE, np.where(labels[1] > 2, 2, labels[1])
    present = np.asarray(jax.jit(class_mix.classes_present, static_argnums=1)(labels, 6))
    draw = jax.jit(class_mix.draw_classes)
    np.testing.assert_array_equal(present.sum(1), [6, 3, 5])
    seen = np.zeros((3, 7))
    for seed in range(60):
        chosen = np.asarray(draw(jax.random.split(jax.random.key(seed), 3), present))
        np.testing.assert_array_equal(chosen.sum(1), [3, 2, 3])
        assert not np.any(chosen & ~present)
        seen += chosen
    assert np.all((seen > 10) == present)  # each of them now and then
    mask = np.asarray(class_mix.paste_mask(labels, chosen))
    values = np.where(labels == IGNORE, 6, labels)
    np.testing.assert_array_equal(mask, np.take_along_axis(chosen, values.reshape(3, -1), 1).reshape(labels.shape))


@pytest.mark.parametrize("size", [(32, 64), (50, 30)])
def test_boxes_have_half_the_area_and_lie_anywhere_within_the_image(size):
    keys = jax.random.split(jax.random.key(3), 400)
    found = np.asarray(jax.jit(functools.partial(cutmix.draw_boxes, size=size, share=0.5))(keys))
    there = found.any(axis=(1, 2))
    assert 0.4 < there.mean() < 0.6
    rows, columns = found[there].any(axis=2), found[there].any(axis=1)
    np.testing.assert_array_equal(found[there], rows[:, :, None] & columns[:, None, :])
    sides = np.stack([rows.sum(1), columns.sum(1)], 1)
    assert np.abs(sides.prod(1) / np.prod(size) - 0.5).max() < 0.5 / min(size) + 0.5 / max(size)
    for length, side, within in zip(size, sides.T, (rows, columns), strict=True):
        start = within.argmax(1)
        np.testing.assert_array_equal(within, (np.arange(length) >= start[:, None])
                                      & (np.arange(length) < (start + side)[:, None]))  # fmt: skip
        assert side.min() <= 0.55 * length and side.max() >= 0.95 * length
        assert start.min() == 0 and (start + side).max() == length


def test_a_box_is_where_its_draws_say():
    draws = np.array([[0.1, 0.0, 0.5, 0.25], [0.1, 1.0, 0.5, 1.0], [0.9, 0.5, 0.5, 0.5], [0.1, 0.5, 0.0, 0.0]])
    found = np.asarray(jax.jit(lambda draws: cutmix.boxes(draws, (40, 80), 0.5))(draws))
    expected = np.zeros_like(found)
    expected[0, :, 10:50] = True  # as high as the image and half as wide
    expected[1, 10:30, :] = True
    expected[3, : round(40 * 0.5**0.5), : round(80 * 0.5**0.5)] = True
    np.testing.assert_array_equal(found, expected)


def test_blocks_are_hidden_whole_and_as_often_as_they_should():
    keys = jax.random.split(jax.random.key(2), 64)
    draw = jax.jit(functools.partial(block_mask.draw_block_mask, size=(32, 64), block=8, ratio=0.7))
    visible = np.asarray(draw(keys))
    blocks = visible.reshape(64, 4, 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(64, 32, 64)
    assert np.all(blocks.all(-1) | ~blocks.any(-1))
    assert abs(visible.mean() - 0.3) < 0.03
    hidden = jax.jit(block_mask.hide)(np.ones((64, 32, 64, 3)), visible, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(np.asarray(hidden)[~visible][0], [0.1, 0.2, 0.3])
    assert block_mask.block_grid((10, 20), 64) == (1, 1)


def test_each_image_has_its_own_weight_unless_the_batch_has_one():
    sure, counted = np.full((2, 4, 5), 0.5), np.ones((2, 4, 5), bool)
    sure[0, :2], sure[1, :, :1], counted[1, 2:] = 0.99, 0.99, False
    share_weight = jax.jit(confidence.share_weight)
    own = np.asarray(share_weight(sure, counted, 0.9))
    np.testing.assert_allclose(own[:, 0, 0], [0.5, 0.2])
    counts = jax.jit(confidence.count_confident)(sure, counted, 0.9)
    np.testing.assert_array_equal(counts, [12, 30])
    np.testing.assert_allclose(share_weight(sure, counted, 0.9, over_batch=counts), 0.4)


def test_the_dominant_class_of_a_grid_that_does_not_divide_the_image():
    labels = np.zeros((1, 5, 7), int)
    labels[:, :, 4:] = 3
    dominant = jax.jit(feature_distance.dominant_label, static_argnums=(1, 2))
    found = dominant(labels, (2, 2), 4, 0.6)  # cells of 2.5 x 3.5 pixels
    np.testing.assert_array_equal(found[0], [[0, 3], [0, 3]])
    found = dominant(labels, (2, 2), 4, 0.9)  # 0.5 of 3.5 columns is of the other class
    np.testing.assert_array_equal(found[0], [[0, IGNORE], [0, IGNORE]])
    for sizes in ((7, 3), (8, 8), (33, 9)):
        np.testing.assert_allclose(feature_distance.area_weights(*sizes).sum(1), 1.0, rtol=1e-6)


def test_crops_are_drawn_again_until_they_hold_the_wanted_class():
    label = np.zeros((16, 64, 128), np.uint8)
    label[:, :, 64:] = 1
    label[:, 40:, 100:] = 2
    wanted = np.where(np.arange(16) % 2, 2, 1).astype(np.int32)
    keys = jax.random.split(jax.random.key(3), 16)
    settings = {"classes": 3, "base_width": 128, "scale": (1.0, 1.0), "flip": True, "wanted": wanted}

    def held(tries: int, **more) -> tuple[np.ndarray, np.ndarray]:
        @jax.jit
        def drawn(keys, label):
            view = choosing.draw_chosen_view(keys, label, (32, 48), tries=tries, **(settings | more))
            return choosing.class_pixels(weak_label(label, view, (32, 48)), 3)

        pixels = np.asarray(drawn(keys, label))
        return pixels, np.take_along_axis(pixels, wanted[:, None], 1)[:, 0]

    free = {"largest_share": 1.0, "wanted_pixels": 100}
    once = held(1, **free)
    assert np.mean(once[1] > 100) < 0.8 < np.mean(held(12, **free)[1] > 100)
    pixels, _ = held(12, largest_share=0.75, wanted=None)
    shares = pixels.max(1) / pixels.sum(1)
    assert np.mean((shares < 0.75) & ((pixels > 0).sum(1) > 1)) > np.mean(once[0].max(1) < 0.75 * 32 * 48)


def test_the_first_good_crop_is_taken_and_the_last_where_none_is():
    candidates = np.arange(6).reshape(3, 2)
    good = np.array([[False, False], [True, False], [True, False]])
    np.testing.assert_array_equal(jax.jit(choosing.first)(candidates, good), [2, 5])
    pixels, accepted = np.array([[10, 0, 0], [6, 4, 0], [9, 1, 0]]), jax.jit(choosing.accepted, static_argnums=(1, 3))
    np.testing.assert_array_equal(accepted(pixels, 0.75), [False, True, False])
    np.testing.assert_array_equal(accepted(pixels, 1.0, np.array([0, 1, 1]), 3), [True, True, False])
