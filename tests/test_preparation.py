"""Preparing data sets: what real archives hold, what is refused and how it is named, interruptions, counts."""

import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import fixtures
import numpy as np
import pytest
from PIL import Image

from data_prep import contact_sheet, shards
from data_prep.examples import Checks, Record, checked, encode_png, index_png
from data_prep.prepare import prepare
from data_prep.summary import Summary, class_pixels
from proda_jax.data import decode
from proda_jax.data.label_spaces import CUSTOM, label_map, label_space
from proda_jax.data.pipeline import TfdsSource

ROOT = pathlib.Path(__file__).parents[1]
SIZE = (64, 128)
CITYSCAPES = label_map("cityscapes", label_space("cityscapes19"))


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    return encoded(Image.fromarray(pixels, mode) if mode else Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, shape).astype(np.uint8)


def stored(folder, dataset: str, split: str) -> list[dict]:
    """What a prepared split holds, as it lies there."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def prepare_gta5(root, **checks):
    meaning = label_map("gta5", label_space("cityscapes19"))
    return prepare("gta5", data_dir=str(root / "data"), checks=Checks(meaning, **checks), raw_dir=str(root / "raw"))


@pytest.fixture
def gta5(tmp_path):
    fixtures.write_gta5(tmp_path / "raw", 7, SIZE)
    return tmp_path


# What files may be


def images_of_each_kind() -> dict[str, tuple[bytes, np.ndarray]]:
    """{kind: (file, expected pixels)}"""
    pixels = noise(6, 8, 3)
    grey, palette = pixels[..., 0], Image.fromarray(pixels).quantize(16)
    repeated = np.repeat(grey[..., None], 3, -1)
    return {
        "rgb": (png(pixels), pixels),
        "rgba": (png(np.dstack([pixels, grey])), pixels),
        "grey": (png(grey), repeated),
        "grey with alpha": (encoded(Image.merge("LA", [Image.fromarray(grey)] * 2), "PNG"), repeated),
        "palette": (encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "jpeg": (encoded(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0), pixels),
        "grey jpeg": (encoded(Image.fromarray(grey), "JPEG", quality=100), repeated),
    }


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


def palette_image(values: np.ndarray, colors: int) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * colors).astype(np.uint8).tobytes())
    return image


def labels_of_each_kind() -> dict[str, tuple[bytes, np.ndarray]]:
    """{kind: (file, raw values)}"""
    values = noise(5, 9)
    few, two = values % 4, values % 2
    grey = Image.fromarray(values)
    return {
        "palette of four colours": (encoded(palette_image(few, 4), "PNG"), few),  # Pillow packs them into two bits
        "palette": (encoded(palette_image(values % 200, 200), "PNG"), values % 200),
        "grey": (png(values), values),
        "black and white": (encoded(Image.fromarray(two * 255).convert("1"), "PNG"), two),
        "grey in three channels": (encoded(Image.merge("RGB", [grey] * 3), "PNG"), values),
        "grey with alpha": (encoded(Image.merge("LA", [grey, grey]), "PNG"), values),
    }


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


# What is refused


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
    [("middle", "cut off"), ("end", "cut off"), ("empty", "PNG"), ("text", "PNG")],
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
    with pytest.raises(ValueError, match="choose one of demo, camvid"):
        prepare("kitti", data_dir=str(tmp_path))


# Once, and again


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if "array_record" in path.name}


def test_preparing_twice_does_nothing_the_second_time(gta5):
    folder = prepare_gta5(gta5)
    files = {path: path.stat().st_mtime_ns for path in gta5.rglob("*")}
    assert prepare_gta5(gta5) == folder
    assert files == {path: path.stat().st_mtime_ns for path in gta5.rglob("*")}


@pytest.mark.parametrize("after", [0, 3, 6])
def test_an_interrupted_preparation_goes_on_with_what_is_missing(gta5, monkeypatch, after):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    monkeypatch.setattr(shards, "cores", lambda: 1)
    shutil.copytree(gta5 / "raw", gta5 / "whole" / "raw")
    from data_prep.gta5 import Gta5

    made, example = [], Gta5.example

    def interrupted(self, record):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(record.name)
        return example(self, record)

    monkeypatch.setattr(Gta5, "example", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_gta5(gta5)
    done = after // 2 * 2  # in whole shards
    again = []
    monkeypatch.setattr(Gta5, "example", lambda self, record: (again.append(record.name), example(self, record))[1])
    folder = prepare_gta5(gta5)
    monkeypatch.setattr(Gta5, "example", example)
    expected = contents(prepare_gta5(gta5 / "whole"))
    assert contents(folder) == expected and len(expected) == 4
    assert again == [f"{i:05d}" for i in range(done + 1, 8)]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing unfinished is left


def test_a_repaired_file_is_all_that_a_second_attempt_reads(gta5, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    path = gta5 / "raw" / "images" / "00004.png"
    whole = path.read_bytes()
    path.write_bytes(b"404")
    with pytest.raises(ValueError, match="00004.png"):
        prepare_gta5(gta5)
    unfinished = gta5 / "data" / "gta5" / "2.0.0.unfinished"
    assert len(list(unfinished.glob("*.array_record"))) == 3  # of four
    path.write_bytes(whole)
    assert len(contents(prepare_gta5(gta5))) == 4


def test_files_that_changed_since_an_interruption_are_read_again(gta5, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 1)
    broken, changed = (gta5 / "raw" / "labels" / f"0000{i}.png" for i in (4, 1))
    whole = broken.read_bytes()
    broken.write_bytes(b"404")
    with pytest.raises(ValueError, match="00004.png"):
        prepare_gta5(gta5)
    broken.write_bytes(whole)
    Image.fromarray(np.full(SIZE, 24, np.uint8)).save(changed)  # a person, all over
    folder = prepare_gta5(gta5)
    first = stored(folder, "gta5", "train")[0]
    assert first["label"] == changed.read_bytes()


def test_shards_that_are_gone_are_made_again(gta5, monkeypatch):
    from data_prep.base import SegmentationBuilder

    take_over = SegmentationBuilder._take_over

    def interrupted(self, split, written):
        take_over(self, split, written)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationBuilder, "_take_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_gta5(gta5)
    assert len(stored(prepare_gta5(gta5), "gta5", "train")) == 7


def test_two_preparations_at_once_wait_for_each_other(gta5):
    code = (
        "import sys; from data_prep.prepare import prepare;"
        "prepare('gta5', data_dir=sys.argv[1], raw_dir=sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(gta5 / "data"), str(gta5 / "raw")]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("prepared gta5" in text for text in printed) == 1
    assert len(stored(gta5 / "data" / "gta5" / "2.0.0", "gta5", "train")) == 7


def test_a_data_folder_that_may_only_be_read_is_enough(gta5, monkeypatch):
    folder = prepare_gta5(gta5)

    opened = type(folder).open

    def reading_only(path, mode="r", **options):
        if "r" not in mode:
            raise PermissionError("read-only file system")
        return opened(path, mode, **options)

    monkeypatch.setattr(type(folder), "open", reading_only)
    monkeypatch.setattr(contact_sheet, "is_current", lambda *_: False)
    assert prepare_gta5(gta5) == folder
    with pytest.raises(PermissionError):  # where there is something to do
        prepare("gta5", data_dir=str(gta5 / "other"), raw_dir=str(gta5 / "raw"))


def test_another_raw_folder_or_scale_is_not_taken_for_the_one_that_was_prepared(gta5):
    prepare_gta5(gta5)
    with pytest.raises(ValueError, match="was prepared with raw_dir = .*raw, not .*other: name another data_dir"):
        prepare("gta5", data_dir=str(gta5 / "data"), raw_dir=str(gta5 / "other"))
    with pytest.raises(ValueError, match="was prepared with store_scale = 1.0, not 0.5"):
        prepare_gta5(gta5, store_scale=0.5)
    assert prepare("gta5", data_dir=str(gta5 / "data")) == prepare_gta5(gta5)  # the raw files are not needed again


def test_files_are_stored_byte_for_byte(gta5):
    shutil.rmtree(gta5 / "raw" / "labels")
    (gta5 / "raw" / "labels").mkdir()
    for i in range(1, 8):
        Image.fromarray(noise(*SIZE, below=34)).save(gta5 / "raw" / "labels" / f"{i:05d}.png")
    for example in stored(prepare_gta5(gta5), "gta5", "train"):
        for kind in ("image", "label"):
            assert example[kind] == (gta5 / "raw" / f"{kind}s" / f"{example['name'].decode()}.png").read_bytes()


@pytest.mark.parametrize("depth", [8, 16])
def test_smaller_copies_of_labels_in_colour_and_of_16_bits_keep_their_values(tmp_path, depth):
    values = np.array([[1, 300], [70, 65535]], np.uint16) if depth == 16 else np.array([[1, 30], [70, 255]], np.uint8)
    file = encode_png(values.repeat(2, 0).repeat(2, 1))
    assert file[24] == depth
    example = checked(Record("a", "a", "b"), png(noise(4, 4, 3)), file, Checks(CITYSCAPES, store_scale=0.5))
    np.testing.assert_array_equal(decode.raw_label(example.label, in_color=False), values)
    in_color = label_map("folder", label_space(CUSTOM, ("a",)), [((1, 2, 3), "a")])
    colors = noise(2, 2, 3)
    file = png(colors.repeat(2, 0).repeat(2, 1))
    if depth == 16:
        fixtures.write_png16(tmp_path / "b.png", colors.repeat(2, 0).repeat(2, 1).astype(np.uint16) * 257)
        file = (tmp_path / "b.png").read_bytes()
    example = checked(Record("a", "a", "b"), png(noise(4, 4, 3)), file, Checks(in_color, store_scale=0.5))
    np.testing.assert_array_equal(decode.image(example.label), colors)


def test_values_above_255_count_by_themselves():
    file = encode_png(np.array([[7, 26001], [7, 255]], np.uint16))
    example = checked(Record("a", "a", "b"), png(noise(2, 2, 3)), file, Checks(CITYSCAPES))
    assert example.counts.values == {7: 2, 255: 1, 26001: 1}


def test_a_photograph_as_label_does_not_flood_the_summary():
    in_color = label_map("folder", label_space(CUSTOM, ("a",)), [((1, 2, 3), "a")])
    file = png(noise(100, 100, 3))
    counts = checked(Record("a", "a", "b"), file, file, Checks(in_color)).counts
    assert len(counts.values) <= 1024 and counts.values.total() + counts.others == 10_000


def test_a_smaller_copy_averages_images_and_picks_labels(gta5):
    half = prepare_gta5(gta5, store_scale=0.5)
    source = TfdsSource("gta5", "train", data_dir=str(gta5 / "data"), image_size=(32, 64), label_map=CITYSCAPES)
    memory = source.to_memory(labels=True)
    assert Summary.load(half).splits["train"].sizes == {"128 x 64": 7}  # as they came
    for i, (_, image, label) in enumerate(fixtures.write_gta5(gta5 / "again", 7, SIZE)):
        smaller = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(memory.images[i] - smaller).max() <= 1
        np.testing.assert_array_equal(memory.labels[i], label[1::2, 1::2])


# What is shown of it


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
    file = encoded(Image.fromarray(noise(6, 8, 3)), "JPEG", exif=exif)
    example = checked(Record("a", "a.jpg"), file, b"", Checks(CITYSCAPES))
    assert example.counts.rotated == 1 and dict(example.counts.sizes) == {"8 x 6": 1}


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
