"""Label spaces against the published class values."""

import numpy as np
import pytest

from proda_jax.data.label_spaces import (
    CUSTOM,
    IGNORE,
    IGNORED,
    LABEL_SPACES,
    color_number,
    label_map,
    label_space,
)

# Cityscapes' own table: label id of each of the classes that are evaluated.
CITYSCAPES_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
# SYNTHIA-RAND-CITYSCAPES' own table of 0 to 22; void, parking, road work, terrain, truck, train and lane markings have
# no class.
SYNTHIA_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8,
    "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12, "traffic light": 15, "rider": 17, "bus": 19,
    "wall": 21,
}  # fmt: skip


def lookup_table(dataset: str, space: str) -> np.ndarray:
    return label_map(dataset, label_space(space)).table


def _named(table: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    return {classes[train_id]: raw for raw, train_id in enumerate(table) if train_id != IGNORE}


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5"])
def test_cityscapes_label_ids_become_the_19_train_ids(dataset):
    table = lookup_table(dataset, "cityscapes19")
    assert _named(table, LABEL_SPACES["cityscapes19"].classes) == CITYSCAPES_IDS
    assert table.shape == (65536,) and table.dtype == np.uint8
    assert [int(table[raw]) for raw in CITYSCAPES_IDS.values()] == list(range(19))


def test_synthia_values_become_its_16_classes_in_cityscapes_order():
    table = lookup_table("synthia", "synthia16")
    assert _named(table, LABEL_SPACES["synthia16"].classes) == SYNTHIA_IDS
    assert [int(table[v]) for v in (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)] == list(range(16))


def test_synthia_in_cityscapes_classes_has_terrain_truck_and_train_too():
    """So that it can be a source beside GTA5; values as two public converters have them."""
    table = lookup_table("synthia", "cityscapes19")
    named = _named(table, LABEL_SPACES["cityscapes19"].classes)
    assert named == SYNTHIA_IDS | {"terrain": 16, "truck": 18, "train": 20}
    assert [int(table[v]) for v in (16, 18, 20, 22, 0)] == [9, 14, 16, IGNORE, IGNORE]
    assert {int(lookup_table("synthia", "synthia16")[v]) for v in (16, 18, 20)} == {IGNORE}


def test_cityscapes_in_synthias_classes_ignores_terrain_truck_and_train():
    table = lookup_table("cityscapes", "synthia16")
    expected = {name: raw for name, raw in CITYSCAPES_IDS.items() if name not in ("terrain", "truck", "train")}
    assert _named(table, LABEL_SPACES["synthia16"].classes) == expected
    assert {int(table[raw]) for raw in (22, 27, 31)} == {IGNORE}


@pytest.mark.parametrize(
    "dataset, space, known",
    [("cityscapes", "cityscapes19", 35), ("gta5", "synthia16", 35), ("synthia", "synthia16", 23)]
    + [("camvid", "camvid11", 12)],
)
def test_every_value_of_a_data_sets_own_table_is_known_and_no_other(dataset, space, known):
    np.testing.assert_array_equal(np.flatnonzero(label_map(dataset, label_space(space)).known), np.arange(known))


def test_camvid_and_demo_values_are_train_ids_already():
    np.testing.assert_array_equal(lookup_table("camvid", "camvid11")[:13], [*range(11), IGNORE, IGNORE])
    np.testing.assert_array_equal(lookup_table("demo", "cityscapes19")[:20], [*range(19), IGNORE])


# CamVid's 32 classes that SegNet's 11 are made of, by what Cityscapes calls the same things
OF_CAMVID = {
    "sky": "sky", "building": "building", "wall": "building", "pole": "pole", "road": "road", "sidewalk": "sidewalk",
    "vegetation": "tree", "terrain": "tree", "traffic sign": "traffic sign", "traffic light": "traffic sign",
    "fence": "fence", "car": "car", "truck": "car", "bus": "car", "train": "car", "person": "pedestrian",
    "rider": "bicyclist", "motorcycle": "bicyclist", "bicycle": "bicyclist",
}  # fmt: skip


@pytest.mark.parametrize(
    "dataset, own", [("gta5", "cityscapes19"), ("synthia", "cityscapes19"), ("bdd100k", "cityscapes19")]
)
def test_streets_have_a_meaning_in_camvids_classes(dataset, own):
    here, there = lookup_table(dataset, own), lookup_table(dataset, "camvid11")
    names, classes = LABEL_SPACES[own].classes, LABEL_SPACES["camvid11"].classes
    for raw in range(256):
        expected = IGNORE if here[raw] == IGNORE else classes.index(OF_CAMVID[names[here[raw]]])
        assert there[raw] == expected, raw


def test_the_ignore_value_stays_ignored_in_every_table():
    for dataset, space in [("demo", "cityscapes19"), ("folder", "camvid11"), ("gta5", "synthia16")]:
        assert lookup_table(dataset, space)[IGNORE] == IGNORE
        assert lookup_table(dataset, space)[255] == IGNORE


def test_an_unknown_combination_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'camvid'.*'cityscapes19'; known there: cityscapes, gta5, .*folder$"):
        lookup_table("camvid", "cityscapes19")
    with pytest.raises(ValueError, match="cityscapes19, synthia16, camvid11, .* or custom"):
        label_space("cityscape19")


def test_synthia_is_scored_over_16_and_over_13_classes_without_wall_fence_and_pole():
    space = LABEL_SPACES["synthia16"]
    assert list(space.subsets) == ["13"] and len(space.subsets["13"]) == 13
    assert set(space.classes) - {space.classes[i] for i in space.subsets["13"]} == {"wall", "fence", "pole"}
    assert not LABEL_SPACES["cityscapes19"].subsets and not LABEL_SPACES["camvid11"].subsets


def test_every_class_has_a_colour_of_its_own():
    for space in LABEL_SPACES.values():
        assert space.colors.shape == (len(space), 3) and space.colors.dtype == np.uint8
        assert len(np.unique(space.colors, axis=0)) == len(space)
        assert len(set(space.classes)) == len(space)


# Label spaces of the user's own


def test_own_values_map_several_to_one_class_and_tell_ignored_from_unknown():
    space = label_space(CUSTOM, ("ground", "vehicle"))
    table = label_map("folder", space, [(7, "ground"), (8, "ground"), (26, "vehicle"), (0, IGNORED)])
    assert not table.in_color
    expected = np.full(65536, IGNORE)
    expected[[7, 8]], expected[26] = 0, 1
    np.testing.assert_array_equal(table.table, expected)
    assert np.flatnonzero(table.known).tolist() == [0, 7, 8, 26]


def test_colours_map_by_all_three_channels():
    space = label_space(CUSTOM, ("ground", "vehicle"))
    table = label_map("folder", space, [((128, 64, 128), "ground"), ((128, 64, 0), "vehicle"), ((0, 0, 0), IGNORED)])
    pixels = np.array([[128, 64, 128], [128, 64, 0], [0, 0, 0], [128, 64, 1], [64, 128, 128]])
    numbers = [color_number(pixel) for pixel in pixels]
    assert table.in_color and table.table[numbers].tolist() == [0, 1, IGNORE, IGNORE, IGNORE]
    assert table.known[numbers].tolist() == [True, True, True, False, False]


def test_a_known_data_set_can_be_given_other_classes():
    space = label_space(CUSTOM, ("flat",))
    assert np.flatnonzero(label_map("gta5", space, [(7, "flat"), (8, "flat")]).table == 0).tolist() == [7, 8]


@pytest.mark.parametrize(
    "values, message",
    [
        ([(70000, "a")], "label value 70000 .* expected 0 to 65535"),
        ([(1.5, "a")], "label value 1.5 .* expected 0 to 65535"),
        ([("7", "a")], "label value '7' .* without quotes"),
        ([((0, 300, 0), "a")], r"label value \(0, 300, 0\) .* three values from 0 to 255"),
        ([((1, 2), "a")], r"label value \(1, 2\) .* three values from 0 to 255"),
        ([(1, "a"), (1, "b")], "is given twice"),
        ([(1, "c")], "class 'c', which is not in label space 'custom': a, b"),
        ([(1, "a"), ((1, 2, 3), "b")], "partly colours, partly numbers"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        label_map("folder", label_space(CUSTOM, ("a", "b")), values)


def test_colours_are_made_up_apart_where_none_are_given():
    colors = label_space(CUSTOM, [f"class {i}" for i in range(40)]).colors.astype(int)
    apart = np.abs(colors[:, None] - colors[None]).max(-1) + 255 * np.eye(40, dtype=int)
    assert apart.min() >= 32
