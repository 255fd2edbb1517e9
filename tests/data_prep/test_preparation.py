"""Preparing data sets: what raw files may be, and what the summary and the contact sheet show of them."""

import io
import json
import shutil

import fixtures
import numpy as np
import pytest
from PIL import Image
from raw_files import (
    CITYSCAPES,
    SIZE,
    encoded,
    images_of_each_kind,
    labels_of_each_kind,
    noise,
    png,
    prepare_gta5,
    stored,
)

from proda_jax.data import decode, decode_pillow, pixels
from proda_jax.data.label_spaces import label_space
from proda_jax.data_prep import contact_sheet, shards
from proda_jax.data_prep.counts import Counts, class_pixels
from proda_jax.data_prep.examples import Checks, checked
from proda_jax.data_prep.folder import Folder
from proda_jax.data_prep.png import index_png
from proda_jax.data_prep.prepare import prepare
from proda_jax.data_prep.records import Record
from proda_jax.data_prep.summary import Summary
from proda_jax.inference import images


@pytest.fixture
def gta5(tmp_path):
    fixtures.write_gta5(tmp_path / "raw", 7, SIZE)
    return tmp_path


@pytest.mark.parametrize("kind", images_of_each_kind())
def test_images_of_each_kind_are_stored_as_they_came_and_decode_to_rgb(kind):
    file, expected = images_of_each_kind()[kind]
    example = checked(Record("a", "a.png"), file, b"", Checks(CITYSCAPES))
    assert example.image == file and example.counts.bytes == len(file)
    actual = decode.image(example.image).numpy().astype(int)
    assert np.abs(actual - expected).max() <= (12 if "jpeg" in kind else 0)


def test_16_bit_images_keep_their_upper_byte(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    fixtures.write_png16(tmp_path / "image.png", pixels)
    actual = decode.image((tmp_path / "image.png").read_bytes()).numpy()
    assert np.abs(actual.astype(int) - pixels / 257).max() <= 1


@pytest.mark.parametrize("kind", labels_of_each_kind())
def test_labels_of_each_kind_keep_their_values(kind):
    file, expected = labels_of_each_kind()[kind]
    np.testing.assert_array_equal(decode.raw_label(index_png(file), in_color=False), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_labels_of_16_bits_are_read_from_the_first_channel_without_loss(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 400, (5, 7, 3)).astype(np.uint16)
    if channels == 3:
        fixtures.write_png16(tmp_path / "label.png", values)
    else:
        Image.fromarray(values[..., 0]).save(tmp_path / "label.png")
    file = (tmp_path / "label.png").read_bytes()
    assert file[24] == 16  # bits
    np.testing.assert_array_equal(decode.raw_label(index_png(file), in_color=False), values[..., 0])


def test_odd_names_and_files_beside_the_images_do_no_harm(gta5):
    raw = gta5 / "raw"
    for name, text in ((".DS_Store", "x"), ("Thumbs.db", "x"), ("._00001.png", "no image"), ("readme.txt", "x")):
        (raw / "images" / name).write_text(text)
        (raw / "labels" / name).write_text(text)
    (raw / "images" / "00002.png").rename(raw / "images" / "00002.PNG")
    (raw / "labels" / "00003.png").rename(raw / "labels" / "00003.Png")
    image = Image.open(raw / "images" / "00004.png")
    image.save(raw / "images" / "00004.png", "JPEG")  # another kind than its name says
    shutil.copy(raw / "labels" / "00001.png", raw / "labels" / "99999.png")
    folder = prepare_gta5(gta5)
    names = [example["name"].decode() for example in stored(folder, "gta5", "train")]
    assert names == [f"{i:05d}" for i in range(1, 8)]
    text = Summary.load(folder).text(CITYSCAPES)
    assert "1 labels without an image were left out" in text and "99999.png" in text


def test_cityscapes_test_images_come_without_labels(tmp_path):
    fixtures.write_cityscapes(tmp_path / "raw", size=SIZE)
    for split, kind, name in (("leftImg8bit", "test", "leftImg8bit"), ("gtFine", "test", "gtFine_labelIds")):
        source = next((tmp_path / "raw" / split / "val").rglob("*.png"))
        target = tmp_path / "raw" / split / kind / "berlin" / f"berlin_000000_000019_{name}.png"
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    (tmp_path / "raw" / "leftImg8bit" / "train" / "license.txt").write_text("a file among the cities")
    instances = tmp_path / "raw" / "gtFine" / "val" / "lindau" / "lindau_000001_000019_gtFine_instanceIds.png"
    fixtures.write_png16(instances, np.zeros((*SIZE, 3), np.uint16))
    folder = prepare("cityscapes", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    summary = Summary.load(folder)
    assert [(name, counts.images, bool(counts.values)) for name, counts in summary.splits.items()] == [
        ("train", 4, True), ("val", 2, True), ("test", 1, False)
    ]  # fmt: skip


# What is shown of it


@pytest.mark.smoke("data_prep")
def test_the_summary_counts_what_the_files_hold(tmp_path):
    truth = fixtures.write_gta5(tmp_path / "raw", 5, SIZE, odd_sizes=True)
    summary = Summary.load(prepare_gta5(tmp_path))
    counts = summary.splits["train"]
    assert counts.images == 5 and counts.sizes == {"128 x 64": 4, "144 x 72": 1} and counts.other_label_sizes == 1
    labels = [label[::2, ::2] if i == 1 else label for i, (_, _, label) in enumerate(truth)]
    train_ids = np.concatenate([label.ravel() for label in labels])
    names = label_space("cityscapes19").classes
    expected = {names[c]: int((train_ids == c).sum()) for c in np.unique(train_ids)}
    assert dict(class_pixels(counts, CITYSCAPES)) == expected and not summary.unmapped(CITYSCAPES)
    assert counts.values.total() == train_ids.size and counts.others == 0
    files = (tmp_path / "raw" / "images").iterdir()
    assert counts.bytes > sum(path.stat().st_size for path in files)
    text = summary.text(CITYSCAPES)
    assert f"{expected['road']:,}" in text and "note: no pixel of train" in text and "1 labels differ in size" in text


def test_the_contact_sheet_shows_images_and_their_labels_in_class_colours(tmp_path):
    pixels, label = np.full((50, 100, 3), 100, np.uint8), np.full((50, 100), 7, np.uint8)
    label[:, 50:] = 0  # ignored
    for kind, array in (("images", pixels), ("labels", label)):
        (tmp_path / "raw" / kind).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "raw" / kind / "a.png")
    sheet = np.asarray(Image.open(prepare_gta5(tmp_path) / contact_sheet.NAME).convert("RGB"))
    road = 0.4 * 100 + 0.6 * np.array([128, 64, 128])
    assert (np.abs(sheet - road).max(-1) <= 1).sum() == pytest.approx(147 * 147, rel=0.02)  # half of a cell's overlay
    assert (sheet == 100).all(-1).sum() == pytest.approx(3 * 147 * 147, rel=0.02)  # the image, the other half


def test_photographs_that_ask_to_be_rotated_are_counted():
    exif = Image.Exif()
    exif[274] = 6
    for kind in ("TIFF", "PNG", "JPEG"):
        file = encoded(Image.fromarray(noise(6, 8, 3)), kind, exif=exif)
        labelled = checked(Record("a", "a.jpg", "a.png"), file, png(np.zeros((6, 8), np.uint8)), Checks(CITYSCAPES))
        assert labelled.counts.rotated == 1 and dict(labelled.counts.sizes) == {"8 x 6": 1}
        assert (labelled.image == file) == (kind != "TIFF")
        if kind != "JPEG":
            np.testing.assert_array_equal(decode_pillow.image(labelled.image), noise(6, 8, 3))
    example = checked(Record("a", "a.jpg"), file, b"", Checks(CITYSCAPES))
    assert example.counts.rotated == 0 and dict(example.counts.sizes) == {"6 x 8": 1}
    np.testing.assert_array_equal(decode_pillow.image(example.image), pixels.read(file))  # as prediction sees it
    lying, upright = (encoded(Image.fromarray(np.zeros(size, np.uint8)), "PNG") for size in ((6, 8), (8, 6)))
    assert checked(Record("a", "a.jpg", "a.png"), file, lying, Checks(CITYSCAPES)).counts.other_label_sizes == 0
    with pytest.raises(ValueError, match="a.png cannot be used: it is upright, and a.jpg lies on its side"):
        checked(Record("a", "a.jpg", "a.png"), file, upright, Checks(CITYSCAPES))


def test_images_of_16_bits_are_turned_as_prediction_turns_them():
    exif, values = Image.Exif(), noise(6, 8).astype(np.uint16) * 257
    exif[274] = 6
    file, label = encoded(Image.fromarray(values), "PNG", exif=exif), png(np.zeros((6, 8), np.uint8))
    for value_range in (None, (0, 65535)):
        checks = Checks(CITYSCAPES, value_range=value_range)
        turned = checked(Record("a", "a.png"), file, b"", checks)
        np.testing.assert_array_equal(decode_pillow.image(turned.image), pixels.read(file, value_range))
        stored = checked(Record("a", "a.png", "b.png"), file, label, checks)
        assert decode_pillow.image(stored.image).shape == (6, 8, 3) and stored.counts.rotated == 1


def others() -> dict[str, bytes]:
    """Image files that are neither PNG nor JPEG."""
    image = Image.fromarray(noise(6, 8, 3))
    kinds = {"tiff": {}, "bmp": {}, "webp": {}, "gif": {}, "ppm": {}, "tga": {}, "jpeg2000": {}, "qoi": {}}
    found = {kind: encoded(image, kind.upper(), **options) for kind, options in kinds.items()}
    pages = {"save_all": True, "append_images": [Image.fromarray(noise(5, 4, 3)), image]}
    return found | {
        "packed tiff": encoded(image, "TIFF", compression="tiff_lzw"), "tiff of pages": encoded(image, "TIFF", **pages),
        "tiff with a palette": encoded(image.quantize(9), "TIFF"), "grey tiff": encoded(image.convert("L"), "TIFF"),
        "webp with alpha": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "animated webp": encoded(image, "WEBP", lossless=True, **pages | {"append_images": [image.rotate(180)]}),
    }  # fmt: skip


@pytest.mark.parametrize("kind", others())
def test_images_of_other_kinds_are_stored_as_prediction_reads_them(kind):
    """Of several pages the first, as Pillow opens them."""
    file = others()[kind]
    example = checked(Record("a", "a"), file, b"", Checks(CITYSCAPES))
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    for found in (decode.image(example.image).numpy(), decode_pillow.image(example.image), pixels.read(file)):
        np.testing.assert_array_equal(found, expected)


def test_tiffs_of_16_and_32_bits_are_read_and_refused_as_in_prediction():
    deep = np.random.default_rng(0).integers(0, 2**16, (6, 8)).astype(np.uint16)
    for values, value_range in ((deep, None), (deep // 16, (0, 4095)), (deep.astype(np.float32), (0, 65535))):
        file = encoded(Image.fromarray(values), "TIFF")
        example = checked(Record("a", "a.tif"), file, b"", Checks(CITYSCAPES, value_range=value_range))
        np.testing.assert_array_equal(decode_pillow.image(example.image), np.repeat(deep[..., None] >> 8, 3, -1))
        np.testing.assert_array_equal(pixels.read(file, value_range), np.repeat(deep[..., None] >> 8, 3, -1))
        if value_range:
            with pytest.raises(pixels.Unreadable) as by_prediction:
                pixels.read(file)
            with pytest.raises(ValueError, match="a.tif cannot be used: its .*value_range") as by_preparation:
                checked(Record("a", "a.tif"), file, b"", Checks(CITYSCAPES))
            assert str(by_prediction.value) in str(by_preparation.value)


def test_several_pages_are_counted(tmp_path):
    pages = [Image.fromarray(noise(6, 8, 3)), Image.fromarray(255 - noise(6, 8, 3))]
    file = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    example = checked(Record("a", "a.tif"), file, b"", Checks(CITYSCAPES))
    np.testing.assert_array_equal(decode_pillow.image(example.image), noise(6, 8, 3))
    found = Summary.of("photos", {"own": [example.counts, Counts(images=1)]}, [])
    assert found.notes_of("own", CITYSCAPES)[-1] == (
        "1 images have several pages or frames, of which the first is taken, such as a.tif"
    )


def test_preparation_takes_the_files_of_a_folder_that_prediction_takes(tmp_path):
    for i, ending in enumerate((*pixels.ENDINGS, ".TIF", ".nef", ".txt")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{i}{ending}").write_bytes(png(noise(2, 3, 3)))  # the content counts
    checks = Checks(CITYSCAPES)
    taken = Folder(split="photos", images=str(tmp_path / "photos"), checks=checks).records()["photos"]
    found, passed_over = images.find(str(tmp_path / "photos"), tmp_path / "out")
    assert sorted(record.image for record in taken) == sorted(entry.path for entry in found)
    assert len(taken) == len(pixels.ENDINGS) + 1
    assert passed_over.counts == {"that end in .nef": 1, "that end in .txt": 1}


def test_large_images_are_prepared_and_decoded_whatever_pillows_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    values, label = noise(6, 8, 3), np.zeros((6, 8), np.uint8)
    for kind in ("JPEG", "PNG"):
        file = encoded(Image.fromarray(values), kind)
        example = checked(Record("a", "a", "a.png"), file, png(label), Checks(CITYSCAPES))
        assert example.image == file and not example.counts.rotated
        np.testing.assert_array_equal(decode_pillow.image(file), np.asarray(decode.image(file)))
    np.testing.assert_array_equal(decode_pillow.raw_label(png(label), in_color=False), label)


def test_images_of_12_bits_are_not_nearly_black():
    values = np.random.default_rng(0).integers(0, 4096, (6, 8)).astype(np.uint16)
    file = encoded(Image.fromarray(values), "PNG")
    with pytest.raises(ValueError, match=r"a.png cannot be used: its 16 bits hold no value .*value_range 0,4095"):
        checked(Record("a", "a.png"), file, b"", Checks(CITYSCAPES))
    example = checked(Record("a", "a.png"), file, b"", Checks(CITYSCAPES, value_range=(0, 4095)))
    np.testing.assert_array_equal(decode_pillow.image(example.image), np.repeat(values[..., None] // 16, 3, -1))
    whole = encoded(Image.fromarray(values * 16), "PNG")
    assert checked(Record("a", "a.png"), whole, b"", Checks(CITYSCAPES)).image == whole  # 16 bits, as they came


def test_plans_of_other_files_are_not_continued(gta5, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    (gta5 / "raw" / "images" / "00007.png").write_text("404")
    with pytest.raises(ValueError, match="00007"):
        prepare_gta5(gta5)
    for kind in ("images", "labels"):
        (gta5 / "raw" / kind / "00007.png").unlink()
        (gta5 / "raw" / kind / "00001.png").unlink()
    folder = prepare_gta5(gta5)
    names = json.loads((folder / "metadata.json").read_text())["names"]["train"]
    assert names == [f"{i:05d}" for i in range(2, 7)]
    assert [example["name"].decode() for example in stored(folder, "gta5", "train")] == names
