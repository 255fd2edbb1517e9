"""Rare-class sampling draws what it says, whoever asks and from whichever step on."""

import itertools

import fixtures
import numpy as np
import pytest
from PIL import Image

from proda_jax.configs import base
from proda_jax.data.joined import Joined
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.memory import MemorySource
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data.rare_classes import RareClassOrder, class_probabilities, label_pixels
from proda_jax.run.sources import Sources

PIXELS = np.zeros((6, 4), np.int64)  # records, classes; class 3 never occurs
PIXELS[:, 0] = 1000
PIXELS[[1, 4], 1] = 200
PIXELS[5, 2] = 20


def order(**settings) -> RareClassOrder:
    return RareClassOrder(PIXELS, **({"temperature": 0.5, "min_pixels": 100, "seed": 7} | settings))


def test_classes_are_drawn_as_often_as_their_probabilities_say_and_images_hold_them():
    drawn = [order().draw(n) for n in range(3000)]
    chosen = np.bincount([c for _, c in drawn], minlength=4) / len(drawn)
    np.testing.assert_allclose(chosen, class_probabilities(PIXELS.sum(0), 0.5), atol=0.03)
    assert {r for r, c in drawn if c == 1} == {1, 4}
    assert {r for r, c in drawn if c == 2} == {5}  # no image has more than 100 of it, so any will do
    assert chosen[3] == 0


def test_a_smaller_temperature_draws_rare_classes_more_often():
    sharp, flat = (class_probabilities(PIXELS.sum(0), t) for t in (0.05, 5.0))
    assert sharp[2] > flat[2] > flat[0] > sharp[0]


def test_what_an_example_is_depends_on_the_seed_and_its_number_alone():
    whole = list(itertools.islice(order().batches(4), 5))
    later = list(itertools.islice(order().batches(4, first_step=3), 2))
    for (records, classes), (again, classes_again) in zip(whole[3:], later, strict=True):
        np.testing.assert_array_equal(records, again)
        np.testing.assert_array_equal(classes, classes_again)
    shares = [list(itertools.islice(order().batches(4, shard=(i, 2)), 5)) for i in range(2)]
    for step, (records, _) in enumerate(whole):
        np.testing.assert_array_equal(records, np.concatenate([share[step][0] for share in shares]))
    assert any(np.any(a[0] != b[0]) for a, b in zip(whole, order(seed=8).batches(4), strict=False))


@pytest.mark.parametrize("form", ["numbers", "colours"])
def test_what_preparation_counted_are_the_pixels_of_each_class_in_each_label_and_none_is_decoded(
    form, tmp_path, monkeypatch
):
    """Labels of several sizes, of values with and without a class; beside a data set in memory, as one with it."""
    c = base.get_config()
    c.data.label_space = "cityscapes19"
    if form == "numbers":
        fixtures.write_gta5(tmp_path / "raw", 4, odd_sizes=True)
        c.data.source = base.dataset("gta5", "train", (32, 64))
        c.data.source.raw_dir = str(tmp_path / "raw")
    else:
        values = tuple(((10 * i, 20, 30), name) for i, name in enumerate(("road", "car", "ignored", "sky")))
        generator, colours = np.random.default_rng(0), np.array([value for value, _ in values], np.uint8)
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir()
            for i, size in enumerate(((20, 30), (40, 20), (16, 16))):
                pixels = colours[generator.integers(0, 4, size)] if kind == "labels" else np.zeros((*size, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
        folders = (str(tmp_path / kind) for kind in ("images", "labels"))
        c.data.source = base.folder("source", *folders, (32, 64))
        c.data.source.label_values = values
    c.data.allow = ("absent_classes", "ignored_pixels", "label_shapes")
    c.data.data_dir = str(tmp_path / "data")
    source = Sources(c, tmp_path / "work").open("source")
    counted = [np.bincount(source.label(i).ravel(), minlength=256)[:19] for i in range(len(source))]
    memory = MemorySource(np.zeros((1, 32, 64, 3), np.uint8), np.full((1, 32, 64), 3, np.uint8))
    monkeypatch.setattr(TfdsSource, "label", lambda *_: pytest.fail("a label was decoded"))
    np.testing.assert_array_equal(label_pixels(source, 19, 1), counted)
    both = label_pixels(Joined((source, memory), ("a", "b"), (0.5, 0.5)), 19, 1)
    np.testing.assert_array_equal(both, [*counted, [0, 0, 0, 32 * 64, *[0] * 15]])


def test_batches_hold_the_images_that_were_drawn_and_their_classes():
    labels = np.full((6, 40, 40), IGNORE, np.uint8)
    for record, row in enumerate(PIXELS):
        labels[record].flat[: row.sum()] = np.repeat(np.arange(4), row)
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros((6, 40, 40, 3), np.uint8)
    source = MemorySource(images, labels)
    np.testing.assert_array_equal(label_pixels(source, 4, 2), PIXELS)
    batches = order().source_batches(source, 3, first_step=2)
    for batch, (records, classes) in itertools.islice(zip(batches, order().batches(3, first_step=2), strict=False), 3):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], records)
        np.testing.assert_array_equal(batch["rare_class"], classes)
        assert all(np.any(label == chosen) for label, chosen in zip(batch["label"], classes, strict=True))


def test_labels_without_any_class_are_refused():
    with pytest.raises(ValueError, match="no pixel of the source images has a class"):
        class_probabilities(np.zeros(3), 0.01)
