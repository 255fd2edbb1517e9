"""Which files are meant: patterns, several folders, lists, labels that are missing; what folders hold besides."""

import os
import pathlib
import re
import shutil
import unicodedata

import fixtures
import numpy as np
import pytest
from PIL import Image

from proda_jax.configs import base
from proda_jax.data import pixels
from proda_jax.data.checks import check_data
from proda_jax.data.label_spaces import CUSTOM, label_map, label_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data_prep import lists
from proda_jax.data_prep.base import LayoutError
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.folder import Folder
from proda_jax.data_prep.prepare import prepare, prepare_role
from proda_jax.data_prep.summary import Summary

ROOT = pathlib.Path(__file__).parents[2]
MEANING = label_map("folder", label_space(CUSTOM, ("a", "b")))


def touch(root, *places: str) -> None:
    """Files of two by two pixels; of one value where they are labels."""
    for i, place in enumerate(places):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        label = np.full((2, 2), i % 2, np.uint8)
        Image.fromarray(label if "label" in place or "Class" in place else np.full((2, 2, 3), i, np.uint8)).save(path)


def chosen(root, images, labels=None, **settings) -> dict[str, tuple]:
    """{name: (image, label)} of a data set, as places below `root`."""
    data_set = Folder(split="own", images=images, labels=labels, checks=Checks(MEANING), **settings)
    found = data_set.records()["own"]
    places = {record.name: tuple(str(path.relative_to(root)) for path in record.files) for record in found}
    assert list(places) == sorted(places)
    return places | ({"notes": data_set.notes} if data_set.notes else {})


ACDC = [
    f"rgb/{condition}/{split}/{sequence}/{sequence}_{i}_rgb.png"
    for condition in ("fog", "night") for split in ("train", "train_ref", "val") for sequence in ("G1", "G2")
    for i in (1, 2)
]  # fmt: skip


@pytest.mark.parametrize("pattern", ["rgb/*/train/*/*_rgb.png", "rgb/*/train/*_rgb.png", "rgb/*/train/**/*_rgb.*",
                                     "rgb/*/train"])  # fmt: skip
def test_stars_in_folders_choose_a_split_and_name_what_belongs_together(tmp_path, pattern):
    labels = [place.replace("rgb", "gt").replace(".png", "_label.png") for place in ACDC]
    touch(tmp_path, *ACDC, *labels)
    images = chosen(tmp_path, str(tmp_path / pattern))
    names = [f"{c}/{s}/{s}_{i}" for c in ("fog", "night") for s in ("G1", "G2") for i in (1, 2)]
    end = "_rgb" if pattern == "rgb/*/train" else ""
    assert list(images) == [name + end for name in names]
    assert images[names[0] + end] == ("rgb/fog/train/G1/G1_1_rgb.png",)
    pairs = chosen(tmp_path, str(tmp_path / "rgb/*/train/*/*_rgb.png"), str(tmp_path / "gt/*/train/*/*_gt_label.png"))
    places = {name: f"rgb/{name.replace('/', '/train/', 1)}_rgb.png" for name in names}
    assert pairs == {name: (place, place.replace("rgb", "gt").replace(".png", "_label.png"))
                     for name, place in places.items()}  # fmt: skip


def test_a_file_of_the_same_name_in_each_folder_is_called_by_its_folder(tmp_path):
    touch(tmp_path, "s/1/rgb.png", "s/1/label.png", "s/2/rgb.png", "s/2/label.png")
    assert chosen(tmp_path, str(tmp_path / "s/*/rgb.png"), str(tmp_path / "s/*/label.png")) == {
        "1": ("s/1/rgb.png", "s/1/label.png"), "2": ("s/2/rgb.png", "s/2/label.png"),
    }  # fmt: skip
    assert chosen(tmp_path, str(tmp_path / "s/1/rgb.png")) == {"rgb": ("s/1/rgb.png",)}


def test_brackets_and_question_marks_are_themselves(tmp_path):
    touch(tmp_path, "run[1]/a?.png", "run1/ab.png")
    assert chosen(tmp_path, str(tmp_path / "run[1]/*?.png")) == {"a": ("run[1]/a?.png",)}
    assert chosen(tmp_path, str(tmp_path / "run[1]")) == {"a?": ("run[1]/a?.png",)}


def test_several_folders_are_told_apart_where_names_are_the_same(tmp_path):
    touch(tmp_path, "day/rgb/1.png", "day/label/1.png", "night/rgb/1.png", "night/rgb/2.png", "night/label/1.png")
    both = tuple(str(tmp_path / part / "rgb") for part in ("day", "night"))
    labels = tuple(str(tmp_path / part / "label") for part in ("day", "night"))
    found = chosen(tmp_path, both, labels, skip_unlabelled=True)
    assert found.pop("notes") == ["left out of own: no label for 1 of 3 images, the first being night/rgb/2"]
    assert found == {
        "day/rgb/1": ("day/rgb/1.png", "day/label/1.png"), "night/rgb/1": ("night/rgb/1.png", "night/label/1.png"),
    }  # fmt: skip
    shared = chosen(tmp_path, both, labels[0], skip_unlabelled=True)  # such as fog over one street
    assert shared["night/rgb/1"] == ("night/rgb/1.png", "day/label/1.png")
    os.remove(tmp_path / "night" / "rgb" / "1.png")
    assert list(chosen(tmp_path, both)) == ["1", "2"]
    with pytest.raises(LayoutError, match="2 folders of images and 3 of labels"):
        chosen(tmp_path, both, (*labels, labels[0]))


@pytest.mark.parametrize("lines", [
    "x_1\ny_2", "x_1.png\r\ny_2.png\r\n", "\ufeffx_1\n\n# nothing\ny_2\n", "train/s/x_1\n./train/s/y_2",
    "rgb/train/s/x_1_rgb.png\nrgb/train/s/y_2_rgb", "/rgb/train/s/x_1_rgb.png\n/rgb/train/s/y_2_rgb.png",
    "rgb/train/s/x_1_rgb.png seg/train/s/x_1_label.png\nrgb/train/s/y_2_rgb.png\tseg/train/s/y_2_label.png",
    "rgb\\train\\s\\x_1_rgb.png,seg\\train\\s\\x_1_label.png\n\"x_1\"\ny_2_rgb",
])  # fmt: skip
def test_lists_of_every_form_choose_the_same_files(tmp_path, lines):
    touch(tmp_path, *(f"{kind}/train/s/{name}_{end}.png" for name in ("x_1", "y_2", "z_3")
                      for kind, end in (("rgb", "rgb"), ("seg", "label"))))  # fmt: skip
    places = {"train/s/x_1": None, "train/s/y_2": None}
    (tmp_path / "lists").mkdir()
    file_list = tmp_path / "lists" / "train.txt"
    if "x_1\n" in lines or "x_1.png\r" in lines:  # names of files alone
        for place in list(tmp_path.rglob("*.png")):
            place.rename(place.with_name(place.name.replace("_rgb", "").replace("_label", "")))
        images, labels, end = "rgb", "seg", ("", "")
    else:
        images, labels, end = "rgb/**/*_rgb.png", "seg/**/*_label.png", ("_rgb", "_label")
    file_list.write_bytes(lines.encode())
    found = chosen(tmp_path, str(tmp_path / images), str(tmp_path / labels), file_list=str(file_list))
    assert "1 images are not in" in found.pop("notes")[-1]
    assert found == {name: (f"rgb/{name}{end[0]}.png", f"seg/{name}{end[1]}.png") for name in places}


def test_a_line_of_a_list_names_an_image_of_any_kind_and_its_label(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"a b{ending.upper()} c/d.png\n" for ending in pixels.ENDINGS))
    found = [(line.image, line.label) for line in lists.read(tmp_path / "list.txt")]
    assert found == [(f"a b{ending.upper()}", "c/d.png") for ending in pixels.ENDINGS]


def test_lists_of_windows_editors_and_paths_below_the_home_folder_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, *(f"{kind}/{name}.png" for kind in ("rgb", "label") for name in "abc"))
    file_list = tmp_path / "train.txt"
    for encoding in ("utf-16", "utf-8"):
        file_list.write_text("~/rgb/a.png ~/label/b.png\n~/rgb/c\n", encoding=encoding)
        found = chosen(tmp_path, str(tmp_path / "rgb"), str(tmp_path / "label"), file_list="~/train.txt")
        assert found.pop("notes") and found == {"a": ("rgb/a.png", "label/b.png"), "c": ("rgb/c.png", "label/c.png")}


def test_a_list_may_pair_files_whose_names_have_nothing_in_common(tmp_path):
    touch(tmp_path, "VOC/JPEG/1.jpg", "VOC/Class/old.png", "VOC/ClassAug/1x.png")
    (tmp_path / "VOC" / "sets").mkdir()
    file_list = tmp_path / "VOC" / "sets" / "aug.txt"
    file_list.write_text("/JPEG/1.jpg /ClassAug/1x.png\n")
    found = chosen(tmp_path, str(tmp_path / "VOC/JPEG"), str(tmp_path / "VOC"), file_list=str(file_list))
    assert found == {"1": ("VOC/JPEG/1.jpg", "VOC/ClassAug/1x.png")}


def test_labels_of_another_data_set_are_no_images_of_an_unlabelled_one(tmp_path):
    """Such as those of the validation images, in a folder within that of the target."""
    touch(tmp_path, "t/train/a.png", "t/val/images/b.png", "t/val/labels/b.png")
    images, others = str(tmp_path / "t"), {"data.validation": str(tmp_path / "t" / "val" / "labels")}
    with pytest.raises(LayoutError, match=r"1 of these images are the labels of data\.validation, the first being "
                                          r".*/t/val/labels/b\.png: name folders, or a pattern"):  # fmt: skip
        chosen(tmp_path, images, no_images=others)
    assert list(chosen(tmp_path, f"{images}/train", no_images=others)) == ["a"]
    elsewhere = {"data.validation": str(tmp_path / "elsewhere")}
    assert len(chosen(tmp_path, images, no_images=elsewhere)) == 3  # which is said where that is prepared
    settings = base.get_config().data
    settings.target = base.folder("target", images, None, (48, 96))
    settings.validation = base.folder("validation", f"{images}/val/images", f"{images}/val/labels", (48, 96))
    with pytest.raises(LayoutError, match="are the labels of data.validation"):
        prepare_role(settings, "target", str(tmp_path / "data"))


def test_an_image_that_lies_in_two_of_the_folders_counts_once(tmp_path):
    touch(tmp_path, "t/a/1.png", "t/b/2.png")
    found = chosen(tmp_path, (str(tmp_path / "t" / "a"), str(tmp_path / "t")))
    assert found == {"notes": ["1 images lie in two of the folders of images, and count once"],
                     "1": ("t/a/1.png",), "b/2": ("t/b/2.png",)}  # fmt: skip


def test_a_list_gives_an_image_one_label(tmp_path):
    touch(tmp_path, "rgb/a.png", "label/a.png", "label/b.png")
    file_list = tmp_path / "train.txt"
    file_list.write_text("rgb/a.png label/a.png\nrgb/a.png label/b.png\n")
    with pytest.raises(LayoutError, match=r"train\.txt, line 2: 'rgb/a.png' has another label than in a line before"):
        chosen(tmp_path, str(tmp_path / "rgb"), str(tmp_path / "label"), file_list=str(file_list))


def test_lists_that_do_not_fit_are_refused_with_the_line(tmp_path):
    touch(tmp_path, "rgb/a.png", "rgb/b.png", "label/a.png", "label/b.png")
    file_list = tmp_path / "train.txt"

    def listed(text: str):
        file_list.write_text(text)
        return chosen(tmp_path, str(tmp_path / "rgb"), str(tmp_path / "label"), file_list=str(file_list))

    with pytest.raises(LayoutError, match=r"train\.txt names 1 files that are not there, the first in line 3, 'c' "
                                          r"\(one of the images is 'a'\)"):  # fmt: skip
        listed("a\n\nc\n")
    with pytest.raises(LayoutError, match="in line 1, 'label/z.png' .*one of the labels is 'a'"):
        listed("rgb/a.png label/z.png")
    with pytest.raises(LayoutError, match="names no file"):
        listed("# nothing\n")
    assert listed("a\na\nb\n")["notes"] == [f"1 lines of {file_list} name an image once more"]
    file_list.unlink()
    with pytest.raises(LayoutError, match=r"the list .*train\.txt cannot be read: No such file"):
        lists.read(file_list)


@pytest.mark.parametrize("example", ["ACDC", "VOC"])
def test_the_examples_of_the_documentation_choose_the_files_that_they_say(tmp_path, monkeypatch, example):
    (code,) = re.findall(rf"```python\n# {example}\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    for condition in ("fog", "night"):
        for split in ("train", "val", "test", "train_ref"):
            name = f"ACDC/{{}}/{condition}/{split}/GOPR0475/GOPR0475_frame_1_{{}}.png"
            touch(tmp_path, name.format("rgb_anon", "rgb_anon"), name.format("gt", "gt_labelTrainIds"),
                  name.format("gt", "gt_labelColor"))  # fmt: skip
    touch(tmp_path, *(f"VOC2012/JPEGImages/{i}.jpg" for i in range(8)))
    touch(tmp_path, *(f"VOC2012/SegmentationClass/{i}.png" for i in range(4)))
    (tmp_path / "VOC2012" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt").write_text("0\n2\n")
    monkeypatch.chdir(tmp_path)
    c = base.get_config()
    exec(code, {"c": c, "base": base})
    roles = ("target", "validation") if example == "ACDC" else ("source",)
    found = {role: prepare_role(c.data, role, str(tmp_path / "data")) for role in roles}
    names = {role: TfdsSource(f"folder/{c.data[role].split}", c.data[role].split, data_dir=str(tmp_path / "data"),
                              image_size=(32, 32), label_map=MEANING).names for role in found}  # fmt: skip
    assert names == {
        "ACDC": {
            "target": ("fog/GOPR0475/GOPR0475_frame_1", "night/GOPR0475/GOPR0475_frame_1"),
            "validation": ("GOPR0475/GOPR0475_frame_1",),
        },
        "VOC": {"source": ("0", "2")},
    }[example]  # fmt: skip
    if example == "VOC":
        assert "6 images are not in" in Summary.load(found["source"]).text(MEANING)


def test_images_without_labels_are_left_out_by_a_setting_of_the_known_data_sets_too(tmp_path):
    fixtures.write_gta5(tmp_path / "raw", 3)
    os.remove(tmp_path / "raw" / "labels" / "00002.png")
    with pytest.raises(ValueError, match="no label for 1 of 3 images, .*skip_unlabelled=True leaves them out"):
        prepare("gta5", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    folder = prepare("gta5", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"), skip_unlabelled=True)
    assert Summary.load(folder).splits["train"].images == 2
    assert "left out of train: no label for 1 of 3 images, the first being 00002" in Summary.load(folder).notes


def test_cityscapes_with_train_ids_has_the_same_labels(tmp_path):
    truth = fixtures.write_cityscapes(tmp_path / "raw", size=(16, 32))
    ids = sorted((tmp_path / "raw" / "gtFine").rglob("*_labelIds.png"))
    labels = [label for split in ("train", "val") for _, _, label in truth[split]]
    in_train_ids = [path.with_name(path.name.replace("labelIds", "labelTrainIds")) for path in ids]
    for path, other, label in list(zip(ids, in_train_ids, labels, strict=True))[1:]:  # the first keeps its label ids
        Image.fromarray(np.where(label == 250, 255, label).astype(np.uint8)).save(other)
        path.unlink()
    prepare("cityscapes", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    meaning = label_map("cityscapes", label_space("cityscapes19"))
    for split in ("train", "val"):
        place = {"data_dir": str(tmp_path / "data"), "image_size": (16, 32)}
        source = TfdsSource("cityscapes", split, label_map=meaning, **place)
        np.testing.assert_array_equal(source.to_memory(labels=True).labels, [label for _, _, label in truth[split]])
    Image.fromarray(np.full((16, 32), 26, np.uint8)).save(in_train_ids[1])
    with pytest.raises(ValueError, match=r"labelTrainIds\.png cannot be used: it holds 26, which is no train id"):
        prepare("cityscapes", data_dir=str(tmp_path / "other"), raw_dir=str(tmp_path / "raw"))


def test_what_folders_hold_besides_is_passed_over_counted_and_named(tmp_path):
    images = tmp_path / "nas"
    touch(images, "IMG_0.jpg", "x.jpg/inside.png", "@eaDir/IMG_0.jpg/SYNOPHOTO_THUMB.jpg", "scan.pdf", "._IMG_0.jpg")
    os.symlink(images, images / "again")
    os.symlink(images / "gone.png", images / "nothing.png")
    shutil.copy(images / "IMG_0.jpg", os.fsencode(images) + b"/stra\xdfe.jpg")
    c = base.get_config()
    c.data.target = base.folder("nas", str(images), None, (32, 32))
    folder = prepare_role(c.data, "target", str(tmp_path / "data"))
    text = Summary.load(folder).text(MEANING)
    assert Summary.load(folder).splits["nas"].images == 2
    reasons = (
        "hidden, such as .*_IMG_0", "thumbnails.*@eaDir", "links to folders.*again", "links to nothing.*nothing",
        r"not UTF-8.*stra\\xdfe", r"that end in \.pdf, such as .*scan",
    )  # fmt: skip
    for reason in reasons:
        assert re.search(f"note: passed over: 1 .*{reason}", text), (reason, text)


def test_a_folder_of_nothing_but_names_that_are_not_utf8_is_refused_with_the_reason(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "names").mkdir()
    shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path / "names") + b"/stra\xdfe.png")
    with pytest.raises(LayoutError, match=r"no files .*stra\\xdfe\.png; passed over: 1 .* not UTF"):
        chosen(tmp_path, str(tmp_path / "names"))


def test_an_image_and_its_label_may_spell_their_name_in_two_unicode_forms(tmp_path):
    name = "Straße_é_" + "ü" * 70  # too long to be quoted as the name of a file of pseudo labels
    touch(tmp_path, f"rgb/{unicodedata.normalize('NFC', name)}.png", f"label/{unicodedata.normalize('NFD', name)}.png")
    touch(tmp_path, "rgb/[x] {y}.png", "label/[x] {y}.png")
    c = base.get_config()
    c.data.label_space, c.data.classes = CUSTOM, ("a", "b")
    c.data.source = base.folder("own", str(tmp_path / "rgb"), str(tmp_path / "label"), (32, 32))
    prepare_role(c.data, "source", str(tmp_path / "data"))
    source = TfdsSource("folder/own", "own", data_dir=str(tmp_path / "data"), image_size=(2, 2), label_map=MEANING)
    assert set(source.names) == {unicodedata.normalize("NFC", name), "[x] {y}"}
    assert len(list(source.ordered_batches(1, labels=True))) == 2


def test_settings_of_files_that_make_no_sense_are_refused():
    c = base.get_config()
    c.data.label_space, c.data.classes = CUSTOM, ("a", "b")
    c.data.source = base.folder("own", ("a", "b"), ("x", "y"), (32, 32), file_list="list.txt")
    c.data.target = base.folder("other", "a", None, (32, 32))
    c.data.validation = base.folder("none", None, None, (32, 32))
    check_data(c)
    cases = [
        ("source", "labels", ("x", "y", "z"), "one folder of labels for all"),
        ("source", "images", ("a", 3), "a folder or a pattern"),
        ("target", "skip_unlabelled", True, "there are no labels"),
    ]
    for role, key, value, message in cases:
        changed = c.copy_and_resolve_references()
        changed.data[role][key] = value
        with pytest.raises(ValueError, match=message):
            check_data(changed)
    c = base.get_config()
    c.data.source.images = "a"
    with pytest.raises(ValueError, match=r"source\.images = 'a': expected None, as data\.source\.name is not 'folder'"):
        check_data(c)
