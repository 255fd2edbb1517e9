"""Preparing twice, after an interruption, at the same time, and into smaller copies."""

import json
import os
import shutil
import subprocess

import fixtures
import numpy as np
import pytest
from command import python
from PIL import Image
from raw_files import CITYSCAPES, ROOT, SIZE, noise, png, prepare_gta5, stored

from proda_jax.configs import base
from proda_jax.data import decode
from proda_jax.data.label_spaces import CUSTOM, label_map, label_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data_prep import contact_sheet, shards
from proda_jax.data_prep.examples import Checks, checked
from proda_jax.data_prep.png import encode_png
from proda_jax.data_prep.prepare import prepare
from proda_jax.data_prep.records import Record
from proda_jax.data_prep.summary import Summary
from proda_jax.run.sources import Sources


@pytest.fixture
def gta5(tmp_path):
    fixtures.write_gta5(tmp_path / "raw", 7, SIZE)
    return tmp_path


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
    from proda_jax.data_prep.gta5 import Gta5

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
    from proda_jax.data_prep.writing import Builder

    take_over = Builder._take_over

    def interrupted(self, split, written):
        take_over(self, split, written)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "_take_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_gta5(gta5)
    assert len(stored(prepare_gta5(gta5), "gta5", "train")) == 7


def test_a_disk_that_fills_up_is_named_and_preparing_goes_on_when_there_is_room(gta5, small_disk):
    free, filler = os.statvfs(small_disk), small_disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))

    def prepared():
        return prepare("gta5", data_dir=str(small_disk / "data"), raw_dir=str(gta5 / "raw"))

    with pytest.raises(OSError, match=r"array_record could not be written .*No space left.*give the same command"):
        prepared()
    assert not list((small_disk / "data").rglob("*.tmp"))
    filler.unlink()
    assert len(stored(prepared(), "gta5", "train")) == 7


def test_the_disk_is_not_blamed_for_what_it_did_not_do(gta5, monkeypatch):
    from proda_jax.data_prep.gta5 import Gta5

    def failing(self, record):
        raise RuntimeError("something else")

    monkeypatch.setattr(Gta5, "example", failing)
    with pytest.raises(RuntimeError, match="^something else$"):
        prepare_gta5(gta5)


def test_two_preparations_at_once_wait_for_each_other(gta5):
    code = (
        "import sys; from proda_jax.data_prep.prepare import prepare;"
        "prepare('gta5', data_dir=sys.argv[1], raw_dir=sys.argv[2])"
    )
    command = [*python(), "-c", code, str(gta5 / "data"), str(gta5 / "raw")]
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
    with pytest.raises(ValueError, match="cannot be written to"):  # where there is something to do
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
def test_copies_of_smaller_images_have_labels_as_they_came(tmp_path, depth):
    values = np.array([[1, 300], [70, 65535]], np.uint16) if depth == 16 else np.array([[1, 30], [70, 255]], np.uint8)
    file = encode_png(values)
    assert file[24] == depth
    example = checked(Record("a", "a", "b"), png(noise(4, 4, 3)), file, Checks(CITYSCAPES, store_scale=0.5))
    np.testing.assert_array_equal(decode.raw_label(example.label, in_color=False), values)
    in_color = label_map("folder", label_space(CUSTOM, ("a",)), [((1, 2, 3), "a")])
    colors = noise(2, 2, 3)
    file = png(colors)
    if depth == 16:
        fixtures.write_png16(tmp_path / "b.png", colors.astype(np.uint16) * 257)
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


def test_a_smaller_copy_averages_images_and_keeps_labels(gta5):
    half = prepare_gta5(gta5, store_scale=0.5)
    source = TfdsSource("gta5", "train", data_dir=str(gta5 / "data"), image_size=(32, 64), label_map=CITYSCAPES)
    memory = source.to_memory(labels=True)
    assert Summary.load(half).splits["train"].sizes == {"128 x 64": 7}  # as they came
    for i, (_, image, label) in enumerate(fixtures.write_gta5(gta5 / "again", 7, SIZE)):
        smaller = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(memory.images[i] - smaller).max() <= 1
        np.testing.assert_array_equal(memory.labels[i], label[1::2, 1::2])
    scored = [batch["label"][0] for batch in source.scored_batches(1)]
    np.testing.assert_array_equal(scored[6], label)


def test_scores_are_not_at_labels_that_an_older_version_stored_smaller(gta5, tmp_path):
    folder = prepare_gta5(gta5, store_scale=0.5)
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["label_scale"], metadata["digest"], metadata["index"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    c = base.get_config()
    c.data.data_dir, c.data.store_scale = str(gta5 / "data"), 0.5
    c.data.validation = base.dataset("gta5", "train", SIZE)
    c.data.validation.raw_dir = str(gta5 / "raw")
    with pytest.raises(ValueError, match=r"labels at 0.5 of their size.*--config.evaluate_at=image_size"):
        Sources(c, tmp_path).open("validation")
    c.evaluate_at = "image_size"
    assert Sources(c, tmp_path).open("validation").labelled
