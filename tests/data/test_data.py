"""Data sources and builders: order, content against Pillow and the drawn truth, refusals."""

import itertools
import shutil

import fixtures
import numpy as np
import pytest
from PIL import Image

from proda_jax.data import memory, prepared
from proda_jax.data.label_spaces import IGNORE, label_map, label_space
from proda_jax.data.memory import MemorySource
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data.source import example_order, ordered_records, training_records
from proda_jax.data_prep.prepare import prepare
from proda_jax.data_prep.records import load as load_records
from proda_jax.data_prep.summary import Summary

SIZE = (64, 128)


def _memory(count: int = 7) -> MemorySource:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    return MemorySource(images, images[..., 0] + 100)


def _records(batches, count):
    return [batch["record"].tolist() for batch in itertools.islice(batches, count)]


def _same(batch: dict, other: dict) -> None:
    assert batch.keys() == other.keys()
    for key in batch:
        assert batch[key].dtype == other[key].dtype
        np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture(scope="module")
def gta5(tmp_path_factory):
    root = tmp_path_factory.mktemp("gta5")
    truth = fixtures.write_gta5(root / "raw", 5, SIZE, odd_sizes=True)
    prepare("gta5", data_dir=str(root / "data"), raw_dir=str(root / "raw"))
    return root, truth


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    truth = fixtures.write_cityscapes(root / "raw", train=5, val=2, size=SIZE, train_labels=False)
    prepare("cityscapes", data_dir=str(root / "data"), raw_dir=str(root / "raw"))
    return root, truth


def _open(dataset, root, split="train", size=SIZE, space="cityscapes19"):
    meaning = label_map(dataset, label_space(space))
    return TfdsSource(dataset, split, data_dir=str(root / "data"), image_size=size, label_map=meaning, threads=2)


# The order of records.


def test_an_epoch_has_every_record_once_and_depends_on_seed_and_epoch_alone():
    order = example_order(3, 1, 50)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(50))
    np.testing.assert_array_equal(order, example_order(3, 1, 50))
    assert (order != example_order(3, 2, 50)).any() and (order != example_order(4, 1, 50)).any()


def test_training_batches_run_through_epochs_without_losing_or_repeating_a_record():
    seen = sum(_records(_memory(7).training_batches(3, seed=1, labels=False), 14), [])
    for epoch in range(6):
        assert seen[7 * epoch : 7 * epoch + 7] == example_order(1, epoch, 7).tolist()


@pytest.mark.parametrize("step", [1, 5, 10_000_000])
def test_starting_at_a_step_gives_what_an_uninterrupted_run_sees_there(step):
    size, batch_size = 7, 4
    resumed = next(training_records(size, batch_size, seed=2, first_step=step))
    places = range(step * batch_size, (step + 1) * batch_size)
    assert resumed.tolist() == [example_order(2, n // size, size)[n % size] for n in places]
    if step < 100:
        straight = training_records(size, batch_size, seed=2)
        np.testing.assert_array_equal(resumed, next(itertools.islice(straight, step, None)))


def test_a_batch_larger_than_the_data_set_spans_several_epochs():
    records = next(training_records(3, 8, seed=0))
    assert records.tolist() == [*example_order(0, 0, 3), *example_order(0, 1, 3), *example_order(0, 2, 3)[:2]]


def test_hosts_together_see_the_global_batch_in_order():
    source = _memory(7)
    whole = _records(source.training_batches(6, seed=5, first_step=2, labels=False), 4)
    shares = [_records(source.training_batches(6, seed=5, first_step=2, labels=False, shard=(i, 3)), 4)
              for i in range(3)]  # fmt: skip
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("batch_size, shard", [(6, (0, 4)), (0, (0, 1)), (4, (2, 2))])
def test_a_batch_that_hosts_cannot_share_is_refused(batch_size, shard):
    with pytest.raises(ValueError, match="cannot be shared"):
        _memory().training_batches(batch_size, seed=0, labels=False, shard=shard)


def test_ordered_batches_hold_every_record_once_and_pad_with_record_zero():
    batches = list(_memory(7).ordered_batches(3, labels=True))
    assert [b["record"].tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6, -1, -1]]
    assert batches[-1]["image"][:, 0, 0, 0].tolist() == [6, 0, 0]
    assert batches[-1]["label"][:, 0, 0].tolist() == [106, 100, 100]
    assert all(b["record"].dtype == np.int32 for b in batches)
    assert sum(1 for _ in ordered_records(6, 3)) == 2


def test_memory_source_without_labels_gives_none_and_refuses_to():
    images = _memory().images
    source = MemorySource(images)
    assert set(next(source.training_batches(2, seed=0, labels=False))) == {"image", "record"}
    with pytest.raises(ValueError, match="has none"):
        source.ordered_batches(2, labels=True)
    with pytest.raises(ValueError, match="as many different names"):
        MemorySource(images, names=["a"] * len(images))


@pytest.mark.parametrize(("free", "refused"), [(None, False), (10**9, False), (10_000, True)])
def test_images_are_held_where_memory_has_room_and_refused_before_any_is_read(free, refused, monkeypatch):
    monkeypatch.setattr(memory.memory, "free", lambda: free)
    read = []

    def examples():
        for i in range(3):
            read.append(i)
            yield {"image": np.full((40, 50, 3), i, np.uint8), "label": np.full((40, 50), i, np.uint8)}

    if refused:
        with pytest.raises(ValueError, match="3 images of x take 0.0 GB of memory, of which 0.0 are free"):
            memory.held(examples(), ["a", "b", "c"], (40, 50), "x", labels=True)
        assert not read
        return
    source = memory.held(examples(), ["a", "b", "c"], (40, 50), "x", labels=True)
    assert source.images.base is None and source.images[2, 0, 0, 0] == source.labels[2, 0, 0] == 2


def test_own_labels_of_the_images_size_are_not_held_twice():
    examples = [{"image": np.zeros((4, 5, 3), np.uint8), "label": np.zeros((4, 5), np.uint8),
                 "own_label": np.ones(size, np.uint8)} for size in ((4, 5), (8, 10))]  # fmt: skip
    source = memory.held(examples, ["a", "b"], (4, 5), "x", labels=True, own_labels=True)
    assert np.shares_memory(source.own_labels[0], source.labels) and source.own_labels[1].shape == (8, 10)


# Data sets on disk.


@pytest.mark.smoke("data")
def test_tfds_and_memory_sources_give_identical_batches(gta5):
    source = _open("gta5", gta5[0])
    memory = source.to_memory(labels=True)
    assert memory.names == source.names
    for settings in [dict(seed=1), dict(seed=1, first_step=9), dict(seed=4, first_step=2, shard=(1, 2))]:
        pairs = zip(source.training_batches(4, labels=True, **settings),
                    memory.training_batches(4, labels=True, **settings), strict=False)  # fmt: skip
        for batch, other in itertools.islice(pairs, 4):
            _same(batch, other)
    for batch, other in zip(
        source.ordered_batches(3, labels=False), memory.ordered_batches(3, labels=False), strict=True
    ):
        _same(batch, other)


def test_gta5_palette_labels_are_read_as_indices_and_images_as_stored(gta5):
    root, truth = gta5
    memory = _open("gta5", root).to_memory(labels=True)
    for i, (name, image, label) in list(enumerate(truth))[2:]:
        assert memory.names[i] == name
        np.testing.assert_array_equal(memory.images[i], image)
        np.testing.assert_array_equal(memory.labels[i], label)


def test_gta5_image_of_another_size_is_resized_with_antialiasing(gta5):
    root, truth = gta5
    _, image, label = truth[0]
    assert image.shape[:2] != SIZE
    memory = _open("gta5", root).to_memory(labels=True)
    resized = np.asarray(Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(memory.images[0] - resized).max() <= 1
    nearest = np.asarray(Image.fromarray(label).resize(SIZE[::-1], Image.Resampling.NEAREST))
    assert (memory.labels[0] == nearest).mean() > 0.999


def test_gta5_label_of_another_size_than_its_image_is_resized_without_mixing_classes(gta5):
    root, truth = gta5
    memory = _open("gta5", root).to_memory(labels=True)
    np.testing.assert_array_equal(memory.labels[1], truth[1][2][::2, ::2].repeat(2, 0).repeat(2, 1))


def test_synthia_class_is_the_first_channel_of_16_bits(tmp_path):
    truth = fixtures.write_synthia(tmp_path / "raw", 3, SIZE)
    prepare("synthia", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    memory = _open("synthia", tmp_path, space="synthia16").to_memory(labels=True)
    train_ids = np.full(256, IGNORE, np.uint8)
    train_ids[[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]] = range(16)  # 19 without terrain, truck, train
    for i, (name, image, label) in enumerate(truth):
        assert memory.names[i] == name
        np.testing.assert_array_equal(memory.images[i], image)
        np.testing.assert_array_equal(memory.labels[i], train_ids[label])


def test_cityscapes_without_training_labels_is_an_unlabelled_split(cityscapes):
    root, truth = cityscapes
    source = _open("cityscapes", root)
    assert source.names == tuple(name for name, _, _ in truth["train"])
    assert not source.labelled
    memory = source.to_memory(labels=False)
    np.testing.assert_array_equal(memory.images, [image for _, image, _ in truth["train"]])
    with pytest.raises(ValueError, match="cityscapes/train were asked for"):
        source.training_batches(2, seed=0, labels=True)
    val = _open("cityscapes", root, "val").to_memory(labels=True)
    np.testing.assert_array_equal(val.labels, [label for _, _, label in truth["val"]])


def test_camvid_is_split_by_the_time_of_day_and_by_sequence(tmp_path):
    truth = fixtures.write_camvid(tmp_path / "raw", dusk_train_labels=False)
    truth["day_train_0006R0"] = truth["day_train"]  # the only sequence by day
    (name, image, label), *_ = fixtures.write_camvid(tmp_path / "other", day=1)["day_train"]
    for folder in ("train", "trainannot"):  # and a second one
        (tmp_path / "other" / folder / f"{name}.png").rename(tmp_path / "raw" / folder / "0016E5_00001.png")
    truth["day_train_0016E5"] = [("0016E5_00001", image, label)]
    truth["day_train"] = [*truth["day_train"], *truth["day_train_0016E5"]]
    prepare("camvid", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    for split, records in truth.items():
        source = _open("camvid", tmp_path, split, (48, 64), "camvid11")
        assert source.names == tuple(name for name, _, _ in records)
        assert source.labelled == (split != "dusk_train")
    memory = _open("camvid", tmp_path, "dusk_test", (48, 64), "camvid11").to_memory(labels=True)
    road, sky, car = (records[0][2] == i for records in [truth["dusk_test"]] for i in (0, 10, 13))
    assert set(memory.labels[0][road]) == {3}
    assert set(memory.labels[0][sky]) <= {0} and set(memory.labels[0][car]) <= {8}


# Refusals.


def test_a_data_set_that_is_not_prepared_is_refused_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m data_prep\.prepare --dataset=gta5"):
        _open("gta5", tmp_path)


def test_an_unknown_split_is_refused_with_the_choices(cityscapes):
    with pytest.raises(ValueError, match="'tset'; choose one of train, val"):
        _open("cityscapes", cityscapes[0], "tset")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_record_file_is_named_with_the_remedy(gta5, tmp_path, damage):
    shutil.copytree(gta5[0] / "data", tmp_path / "data")
    path = next((tmp_path / "data").rglob("*array_record*"))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[100:5000] = bytes(4900)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"delete .*gta5/2\.0\.0 and give the same command again"):
        _open("gta5", tmp_path).to_memory(labels=True)


@pytest.mark.parametrize("note", ["dataset_info.json", "metadata.json", "summary.json", "records.jsonl.gz"])
def test_a_flipped_bit_in_a_note_of_a_prepared_copy_is_named_or_changes_nothing(gta5, tmp_path, note):
    shutil.copytree(gta5[0] / "data", tmp_path / "data")
    folder = next((tmp_path / "data").rglob(note)).parent

    def noted() -> tuple:
        copy = prepared.Prepared(folder)
        return copy.splits, copy.metadata, Summary.load(folder), load_records(folder)

    whole, contents, refused = noted(), (folder / note).read_bytes(), 0
    for place in range(0, len(contents), 5):
        changed = bytes([contents[place] ^ 1 << place % 8])
        (folder / note).write_bytes(contents[:place] + changed + contents[place + 1 :])
        try:
            assert noted() == whole, (place, changed)
        except ValueError as error:
            assert str(folder) in str(error) and "give the same command again" in str(error)
            refused += 1
    assert refused > 20
