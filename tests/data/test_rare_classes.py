"""Rare-class sampling draws what it says, whoever asks and from whichever step on."""

import itertools

import numpy as np
import pytest

from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.memory import MemorySource
from proda_jax.data.rare_classes import RareClassOrder, class_probabilities, label_pixels

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
