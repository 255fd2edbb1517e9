"""Label spaces against the published class values."""

import numpy as np
import pytest

from proda_jax.data.label_spaces import IGNORE, LABEL_SPACES, label_space, lookup_table, score_subsets

# Cityscapes' own table: label id of each of the classes that are evaluated.
CITYSCAPES_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
# SYNTHIA-RAND-CITYSCAPES' own table; void 0, parking 13, road work 16, terrain 18, truck 20, train 20 and others have
# no class.
SYNTHIA_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8,
    "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12, "traffic light": 15, "rider": 17, "bus": 19,
    "wall": 21,
}  # fmt: skip


def _named(table: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    return {classes[train_id]: raw for raw, train_id in enumerate(table) if train_id != IGNORE}


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5"])
def test_cityscapes_label_ids_become_the_19_train_ids(dataset):
    table = lookup_table(dataset, "cityscapes19")
    assert _named(table, LABEL_SPACES["cityscapes19"].classes) == CITYSCAPES_IDS
    assert table.shape == (256,) and table.dtype == np.uint8
    assert [int(table[raw]) for raw in CITYSCAPES_IDS.values()] == list(range(19))


def test_synthia_values_become_its_16_classes_in_cityscapes_order():
    table = lookup_table("synthia", "synthia16")
    assert _named(table, LABEL_SPACES["synthia16"].classes) == SYNTHIA_IDS
    assert [int(table[v]) for v in (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)] == list(range(16))


def test_cityscapes_in_synthias_classes_ignores_terrain_truck_and_train():
    table = lookup_table("cityscapes", "synthia16")
    expected = {name: raw for name, raw in CITYSCAPES_IDS.items() if name not in ("terrain", "truck", "train")}
    assert _named(table, LABEL_SPACES["synthia16"].classes) == expected
    assert {int(table[raw]) for raw in (22, 27, 31)} == {IGNORE}


def test_camvid_and_demo_values_are_train_ids_already():
    np.testing.assert_array_equal(lookup_table("camvid", "camvid11")[:13], [*range(11), IGNORE, IGNORE])
    np.testing.assert_array_equal(lookup_table("demo", "cityscapes19")[:20], [*range(19), IGNORE])


def test_the_ignore_value_stays_ignored_in_every_table():
    for dataset, space in [("demo", "cityscapes19"), ("folder", "camvid11"), ("gta5", "synthia16")]:
        assert lookup_table(dataset, space)[IGNORE] == IGNORE
        assert lookup_table(dataset, space)[255] == IGNORE


def test_an_unknown_combination_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'synthia'.*'cityscapes19'.*synthia in synthia16"):
        lookup_table("synthia", "cityscapes19")
    with pytest.raises(ValueError, match="cityscapes19, synthia16, camvid11"):
        label_space("cityscape19")


def test_synthia_is_scored_over_16_and_over_13_classes_without_wall_fence_and_pole():
    subsets = score_subsets("synthia16")
    classes = LABEL_SPACES["synthia16"].classes
    assert subsets["16"] == tuple(range(16))
    assert {classes[i] for i in range(16)} - {classes[i] for i in subsets["13"]} == {"wall", "fence", "pole"}
    assert {name: list(s) for name, s in score_subsets("cityscapes19").items()} == {"19": list(range(19))}
    assert list(score_subsets("camvid11")) == ["11"]


def test_every_class_has_a_colour_of_its_own():
    for space in LABEL_SPACES.values():
        assert space.colors.shape == (len(space), 3) and space.colors.dtype == np.uint8
        assert len(np.unique(space.colors, axis=0)) == len(space)
        assert len(set(space.classes)) == len(space)
