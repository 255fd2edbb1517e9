"""Damaged and missing files of a workdir, and disks that are full."""

import json
import os
import re
import shutil

import orbax.checkpoint as ocp
import pytest
from survival import At, assert_same_end, checkpoint_of, checkpoints_in, config_of, interrupt, largest, run, truncate


def flip(path):
    """Changes one bit in the middle of a file."""
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 16
    path.write_bytes(contents)


DAMAGE = {
    "a bit flipped": lambda folder: flip(largest(folder)),
    "largest file cut": lambda folder: truncate(largest(folder)),
    "largest file gone": lambda folder: largest(folder).unlink(),
    "no training state": lambda folder: shutil.rmtree(folder / "training"),
    "nothing in it": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A workdir whose first stage was interrupted in its last step: tests copy it."""
    workdir = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        run(workdir, config_of(), At(config_of(), "source", 4, interrupt))
    return workdir


@pytest.mark.parametrize("damage", [
    pytest.param(name, marks=[pytest.mark.slow] * (name == "largest file gone")) for name in DAMAGE
])  # fmt: skip
def test_a_damaged_checkpoint_is_put_aside_for_an_older_one(damage, begun, whole, tmp_path, capsys):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](tmp_path / "source" / "checkpoints" / "3")
    assert_same_end(tmp_path, whole)
    printed = capsys.readouterr()
    assert f"{tmp_path}/source/checkpoints/3 cannot be read" in printed.out and "put aside as 3.damaged" in printed.out
    assert "TensorStore" not in printed.out and "Traceback" not in printed.err


def test_a_stage_without_a_checkpoint_that_can_be_read_says_what_to_delete(begun, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    for step in ("2", "3"):
        truncate(largest(tmp_path / "source" / "checkpoints" / step))
    for _ in range(2):  # nothing is put aside: it might be the disk that cannot be read for a while
        with pytest.raises(ValueError, match=rf"no checkpoint in {tmp_path}/source/checkpoints .*, 3, .*: .*delete"):
            run(tmp_path, config_of())
    assert checkpoints_in(tmp_path / "source") == ["2", "3"]


def test_a_damaged_best_network_is_not_looked_for_among_older_ones(tmp_path, monkeypatch):
    config = config_of(handover="best", evaluate_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, "stage1", 1, interrupt))
    best = json.loads((tmp_path / "source" / "result.json").read_text())["best"]["step"]
    truncate(largest(tmp_path / "source" / "checkpoints" / str(best) / "network"))
    shutil.rmtree(tmp_path / "stage1")
    with pytest.raises(ValueError, match=rf"checkpoints/{best} cannot be read .*: delete {tmp_path}/source to train"):
        run(tmp_path, config)


def cut_short(path) -> None:
    path.write_text(path.read_text()[:-5])


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("source/settings.json", "is damaged .*: delete .*source to run this stage again"),
        ("source/result.json", "is damaged .*: delete it, and give the same command again"),
        ("stage1/history.jsonl", "is damaged: delete it, which forgets what is in it"),
        ("stage1/metrics.jsonl", "is damaged: delete it, which forgets what is in it"),
        ("source/soft_labels_8/origin.json", "is damaged .*: delete .*soft_labels_8, and what it holds is made again"),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(file, told, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "stage1" / "result.json").unlink()
    cut_short(tmp_path / "run" / file)
    with pytest.raises(ValueError, match=f"{file} {told}"):
        run(tmp_path / "run", config_of())


def test_checkpoints_whose_settings_are_gone_are_refused(whole, tmp_path):
    shutil.copytree(whole[0] / "source", tmp_path / "source")
    (tmp_path / "source" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings.json is missing.*delete .*source"):
        run(tmp_path, config_of())


def test_scores_prototypes_and_snapshots_that_are_damaged_or_gone_are_made_again(whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    stage = tmp_path / "run" / "stage1"
    (stage / "result.json").unlink()
    (stage / "history.jsonl").unlink()
    for file in (stage / "initial_prototypes.npz", stage / "snapshots" / "0.npz", tmp_path / "run" / "samples.npz"):
        truncate(file)
    (stage / "snapshots" / "4.npz").unlink()
    for metrics in (stage / "checkpoints").glob("*/metrics/metrics"):
        cut_short(metrics)
    assert_same_end(tmp_path / "run", whole, "source", "stage1")
    assert "metrics is damaged: the score of this checkpoint is forgotten" in capsys.readouterr().out


def test_a_damaged_network_that_is_handed_on_is_made_again(whole, tmp_path):
    original, _ = whole
    shutil.copytree(original / "source", tmp_path / "source")
    truncate(largest(tmp_path / "source" / "checkpoints" / "4" / "network"))
    with pytest.raises(ValueError, match=r"checkpoints/4 cannot be read .*: delete .*source/result.json"):
        run(tmp_path, config_of())
    (tmp_path / "source" / "result.json").unlink()
    assert_same_end(tmp_path, whole)


def test_halves_of_checkpoints_that_a_kill_left_behind_are_removed(begun, whole, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    half = tmp_path / "source" / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "source" / "checkpoints" / "3", half)
    assert_same_end(tmp_path, whole)
    assert not half.exists()


# Full disks, and folders that nothing can be written to


def test_snapshots_that_cannot_be_written_are_named_and_training_goes_on(whole, tmp_path, capsys):
    for name in ("source", "stage1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "snapshots").write_text("a file where the folder should be")
    original, results = whole
    assert run(tmp_path, config_of()) == results
    assert checkpoint_of(tmp_path / "stage1") == checkpoint_of(original / "stage1")
    told = f"reports will do without this one: {tmp_path}/stage1/snapshots/0.npz could not be written ("
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "left",
    [pytest.param(200_000, id="in the background"), pytest.param(0, id="at once", marks=pytest.mark.slow)],
)
def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint_and_the_run_goes_on_when_there_is_room(
    left, whole, small_disk
):
    """A real one. With some room left, records fit and a checkpoint of which Orbax writes the arrays later does not."""
    filler, workdir = small_disk / "filler", small_disk / "run"

    def fill():
        free = os.statvfs(small_disk)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - left))

    with pytest.raises(OSError, match=r"could not be written .*No space left on device.*give the same") as error:
        run(workdir, config_of(), At(config_of(), "source", 3, fill))
    # the checkpoint of step 2 may have been on its way, and then it can be a record that finds no room
    good = [int(name) for name in checkpoints_in(workdir / "source") if name.isdigit()]
    assert good in ([1], [1, 2])
    stage = workdir / "source"
    checkpoint = rf"a checkpoint could not be written to {stage}/checkpoints .*that of step {max(good)} is good"
    assert re.match(rf"{checkpoint}|{stage}/(metrics|history)\.jsonl could not", str(error.value))
    assert not list(workdir.rglob("*.tmp"))
    filler.unlink()
    assert_same_end(workdir, whole, "source", "stage1")
    assert checkpoints_in(workdir / "source") == ["3", "4"]


def test_a_checkpoint_that_cannot_be_begun_leaves_the_one_before_it(whole, tmp_path, monkeypatch):
    save = ocp.CheckpointManager.save

    def full(self, step, *args, **kwargs):
        if step == 3:
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path, config_of())
    assert checkpoints_in(tmp_path / "source") == ["1", "2"]
    assert_same_end(tmp_path, whole)
