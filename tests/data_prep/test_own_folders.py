"""Data sets of a user's own: folders and patterns, values and colours, classes of the configuration."""

import ml_collections
import numpy as np
import pytest
from PIL import Image
from test_preparation import noise

from proda_jax.configs import base
from proda_jax.data.label_spaces import CUSTOM, IGNORE, label_map, label_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data_prep import contact_sheet
from proda_jax.data_prep.prepare import prepare_role
from proda_jax.data_prep.summary import Summary

CLASSES = {"ground": (90, 80, 70), "sky": (1, 2, 3)}


def own_data(**roles) -> ml_collections.ConfigDict:
    c = base.get_config()
    c.data.label_space, c.data.classes, c.data.colors = CUSTOM, tuple(CLASSES), tuple(CLASSES.values())
    for role, dataset in roles.items():
        c.data[role] = dataset
    return c.data


def save(path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def open_own(data, role: str, root) -> TfdsSource:
    prepare_role(data, role, str(root / "data"))
    wanted = data[role]
    space = label_space(data.label_space, data.classes, data.colors)
    return TfdsSource(f"folder/{wanted.split}", wanted.split, data_dir=str(root / "data"), image_size=(8, 10),
                      label_map=label_map("folder", space, wanted.label_values))  # fmt: skip


def test_own_images_in_subfolders_with_labels_in_colour(tmp_path):
    label = noise(8, 10, below=3)
    colors = np.array([*CLASSES.values(), (9, 9, 9)], np.uint8)[label]
    for name, ending in (("day/a", "jpg"), ("day/b", "jpe"), ("night/a", "jfif")):  # all of them JPEG
        save(tmp_path / "rgb" / f"{name}.{ending}", noise(8, 10, 3))
        save(tmp_path / "seg" / f"{name}.png", colors)
    values = {color: name for name, color in CLASSES.items()}
    data = own_data(source=base.folder("sim", str(tmp_path / "rgb"), str(tmp_path / "seg"), (8, 10), values))
    source = open_own(data, "source", tmp_path)
    assert source.names == ("day/a", "day/b", "night/a") and source.labelled
    np.testing.assert_array_equal(source.to_memory(labels=True).labels[2], np.where(label == 2, IGNORE, label))
    summary = Summary.load(tmp_path / "data" / "folder" / "sim" / "2.0.0")
    meaning = label_map("folder", label_space(CUSTOM, tuple(CLASSES)), data.source.label_values)
    assert summary.unmapped(meaning) == {"(9, 9, 9)": 3 * int((label == 2).sum())}


def test_own_files_are_matched_by_what_their_patterns_leave_open(tmp_path):
    for i in (1, 2):
        save(tmp_path / "all" / f"frame_{i}_rgb.png", noise(8, 10, 3))
        save(tmp_path / "all" / f"frame_{i}_label.png", np.full((8, 10), 20 + i, np.uint8))
    images, labels = (str(tmp_path / "all" / f"frame_*_{kind}.png") for kind in ("rgb", "label"))
    data = own_data(source=base.folder("sim", images, labels, (8, 10), {21: "ground", 22: "sky"}))
    memory = open_own(data, "source", tmp_path).to_memory(labels=True)
    assert memory.names == ("1", "2") and [set(label.ravel()) for label in memory.labels] == [{0}, {1}]


def test_own_folders_of_different_names_share_a_data_folder(tmp_path):
    for name, pixels in (("sim", noise(8, 10, 3)), ("real", 255 - noise(8, 10, 3))):
        save(tmp_path / name / "a.png", pixels)
    save(tmp_path / "labels" / "a.png", np.ones((8, 10), np.uint8))
    data = own_data(
        source=base.folder("sim", str(tmp_path / "sim"), str(tmp_path / "labels"), (8, 10)),
        target=base.folder("real", str(tmp_path / "real"), None, (8, 10)),
    )
    assert open_own(data, "source", tmp_path).to_memory(labels=True).labels.tolist() == np.ones((1, 8, 10)).tolist()
    assert not open_own(data, "target", tmp_path).labelled
    data.target.images = str(tmp_path / "sim")
    with pytest.raises(ValueError, match="was prepared with raw_dir = .*real.*, not .*sim"):
        open_own(data, "target", tmp_path)


def test_own_folders_that_do_not_fit_are_refused_by_what_differs(tmp_path):
    save(tmp_path / "rgb" / "a_rgb.png", noise(8, 10, 3))
    save(tmp_path / "seg" / "a_seg.png", noise(8, 10))
    save(tmp_path / "jpg" / "a.jpg", noise(8, 10))
    images, labels = str(tmp_path / "rgb"), str(tmp_path / "seg")
    cases = [
        ((images, labels), r"none of the 1 labels .* 'a_seg' against 'a_rgb'; .*pattern"),
        ((str(tmp_path / "absent"), labels), "there is no folder .*absent"),
        ((str(tmp_path / "rgb" / "*.jpg"), labels), r"no files .*\.jpg.*: the folder holds a_rgb\.png"),
        ((images, str(tmp_path / "jpg")), r"no files .*holds a\.jpg; labels are read from PNG files alone"),
    ]
    for (one, other), message in cases:
        data = own_data(source=base.folder("sim", one, other, (8, 10)))
        with pytest.raises(ValueError, match=message):
            prepare_role(data, "source", str(tmp_path / "data"))
    save(tmp_path / "rgb" / "a_rgb.jpg", noise(8, 10, 3))
    with pytest.raises(ValueError, match=r"a_rgb\.(jpg|png) and .*a_rgb\.(jpg|png) are two files of the same name"):
        prepare_role(own_data(source=base.folder("sim", images, None, (8, 10))), "source", str(tmp_path / "data"))


def test_labels_get_another_meaning_without_being_prepared_again(tmp_path):
    save(tmp_path / "rgb" / "a.png", noise(8, 10, 3))
    save(tmp_path / "seg" / "a.png", np.full((8, 10), 7, np.uint8))
    images, labels = str(tmp_path / "rgb"), str(tmp_path / "seg")
    sheets = []
    for values, unmapped in (({8: "sky"}, {"7": 80}), ({7: "ground"}, {})):
        data = own_data(source=base.folder("sim", images, labels, (8, 10), values))
        source = open_own(data, "source", tmp_path)
        folder = tmp_path / "data" / "folder" / "sim" / "2.0.0"
        meaning = label_map("folder", label_space(CUSTOM, tuple(CLASSES)), data.source.label_values)
        assert Summary.load(folder).unmapped(meaning) == unmapped
        sheets.append((folder / contact_sheet.NAME).read_bytes())
    assert set(source.to_memory(labels=True).labels.ravel()) == {0} and sheets[0] != sheets[1]
    data.strict = True
    open_own(data, "source", tmp_path)
    data = own_data(source=base.folder("sim", images, labels, (8, 10), {(7, 7, 7): "ground"}))
    with pytest.raises(ValueError, match="was prepared with labels_in_color = False, not True"):
        open_own(data, "source", tmp_path)
