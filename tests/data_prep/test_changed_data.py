"""Raw files that changed or moved since they were prepared."""

import io
import os
import shutil

import fixtures
import numpy as np
import pytest
from PIL import Image
from raw_files import CITYSCAPES, SIZE, prepare_gta5, stored

from proda_jax.configs import base
from proda_jax.data_prep import changes
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.gta5 import Gta5
from proda_jax.data_prep.prepare import prepare
from proda_jax.run.sources import Sources


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Raw GTA5 of five images, prepared."""
    root = tmp_path_factory.mktemp("gta5")
    fixtures.write_gta5(root / "raw", 5, SIZE)
    prepare_gta5(root)
    return root


@pytest.fixture
def gta5(original, tmp_path, monkeypatch):
    """A copy of both, at the same place as far as they know; and the names of images that are read from now on."""
    for part in ("raw", "data"):
        shutil.copytree(original / part, tmp_path / part, copy_function=shutil.copy2)
    assert prepare("gta5", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))  # adopted
    read, example = [], Gta5.example
    monkeypatch.setattr(Gta5, "example", lambda self, record: (read.append(record.name), example(self, record))[1])
    return tmp_path, read


def change(raw) -> None:
    """One image more, one fewer, one other, and one that is written again as it was."""
    for kind in ("images", "labels"):
        shutil.copy2(raw / kind / "00001.png", raw / kind / "00009.png")
        (raw / kind / "00002.png").unlink()
        path = raw / kind / "00004.png"
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    Image.fromarray(np.full(SIZE, 24, np.uint8)).save(raw / "labels" / "00003.png")


def update(root):
    return prepare("gta5", data_dir=str(root / "data"), raw_dir=str(root / "raw"), update=True)


def test_the_same_command_brings_a_copy_up_to_date_and_keeps_what_is_unchanged(gta5, capsys):
    root, read = gta5
    change(root / "raw")
    folder = update(root)
    assert sorted(read) == ["00003", "00009"]
    assert "1 more (such as train/00009), 1 fewer (such as train/00002), 1 changed (such as train/00003)" in (
        capsys.readouterr().err)  # fmt: skip
    found = stored(folder, "gta5", "train")
    assert [example["name"].decode() for example in found] == ["00001", "00003", "00004", "00005", "00009"]
    for example in found:
        for kind in ("image", "label"):
            path = root / "raw" / f"{kind}s" / f"{example['name'].decode()}.png"
            with Image.open(path) as image:
                expected = np.asarray(image)
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(example[kind]))), expected)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    read.clear()
    assert update(root) == folder and not read  # nothing is left to do


def test_an_update_that_was_killed_leaves_the_copy_and_goes_on(gta5, monkeypatch):
    root, read = gta5
    change(root / "raw")
    counted = Gta5.example

    def killed(self, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(Gta5, "example", killed)
    with pytest.raises(KeyboardInterrupt):
        update(root)
    monkeypatch.setattr(Gta5, "example", counted)
    assert len(stored(root / "data" / "gta5" / "2.0.0", "gta5", "train")) == 5
    assert len(stored(update(root), "gta5", "train")) == 5 and sorted(read) == ["00003", "00009"]


def test_a_run_says_that_its_copy_is_of_before(gta5, tmp_path, capsys):
    root, read = gta5
    change(root / "raw")
    c = base.get_config()
    c.data.data_dir, c.data.source.raw_dir = str(root / "data"), str(root / "raw")
    c.data.source.image_size, c.data.allow = SIZE, ("absent_classes",)
    source = Sources(c, tmp_path).open("source")
    assert len(source) == 5 and not read
    said = capsys.readouterr().err
    assert "is of before its raw files changed: 1 more" in said and "2 changed" in said and "data_prep.prepare" in said


@pytest.mark.parametrize("copied", [False, True])
def test_raw_files_that_moved_are_adopted(gta5, copied):
    root, read = gta5
    shutil.move(root / "raw", root / "moved")
    if copied:  # without their times
        for path in (root / "moved").rglob("*.png"):
            os.utime(path, (1, 1))
    prepare("gta5", data_dir=str(root / "data"), raw_dir=str(root / "moved"))
    assert not read
    moved = Gta5(checks=Checks(CITYSCAPES), raw_dir=str(root / "moved"))
    assert not changes.Copy(root / "data" / "gta5" / "2.0.0", moved).changes()


def test_other_files_in_another_folder_are_not_adopted(gta5):
    root, _ = gta5
    shutil.move(root / "raw", root / "other")
    change(root / "other")
    with pytest.raises(ValueError, match="was prepared with raw_dir = .*raw, not .*other"):
        prepare("gta5", data_dir=str(root / "data"), raw_dir=str(root / "other"), update=True)


def test_raw_files_may_go(gta5, capsys):
    root, read = gta5
    shutil.rmtree(root / "raw" / "images")
    folder = update(root)
    assert len(stored(folder, "gta5", "train")) == 5 and not read
    shutil.rmtree(root / "raw")
    assert update(root) == folder and "changed" not in capsys.readouterr().err
