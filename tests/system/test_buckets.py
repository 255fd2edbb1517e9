"""Paths in a bucket: raw files, prepared data, pseudo labels and weights, in a bucket that is a local folder."""

import fixtures
import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fake_bucket import FakeBucket
from runs import segmenter

import proda_jax
from proda_jax.data.label_spaces import label_map, label_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data.pseudo_labels import PseudoLabels
from proda_jax.data_prep.prepare import prepare
from proda_jax.models.weights.contents import Weights
from proda_jax.models.weights.files import load, save
from proda_jax.system import files

SIZE = (32, 64)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder behind gs://bucket; the program's working folder and cache are elsewhere."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(backend, "tf_backend", FakeBucket(tmp_path / "bucket"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "bucket"
    assert list((tmp_path / "here").iterdir()) == []  # nothing took gs:// for the name of a local folder


def test_data_are_prepared_in_a_bucket_and_read_from_a_copy(bucket):
    truth = fixtures.write_gta5(bucket / "raw", 3, SIZE)
    folder = prepare("gta5", data_dir="gs://bucket/data", raw_dir="gs://bucket/raw")
    assert str(folder) == "gs://bucket/data/gta5/2.0.0"
    names = {path.name for path in (bucket / "data" / "gta5" / "2.0.0").iterdir()}
    assert {"summary.json", "contact_sheet.png", "dataset_info.json"} <= names
    meaning = label_map("gta5", label_space("cityscapes19"))
    source = TfdsSource("gta5", "train", data_dir="gs://bucket/data", image_size=SIZE, label_map=meaning)
    memory = source.to_memory(labels=True)
    np.testing.assert_array_equal(memory.images, [image for _, image, _ in truth])
    np.testing.assert_array_equal(memory.labels, [label for _, _, label in truth])
    assert prepare("gta5", data_dir="gs://bucket/data", raw_dir="gs://bucket/raw") == folder


def test_the_copy_is_made_once_and_mended_where_it_is_not_whole(bucket):
    folder = epath.Path("gs://bucket/data")
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(name * 10)
    copy = files.local_copy(folder)
    assert not files.is_remote(copy) and (copy / "a").read_text() == "a" * 10
    times = (copy / "a").stat().mtime
    (copy / "b").write_text("bb")
    assert files.local_copy(folder) == copy
    assert (copy / "b").read_text() == "b" * 10 and (copy / "a").stat().mtime == times
    assert files.local_copy(bucket) == epath.Path(bucket)  # what is local stays where it is


def test_pseudo_labels_lie_in_a_bucket(bucket):
    store = PseudoLabels("gs://bucket/run/soft_labels", {"stage": "warmup"})
    for label in (np.ones((3, 4, 5), np.float16), np.ones((30, 40), np.uint8)):
        store.write("aachen/000001", label)
        np.testing.assert_array_equal(PseudoLabels("gs://bucket/run/soft_labels", {"stage": "warmup"}).read(
            "aachen/000001"), label)  # fmt: skip
    assert store.missing(["aachen/000001", "b"]) == ["b"]
    assert (bucket / "run" / "soft_labels" / "aachen%2F000001.npz").exists()


def test_a_pretrained_network_lies_in_a_bucket(bucket):
    original = segmenter()
    for _ in range(2):  # the second replaces the first
        original.save_pretrained("gs://bucket/shared/network")
    assert len(list((bucket / "shared" / "network").iterdir())) == 3
    opened = proda_jax.load("gs://bucket/shared/network")
    jax.tree.map(np.testing.assert_array_equal, opened.network[1], original.network[1])
    (bucket / "shared" / "other").mkdir()
    (bucket / "shared" / "other" / "notes").write_text("")
    with pytest.raises(ValueError, match="gs://bucket/shared/other holds something else"):
        original.save_pretrained("gs://bucket/shared/other")


def test_weights_lie_in_a_bucket(bucket):
    arrays = {"layer1.0.conv1.weight": np.ones((4, 4, 1, 1), np.float32)}
    save(Weights(arrays), "gs://bucket/weights.npz")
    with pytest.raises(ValueError, match="gs://bucket/weights.npz"):  # it is read, and is no whole backbone
        load("gs://bucket/weights.npz")
    with pytest.raises(ValueError, match="gs://bucket/absent.npz"):
        load("gs://bucket/absent.npz")
