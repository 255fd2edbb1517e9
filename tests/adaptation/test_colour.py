"""The colour operations of the FixMatch pool agree with Pillow, and colour jitter does what its extents say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from proda_jax.adaptation.views import colour

LEVELS = range(1, 10)
NAMES = [operation.__name__ for operation in colour.OPERATIONS]
PILLOW = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(0.05 + 0.9 * level / 10),
    "colour": lambda image, level: ImageEnhance.Color(image).enhance(0.05 + 0.9 * level / 10),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(0.05 + 0.9 * level / 10),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "identity": lambda image, level: image,
    "posterize": lambda image, level: ImageOps.posterize(image, 4 + int(0.4 * level)),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(0.05 + 0.9 * level / 10),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 - 256 * level / 10),
}

apply_operation = jax.jit(colour.apply_operation)
jitter_colour = jax.jit(colour.jitter_colour)


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:40, :56]
    smooth = np.stack([3 * row + column, 60 + 2 * column, 200 - 4 * row], axis=-1)
    few = rng.integers(0, 256, (4, 3))[rng.integers(0, 4, (40, 56))]
    flat_channel = rng.integers(0, 256, (40, 56, 3))
    flat_channel[..., 1] = 77
    return {
        "noise": rng.integers(0, 256, (40, 56, 3)).astype(np.uint8),
        "dark": rng.integers(12, 90, (40, 56, 3)).astype(np.uint8),
        "smooth": smooth.astype(np.uint8),
        "four colours": few.astype(np.uint8),
        "one flat channel": flat_channel.astype(np.uint8),
        "one colour": np.full((40, 56, 3), (127, 3, 250), np.uint8),
    }


def run(image: np.ndarray, name: str, level: int) -> np.ndarray:
    return np.asarray(apply_operation(jnp.asarray(image, jnp.float32), NAMES.index(name), jnp.int32(level)))


@pytest.mark.parametrize("name", sorted(PILLOW))
def test_operation_agrees_with_pillow_to_one_grey_level_on_every_image_and_level(name):
    for title, image in images().items():
        for level in LEVELS:
            expected = np.asarray(PILLOW[name](Image.fromarray(image), level), np.float32)
            difference = np.abs(run(image, name, level) - expected)
            assert difference.max() <= 1, (title, level, difference.max())
            if title == "noise":  # every level occurs, so an error in rounding would show all over
                assert difference.mean() < 0.05, (level, difference.mean())


def test_pool_holds_the_nine_colour_operations():
    assert sorted(NAMES) == sorted(PILLOW)


@pytest.mark.parametrize("name", sorted(set(PILLOW) - {"identity"}))
def test_operation_changes_an_image(name):
    image = images()["dark" if name == "autocontrast" else "noise"]  # noise spans all levels already
    assert np.abs(run(image, name, 5) - image).max() > 1


def test_operations_keep_whole_grey_levels_in_range():
    for image in images().values():
        for name in NAMES:
            result = run(image, name, 6)
            assert (result == np.round(result)).all() and result.min() >= 0 and result.max() <= 255


def test_histogram_counts_each_level_of_each_channel():
    pixels = images()["noise"].reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    np.testing.assert_array_equal(colour.histogram(jnp.asarray(pixels, jnp.int32)), counts)


def jitter(image: np.ndarray, seed: int = 0, **extents: float) -> np.ndarray:
    extents = dict(brightness=0.0, contrast=0.0, saturation=0.0, white_balance=0.0) | extents
    keys = jax.random.split(jax.random.key(seed), len(image))
    return np.asarray(jitter_colour(jnp.asarray(image), keys, **extents))


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    """Levels far enough from 0 and 255 that no factor below 1.2 clips."""
    return np.random.default_rng(1).uniform(90, 160, (64, 8, 10, 3)).astype(np.float32)


def test_jitter_of_extent_zero_is_the_identity(batch):
    np.testing.assert_array_equal(jitter(batch), batch)


def test_brightness_jitter_scales_each_image_by_one_factor_that_fills_its_range(batch):
    factors = jitter(batch, brightness=0.2) / batch
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), rtol=1e-5)
    factors = factors[:, 0, 0, 0]
    assert 0.8 <= factors.min() < 0.84 and 1.16 < factors.max() <= 1.2 and abs(factors.mean() - 1) < 0.05


def test_white_balance_jitter_scales_each_channel_by_its_own_factor(batch):
    factors = jitter(batch, white_balance=0.2) / batch
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], factors.shape), rtol=1e-5)
    factors = factors[:, 0, 0]
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2
    assert np.abs(factors[:, 0] - factors[:, 1]).min() > 0


def test_contrast_jitter_keeps_the_mean_and_scales_the_rest(batch):
    result = jitter(batch, contrast=0.2)
    luma = lambda images: images @ np.array([0.299, 0.587, 0.114])  # noqa: E731
    mean = luma(batch).mean(axis=(1, 2))[:, None, None, None]
    np.testing.assert_allclose(luma(result).mean(axis=(1, 2)), mean[:, 0, 0, 0], rtol=1e-3)
    factors = np.std(result, axis=(1, 2, 3)) / np.std(batch, axis=(1, 2, 3))
    np.testing.assert_allclose(result, mean + factors[:, None, None, None] * (batch - mean), atol=0.05)
    assert factors.min() < 0.85 and factors.max() > 1.15


def test_saturation_jitter_keeps_each_pixels_brightness_and_leaves_grey_images_alone(batch):
    result = jitter(batch, saturation=0.2)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(result @ weights, batch @ weights, rtol=1e-3)
    assert np.abs(result - batch).max() > 3
    grey = np.broadcast_to(batch[..., :1], batch.shape)
    np.testing.assert_allclose(jitter(grey, saturation=0.2), grey, rtol=1e-4)


def test_jitter_stays_between_0_and_255_and_depends_on_the_key(batch):
    image = np.random.default_rng(2).integers(0, 256, (64, 8, 10, 3)).astype(np.float32)
    extents = dict(brightness=0.5, contrast=0.5, saturation=0.5, white_balance=0.5)
    result = jitter(image, **extents)
    assert result.min() >= 0 and result.max() <= 255
    assert np.abs(result - jitter(image, seed=1, **extents)).max() > 1
