"""Files and folders that cannot be prepared: each is named, with what was expected."""

import re
import shutil

import fixtures
import numpy as np
import pytest
from PIL import Image
from raw_files import CITYSCAPES, SIZE, labels_of_each_kind, noise, png, prepare_gta5

from proda_jax.data import decode_pillow
from proda_jax.data_prep.examples import Checks, checked
from proda_jax.data_prep.png import index_png
from proda_jax.data_prep.prepare import prepare
from proda_jax.data_prep.records import Record
from proda_jax.data_prep.summary import Summary


@pytest.fixture
def gta5(tmp_path):
    fixtures.write_gta5(tmp_path / "raw", 7, SIZE)
    return tmp_path


@pytest.mark.parametrize("dataset", ["gta5", "synthia", "cityscapes", "camvid"])
def test_an_empty_raw_folder_is_refused_with_the_layout_expected(tmp_path, dataset):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "readme.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"no images; expected .*\.png.*readme\.txt"):
        prepare(dataset, data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    with pytest.raises(ValueError, match="there is no such folder"):
        prepare(dataset, data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "rwa"))


def test_missing_labels_are_named(gta5):
    (gta5 / "raw" / "labels" / "00003.png").unlink()
    with pytest.raises(ValueError, match="no label for 1 of 7 images, the first being 00003"):
        prepare_gta5(gta5)
    shutil.rmtree(gta5 / "raw" / "labels")
    with pytest.raises(ValueError, match="labels has no label for any"):
        prepare_gta5(gta5)


def cut(path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize(
    "damage, message",
    [("middle", "cut off"), ("end", "cut off"), ("empty", "it is empty|PNG"), ("text", "it is no image|PNG")],
)
def test_a_damaged_file_is_named(gta5, folder, damage, message):
    path = gta5 / "raw" / folder / "00004.png"
    if damage in ("middle", "end"):
        cut(path, 0.5 if damage == "middle" else 0.98)
    else:
        path.write_text("404" if damage == "text" else "")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        prepare_gta5(gta5)


@pytest.mark.parametrize("kind", labels_of_each_kind())
@pytest.mark.parametrize("damage", ["cut", "short", "flipped"])
def test_damaged_labels_of_each_kind_are_named(kind, damage):
    file = labels_of_each_kind()[kind][0]
    place = file.index(b"IDAT") + 8
    flipped = file[:place] + bytes([file[place] ^ 255]) + file[place + 1 :]
    damaged = {"cut": file[: place + 4], "short": file[:20], "flipped": flipped}[damage]
    with pytest.raises(ValueError, match="labels/a.png cannot be used: "):
        checked(Record("a", "images/a.png", "labels/a.png"), png(noise(5, 9, 3)), damaged, Checks(CITYSCAPES))


def test_what_follows_the_end_of_a_png_is_no_damage():
    file = png(noise(5, 9, 3)) + bytes(200)
    assert checked(Record("a", "a.png"), file, b"", Checks(CITYSCAPES)).image == file


def test_a_jpeg_that_is_cut_off_is_named(gta5):
    path = gta5 / "raw" / "images" / "00004.jpg"
    Image.open(path.with_suffix(".png")).save(path)
    path.with_suffix(".png").unlink()
    cut(path, 0.7)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used: "):
        prepare_gta5(gta5)


def test_flipped_bits_in_an_image_are_noticed(gta5):
    path = gta5 / "raw" / "images" / "00004.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used: "):
        prepare_gta5(gta5)


def test_colours_where_values_are_expected_are_named(gta5):
    path = gta5 / "raw" / "labels" / "00004.png"
    Image.fromarray(noise(*SIZE, 3)).save(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used: it is an image of colours"):
        prepare_gta5(gta5)
    fixtures.write_png16(path, noise(*SIZE, 3).astype(np.uint16) * 257)
    with pytest.raises(ValueError, match="it is an image of colours"):
        index_png(path.read_bytes())
    ids = np.dstack([noise(*SIZE, below=23), *[noise(*SIZE).astype(np.uint16) * 9] * 2])  # SYNTHIA's, with instances
    fixtures.write_png16(path, ids)
    np.testing.assert_array_equal(decode_pillow.raw_label(index_png(path.read_bytes()), in_color=False), ids[..., 0])


def test_two_images_of_one_name_are_both_named(gta5):
    shutil.copy(gta5 / "raw" / "images" / "00002.png", gta5 / "raw" / "images" / "00002.jpg")
    with pytest.raises(ValueError, match=r"two images named 00002: .*00002\.jpg and .*00002\.png"):
        prepare_gta5(gta5)


def test_label_values_without_meaning_are_counted_and_in_strict_mode_refused(gta5):
    path = gta5 / "raw" / "labels" / "00002.png"
    values = np.full(SIZE, 7, np.uint8)
    values[:3, :5] = 77
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used: 15 of its pixels have value 77"):
        prepare_gta5(gta5, strict=True)
    folder = prepare_gta5(gta5)
    assert dict(Summary.load(folder).unmapped(CITYSCAPES)) == {"77": 15}
    assert "without meaning, which are ignored: 77 (15 pixels)" in Summary.load(folder).text(CITYSCAPES)
    with pytest.raises(ValueError, match="holds label values without meaning, {'77': 15}"):
        prepare_gta5(gta5, strict=True)


def test_all_files_that_cannot_be_used_are_named_together(gta5):
    broken = [gta5 / "raw" / "images" / f"0000{i}.png" for i in (2, 5)]
    for path in broken:
        path.write_text("404")
    with pytest.raises(ValueError) as refusal:
        prepare_gta5(gta5)
    message = str(refusal.value)
    assert message.startswith("2 files cannot be used") and all(str(path) in message for path in broken)


def test_files_are_demanded_where_files_are_needed(tmp_path):
    with pytest.raises(ValueError, match="pass raw_dir"):
        prepare("gta5", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="choose one of demo, demo_360x480, camvid"):
        prepare("kitti", data_dir=str(tmp_path))
