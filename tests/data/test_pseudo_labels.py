"""The store of pseudo labels: what is written is read back, nothing half-written counts, nothing foreign mixes in."""

import json

import numpy as np
import pytest
from etils import epath

from proda_jax.data.memory import MemorySource
from proda_jax.data.pseudo_labels import PseudoLabels, with_pseudo_labels

ORIGIN = {"stage": "warmup", "network": {"step": 300, "miou": 41.5}}


@pytest.mark.parametrize("name", ["000001", "aachen/aachen_000000_000019", "a b.c", "../../a", "夜间/" * 40])
def test_labels_are_read_as_they_were_written_and_lie_in_their_folder(tmp_path, name):
    store, generator = PseudoLabels(tmp_path / "labels", ORIGIN), np.random.default_rng(0)
    soft = generator.random((5, 7, 19)).astype(np.float16)
    hard = generator.integers(0, 256, (40, 56)).astype(np.uint8)
    for label in (soft, hard):
        store.write(name, label)
        found = PseudoLabels(tmp_path / "labels", ORIGIN).read(name)
        assert found.dtype == label.dtype
        np.testing.assert_array_equal(found, label)
    assert len(list((tmp_path / "labels").iterdir())) == 2  # with the note of their origin


def test_long_names_that_begin_alike_have_files_of_their_own(tmp_path):
    store, names = PseudoLabels(tmp_path / "labels", ORIGIN), ["a" * 300, "a" * 299 + "b", "a" * 180, "a" * 181]
    for i, name in enumerate(names):
        store.write(name, np.full((2, 2), i, np.uint8))
    assert [store.read(name)[0, 0] for name in names] == [0, 1, 2, 3] and not store.missing(names)


def break_off_writing(monkeypatch) -> None:
    """From here on, files are cut off in the middle."""

    def half(self, contents: bytes) -> None:
        with self.open("wb") as file:
            file.write(contents[: len(contents) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path("a")), "write_bytes", half)


def test_only_whole_files_count_as_present(tmp_path, monkeypatch):
    store = PseudoLabels(tmp_path / "labels", ORIGIN)
    store.write("whole", np.zeros((2, 2), np.uint8))

    break_off_writing(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        store.write("half", np.zeros((2, 2), np.uint8))
    assert store.missing(["whole", "half"]) == ["half"]
    assert store.missing(["whole", "half", "never"]) == ["half", "never"]


def test_a_label_written_over_an_older_one_replaces_it_whole(tmp_path, monkeypatch):
    store = PseudoLabels(tmp_path / "labels", ORIGIN)
    store.write("image", np.full((2, 2), 3, np.uint8))

    break_off_writing(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        store.write("image", np.full((2, 2), 4, np.uint8))
    np.testing.assert_array_equal(store.read("image"), np.full((2, 2), 3))


def test_labels_of_another_origin_are_refused_by_what_differs(tmp_path):
    PseudoLabels(tmp_path / "labels", ORIGIN)
    PseudoLabels(tmp_path / "labels", json.loads(json.dumps(ORIGIN)))  # the same origin is welcome
    other = ORIGIN | {"stage": "stage1", "threshold": 0.95}
    with pytest.raises(ValueError) as refusal:
        PseudoLabels(tmp_path / "labels", other)
    message = str(refusal.value)
    assert str(tmp_path / "labels") in message and "Delete" in message
    for part in ("'stage': ('warmup', 'stage1')", "'threshold': (None, 0.95)"):
        assert part in message
    assert "network" not in message  # which is the same


@pytest.mark.parametrize("damage", ["missing", "cut short", "not an archive", "empty"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage):
    store = PseudoLabels(tmp_path / "labels", ORIGIN)
    store.write("image", np.random.default_rng(0).integers(0, 19, (64, 64)).astype(np.uint8))
    path = store.path("image")
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut short": whole[: len(whole) // 2], "not an archive": b"x" * 100, "empty": b""}[damage])
    with pytest.raises(ValueError) as refusal:
        store.read("image")
    assert str(path) in str(refusal.value) and "give the same command again, which makes it anew" in str(refusal.value)


def test_batches_get_the_labels_of_their_own_records(tmp_path):
    images = np.zeros((5, 32, 32, 3), np.uint8)
    source = MemorySource(images, names=[f"image_{i}" for i in range(5)])
    store = PseudoLabels(tmp_path / "labels", ORIGIN)
    for i, name in enumerate(source.names):
        store.write(name, np.full((32, 32), i, np.uint8))
    plain = source.training_batches(2, seed=3, labels=False)
    batches = with_pseudo_labels(source.training_batches(2, seed=3, labels=False), store, source.names, "hard_label")
    for _, without, batch in zip(range(6), plain, batches, strict=False):
        np.testing.assert_array_equal(batch["record"], without["record"])
        np.testing.assert_array_equal(batch["hard_label"][:, 0, 0], batch["record"])
