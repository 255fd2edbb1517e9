"""`--mode=status`: what a workdir holds, read without changing it, in any state that a run can leave it in."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from command import run_main

from proda_jax.configs import base, demo
from proda_jax.data.translations import Translations
from proda_jax.report import score_tables as tables
from proda_jax.report import status
from proda_jax.report.inspection import inspect
from proda_jax.report.score_tables import score_title
from proda_jax.system import files

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = """
import sys
from proda_jax.system.files import alone
with alone(sys.argv[1], "", wait=False):
    print("holding", flush=True)
    sys.stdin.read()
"""


def write_lines(path: pathlib.Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_checkpoint(folder: pathlib.Path, step: int, *items: str) -> None:
    for item in items or ("network", "training"):
        (folder / str(step) / item / "d").mkdir(parents=True)
        for name in ("_METADATA", "manifest.ocdbt", "d/0"):
            (folder / str(step) / item / name).write_bytes(b"{}")


def write_labels(folder: pathlib.Path, count: int) -> None:
    folder.mkdir(parents=True)
    (folder / "origin.json").write_text("{}")
    (folder / "half.npz.1.2.tmp").write_text("")
    for i in range(count):
        (folder / f"{i}.npz").write_bytes(files.npz(label=np.zeros((2, 2), np.uint8)))


def entry(step: int, seconds: float, miou: float | None = None) -> dict:
    return {"step": step, "seconds": seconds} | ({} if miou is None else {"miou": miou, "iou": {}})


@pytest.fixture
def workdir(tmp_path):
    """A run of the demo that is in stage 1: two stages complete, step 80 of 150 logged, the last checkpoint at 75."""
    config = demo.get_config("scratch")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    for name, steps, last, best in (("source", 600, 26.5, 27.25), ("warmup", 150, 30.0, 30.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({f"{name}.steps": steps, f"{name}.kind": "supervised"}))
        write_lines(folder / "history.jsonl", [entry(steps // 2, 30.0, best), entry(steps, 61.0, last)])
        result = {"name": name, "steps": steps, "seconds": 61.0, "best": entry(steps // 2, 0, best)}
        (folder / "result.json").write_text(json.dumps(result | {"last": entry(steps, 0, last)}))
        write_checkpoint(folder / "checkpoints", steps)
    folder = tmp_path / "stage1"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"stage1.steps": 150, "stage1.kind": "denoise"}))
    metrics = [
        {"step": step, "seconds": 2.0 * step, "images_per_second": 8.25, "source_ce": 0.5, "target_fit": None,
         "gradient_norm": 2.0, "skipped": 0}
        for step in range(10, 81, 10)
    ]
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "history.jsonl", [entry(50, 100.0, 31.5)])
    write_checkpoint(folder / "checkpoints", 50)
    write_checkpoint(folder / "checkpoints", 75)
    (folder / "initial_prototypes.npz").write_bytes(files.npz(vectors=np.ones((3, 4)), counts=np.ones(3)))
    write_labels(tmp_path / "warmup" / "soft_labels_4_flipped", 60)
    prepared = tmp_path / "data" / "demo" / "2.0.0"
    prepared.mkdir(parents=True)
    splits = [{"name": "target_train", "shardLengths": ["40", "20"]}, {"name": "target_val", "shardLengths": ["9"]}]
    (prepared / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    return tmp_path


@contextlib.contextmanager
def running(workdir: pathlib.Path):
    """Another process runs in the workdir."""
    command = [sys.executable, "-c", HOLDER, str(workdir / "lock")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.communicate()


def contents(folder: pathlib.Path) -> dict[str, tuple]:
    """Everything in a folder: contents, and when files and folders were changed."""
    return {
        str(path): (path.stat().st_mtime_ns, path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest())
        for path in [folder, *folder.rglob("*")]
    }


def flat(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def row(text: str, stage: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(f"{stage} "))


def test_a_run_that_was_stopped_says_what_is_done_and_what_is_lost(workdir):
    text = status.text(workdir)
    assert "demo, seed 0\nno process is at it" in text
    assert row(text, "source") == ["source", "600/600", "26.5", "27.2", "300", "1", "min", "01", "s"]
    assert row(text, "stage1") == ["stage1", "80/150", "31.5", "31.5", "50", "2", "min", "40", "s"]
    assert row(text, "stage3") == ["stage3", "0/150", "-", "-", "-", "-"]
    assert "stage1, step 80 of 150 (53 %)" in text
    assert "losses      source_ce 0.5\n" in text  # what was not finite is left out
    assert "8.25 images/s, 2 s a step, about 2 min 20 s left" in text  # 70 steps
    assert re.search(r"of step 75, \d s ago; 5 steps noted since will be taken again", flat(text))
    assert "warmup/soft_labels_4_flipped: 60 of 60" in text
    assert "next: stage1 goes on from step 75, then stage2, then stage3." in flat(text)
    assert "damaged" not in text and max(map(len, text.splitlines()[1:])) <= 80


def test_a_run_in_progress_is_seen_and_left_alone(workdir):
    then = time.time() - 40  # since when nothing has been written
    for path in workdir.rglob("*"):
        os.utime(path, (then, then))
    with running(workdir) as process:
        before = contents(workdir)
        result = run_main("--mode=status", f"--workdir={workdir}")
        assert result.returncode == 0 and result.stderr == ""
        assert contents(workdir) == before and process.poll() is None
        assert "\nrunning; last heard of" in result.stdout
        text = flat(result.stdout)
        lost = re.search(r"a kill -9 now would cost (?:(\d+) min )?(\d+) s, about (\d+) steps; Ctrl-C", text)
        left = re.search(r"about (?:(\d+) min )?(\d+) s left", text)
        cost, rest = (60 * int(found[1] or 0) + int(found[2]) for found in (lost, left))
        # the more time has gone by since the last line, the less is left of the 140 s after it; 2 s a step
        assert cost >= 40 and abs(int(lost[3]) - cost / 2) <= 1 and abs(rest + cost - 140) <= 2
        assert inspect(workdir).running
    assert not inspect(workdir).running  # its end gave the lock back


def test_nothing_is_made_where_no_run_has_been(workdir):
    before = contents(workdir)
    assert not inspect(workdir).running
    assert contents(workdir) == before and not (workdir / "lock").exists()


def test_a_run_that_begins_while_somebody_looks_is_not_refused(tmp_path):
    """A reader has the lock, of which it takes a share, for much longer than it takes to ask."""
    lock = tmp_path / "lock"
    lock.write_text("")
    looking = "f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); time.sleep(0.2)"
    command = [sys.executable, "-c", f"import fcntl, sys, time; {looking}", lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with files.alone(lock, "refused", wait=False):
            assert files.is_locked(lock)
    with running(tmp_path), pytest.raises(ValueError, match="refused"), files.alone(lock, "refused", wait=False):
        pass


def test_a_complete_run_has_nothing_left(workdir):
    for name in ("stage1", "stage2", "stage3"):
        (workdir / name).mkdir(exist_ok=True)
        shutil.copy(workdir / "warmup" / "result.json", workdir / name)
    assert "\nnext: nothing, all stages are complete\n" in status.text(workdir)


def test_what_comes_next_is_said_of_a_stage_that_has_not_begun(workdir):
    shutil.rmtree(workdir / "stage1")
    shutil.rmtree(workdir / "warmup" / "soft_labels_4_flipped")
    write_labels(workdir / "warmup" / "soft_labels_4_flipped", 23)
    text = status.text(workdir)
    assert "warmup/soft_labels_4_flipped: 23 of 60" in text
    assert "next: stage1, from soft pseudo labels of warmup, then stage2, then stage3" in text
    (workdir / "stage1").mkdir()
    assert "stage1 has begun, and logged no step yet" in status.text(workdir)


def test_a_workdir_of_an_older_version_shows_what_it_knows(workdir):
    (workdir / "config.json").unlink()
    (workdir / "stage1" / "metrics.jsonl").unlink()
    os.utime(workdir / "source" / "settings.json", (0, 0))  # the order is that in which stages began
    os.utime(workdir / "warmup" / "settings.json", (1, 1))
    text = status.text(workdir)
    assert "older version" in text and "stage2" not in text and "later stages are not known" in flat(text)
    assert [line.split()[:2] for line in text.splitlines() if "/" in line and "min" in line][:3] == [
        ["source", "600/600"], ["warmup", "150/150"], ["stage1", "75/150"]]  # fmt: skip
    assert "warmup/soft_labels_4_flipped: 60\n" in text


def test_a_run_without_validation_images_has_no_scores(workdir):
    for path in workdir.glob("*/history.jsonl"):
        write_lines(path, [entry(50, 100.0)])
    for path in workdir.glob("*/result.json"):
        path.write_text(json.dumps({"name": path.parent.name, "steps": 5, "best": {"step": 5}, "last": {"step": 5}}))
    text = status.text(workdir)
    assert row(text, "source")[1:5] == ["5/600", "-", "-", "-"] and row(text, "stage1")[2:5] == ["-", "-", "-"]


@pytest.fixture
def translating(workdir):
    """The same run with a stage whose network translates 6 source images, 4 of them by now, in place of stage 1."""
    config = demo.get_config("scratch")
    with config.unlocked():
        config.translation, config.adapted = base.translate("source", 150), base.supervised("source", 150)
    config.adapted.source_images = "translation"
    config.stages = ("source", "warmup", "translation", "adapted")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    shutil.rmtree(workdir / "stage1")
    shutil.copytree(workdir / "warmup", workdir / "translation", ignore=lambda *_: ["soft_labels_4_flipped"])
    (workdir / "translation" / "settings.json").write_text('{"translation.kind": "translate"}')
    result = {"name": "translation", "steps": 150, "seconds": 61.0, "best": {"step": 150}, "last": {"step": 150}}
    (workdir / "translation" / "result.json").write_text(json.dumps(result))
    store = workdir / "translation" / "translated_source"
    store.mkdir()
    (store / "origin.json").write_text("{}")
    (store / "half.png.1.2.tmp").write_text("")
    for i in range(4):
        (store / f"{i}.png").write_bytes(Translations.encode(np.full((3, 4, 3), i, np.uint8)))
    info = workdir / "data" / "demo" / "2.0.0" / "dataset_info.json"
    splits = json.loads(info.read_text())["splits"] + [{"name": "source_train", "shardLengths": ["4", "2"]}]
    info.write_text(json.dumps({"splits": splits}))
    return workdir


def test_translated_images_are_counted_like_pseudo_labels(translating):
    text = status.text(translating)
    assert "pseudo labels, images\n  warmup/soft_labels_4_flipped: 60 of 60\n" in text
    assert "translated source images\n  translation: 4 of 6\n" in text
    assert ("next: the rest of the source images is translated by translation, then adapted, from source images "
            "translated by translation") in flat(text)  # fmt: skip
    assert "60 pseudo labels, 4 translated images" in flat(text) and "damaged" not in text
    store = translating / "translation" / "translated_source"
    for i in (4, 5):
        shutil.copy(store / "0.png", store / f"{i}.png")
    text = status.text(translating)
    assert "  translation: 6 of 6\n" in text and "next: adapted, from source images" in flat(text)


def test_a_damaged_translation_is_named(translating):
    path = translating / "translation" / "translated_source" / "2.png"
    other = Translations.encode(np.full((3, 4, 3), 9, np.uint8))
    path.write_bytes(other.replace(*(re.search(rb"sha256:\w+", png)[0] for png in (other, path.read_bytes()))))
    (damage,) = inspect(translating).damaged
    assert damage == f"{path}: made anew when a stage wants them"
    path.write_bytes(b"")
    assert inspect(translating).damaged == [damage]


CUT = b'{"step": 5, "se'
DAMAGE = {
    "config.json": CUT, "results.json": CUT, "source/result.json": CUT, "warmup/settings.json": CUT,
    "stage1/history.jsonl": CUT, "stage1/metrics.jsonl": b'{"steps": 5}\n', "stage1/environment.json": b"\xff\xfe",
    "stage1/cost.json": CUT,
    "stage1/initial_prototypes.npz": b"PK\3\4", "samples.npz": b"PK", "stage1/snapshots/50.npz": b"",
    "warmup/soft_labels_4_flipped/origin.json": b"[]",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damaged_file_is_named_with_what_to_do(name, workdir):
    (workdir / name).parent.mkdir(exist_ok=True)
    (workdir / name).write_bytes(DAMAGE[name])
    (damage,) = inspect(workdir).damaged
    assert damage.startswith(f"{workdir / name}: ")
    assert str(workdir / name) in "".join(line.strip() for line in status.text(workdir).splitlines())


def test_a_checkpoint_of_which_a_part_is_missing_does_not_count(workdir):
    shutil.rmtree(workdir / "stage1" / "checkpoints" / "75" / "training")
    write_checkpoint(workdir / "stage1" / "checkpoints", 70)
    (workdir / "stage1" / "checkpoints" / "60.damaged").mkdir()
    (workdir / "stage1" / "checkpoints" / "80.orbax-checkpoint-tmp-1").mkdir()
    found = inspect(workdir)
    assert next(stage for stage in found.stages if stage.name == "stage1").checkpoint == 70
    assert sorted(line.split()[0].rstrip(":,").split("/")[-1] for line in found.damaged) == ["60.damaged", "75"]
    (workdir / "stage1" / "checkpoints" / "70" / "network" / "d" / "0").write_bytes(b"")
    assert "of step 50" in status.text(workdir)


def test_a_run_in_a_bucket_is_read_though_nobody_knows_whether_it_runs(workdir, monkeypatch):
    from etils.epath import backend
    from fake_bucket import FakeBucket

    monkeypatch.setattr(backend, "tf_backend", FakeBucket(workdir.parent))
    for path in workdir.glob("*/checkpoints/[0-9]*"):
        (path / "commit_success.txt").write_text("")
    (workdir / "stage1" / "checkpoints" / "75" / "commit_success.txt").unlink()  # which is being written
    text = status.text(f"gs://bucket/{workdir.name}")
    assert "nobody can tell here whether a process is at it; last heard of" in text
    assert row(text, "stage1")[1] == "80/150" and "of step 50" in text and "damaged" not in text


def test_a_study_shows_its_experiments_their_tables_and_what_is_damaged_in_any_of_them(workdir, tmp_path_factory):
    study = tmp_path_factory.mktemp("study")
    shutil.copytree(workdir, study / "seed0")
    (study / "seed1").mkdir()
    shutil.copy(workdir / "config.json", study / "seed1")
    (study / "notes.txt").write_text("of its user")
    text = status.text(study)
    assert row(text, "seed0")[1:] == ["2/5", "stage1", "80/150"] and row(text, "seed1")[1:] == ["0/5", "-"]
    assert "no process is at it" in text and "no table has been written yet" in text and "damaged" not in text
    (study / "table8").mkdir()
    rows = [{"seeds": {"0": {}, "1": {}}}, {"seeds": {"0": {}}}]
    (study / "table8" / "study.json").write_text(json.dumps({"complete": False, "seeds": [0, 1], "rows": rows}))
    (study / "seed0" / "warmup" / "result.json").write_text("{")
    with running(study / "seed0" / "stage1"):
        text = status.text(study)
    assert "being worked at: seed0/stage1; last heard of" in text
    assert row(text, "table8")[1:] == ["3", "of", "4", "no"]
    assert "seed0/warmup/result.json: delete it" in " ".join(text.split())


@pytest.mark.parametrize(("name", "message"), [("absent", "does not exist"), ("empty", "holds no run")])
def test_a_folder_without_a_run_is_refused(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"--workdir = {tmp_path / name} {message}"):
        status.text(tmp_path / name)


def test_files_that_vanish_while_they_are_read_do_no_harm(workdir, monkeypatch):
    """As checkpoints of a running stage do."""
    from proda_jax.report import inspection

    monkeypatch.setattr(inspection, "_missing_of", lambda path: shutil.rmtree(path) or "everything")
    assert inspect(workdir).damaged == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"),
     (90000, "25 h 00 min"), (2 * 86400 + 3 * 3600, "2 days 3 h")],
)  # fmt: skip
def test_durations_are_written_as_people_do(seconds, words):
    assert tables.duration(seconds) == words


def test_it_takes_neither_jax_nor_tensorflow(workdir):
    code = f"import sys; from proda_jax.report import status; status.text({str(workdir)!r}); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'jax'" not in printed and "'tensorflow'" not in printed


@pytest.mark.parametrize(("key", "title"), [
    ("miou", "mIoU"), ("miou_13", "mIoU over 13"), ("miou_running_statistics", "mIoU by running statistics"),
])  # fmt: skip
def test_scores_have_titles_in_words(key, title):
    assert score_title(key) == title
