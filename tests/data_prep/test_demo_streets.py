"""The rendered streets: reproducible, labelled, and different in the two domains."""

import numpy as np
import pytest

from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.data_prep.demo_streets import render

CLASSES = LABEL_SPACES["cityscapes19"].classes


@pytest.fixture(scope="module", params=["source", "target"])
def scenes(request):
    images, labels = zip(*(render(request.param, seed) for seed in range(120)), strict=True)
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_seed_gives_the_same_image_again_and_another_seed_another(domain):
    first, again, other = render(domain, 7), render(domain, 7), render(domain, 8)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).mean() > 0.05


def test_every_class_but_train_is_drawn_often(scenes):
    present = {name: int((scenes[1] == i).any(axis=(1, 2)).sum()) for i, name in enumerate(CLASSES)}
    assert present.pop("train") == 0
    assert min(present.values()) > 24, present
    assert scenes[1].max() < 19


def test_traffic_lights_and_signs_are_at_least_five_pixels_high_where_nothing_hides_them(scenes):
    for name in ("traffic light", "traffic sign"):
        masks = scenes[1] == CLASSES.index(name)
        heights = [mask.any(axis=1).sum() for mask in masks if mask.any()]
        assert np.median(heights) >= 8
        assert np.quantile(heights, 0.2) >= 5


def test_size_is_that_asked_for():
    image, label = render("target", 0, (64, 128))
    assert image.shape == (64, 128, 3) and image.dtype == np.uint8
    assert label.shape == (64, 128) and label.dtype == np.uint8


def test_the_domains_look_different_beyond_brightness():
    """Saturation survives any change of brightness; the source's is far higher."""

    def saturation(domain):
        images = np.stack([render(domain, seed)[0] for seed in range(40)]).astype(float)
        return ((images.max(-1) - images.min(-1)) / np.maximum(images.max(-1), 1)).mean()

    assert saturation("source") > 1.2 * saturation("target")


def test_target_images_range_from_near_the_source_to_far_from_it():
    def roughness(domain):  # mean step between neighbours on the road, where the source is smooth
        values = []
        for seed in range(60):
            image, label = render(domain, seed)
            road = (label[:, 1:] == 0) & (label[:, :-1] == 0)
            values.append(np.median(np.abs(np.diff(image.astype(float).mean(-1), axis=1))[road]))
        return np.array(values)

    source, target = roughness("source"), roughness("target")
    assert np.quantile(target, 0.1) < 1.5 * np.median(source)
    assert np.quantile(target, 0.9) > 2 * np.median(source)


def test_an_unknown_domain_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="source, target"):
        render("dusk", 0)
