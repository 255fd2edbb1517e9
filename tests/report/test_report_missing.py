"""The report of a run that is not complete, lacks files or holds damaged ones."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fake_workdir import fake_config, fake_workdir
from report_pages import lines_of, table_of

from proda_jax import report
from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.report.run import read

ROOT = pathlib.Path(__file__).parents[2]
SIZE = (48, 96)
SPACE = LABEL_SPACES["cityscapes19"]


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A run of three stages whose last was killed, without features; to be copied and spoiled."""
    path = tmp_path_factory.mktemp("brief")
    fake_workdir(path, fake_config(("source", "stage1", "stage2")), images=1, size=SIZE, stop_after=75)
    for snapshot in path.glob("*/snapshots/150.npz"):
        snapshot.unlink()
    return path


@pytest.fixture
def spoiled(brief, tmp_path):
    return pathlib.Path(shutil.copytree(brief, tmp_path / "run"))


def remove_files(run: pathlib.Path) -> list[str]:
    (run / "samples.npz").unlink()
    (run / "stage1" / "metrics.jsonl").unlink()
    (run / "source" / "environment.json").unlink()
    return ["there are no sample images", "No losses of stage1: metrics.jsonl is not there", "device of source are not"]


def remove_settings(run: pathlib.Path) -> list[str]:
    (run / "config.json").unlink()
    shutil.rmtree(run / "stage1" / "snapshots")
    return ["neither config.json nor settings.json is there", "No pseudo labels: no snapshot holds them"]


def damage_files(run: pathlib.Path) -> list[str]:
    (run / "source" / "snapshots" / "100.npz").write_bytes(b"PK")
    history = run / "stage1" / "history.jsonl"
    history.write_text(history.read_text() + '{"step": 17')
    (run / "results.json").write_text("{")
    snapshot = run / "stage1" / "snapshots" / "25.npz"
    snapshot.write_bytes(snapshot.read_bytes()[:-300])
    return ["snapshots/100.npz cannot be read", "line 7 is damaged", "results.json cannot be read", "snapshots/25.npz"]


@pytest.mark.parametrize("spoil", [remove_files, remove_settings, damage_files])
def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(spoiled, spoil):
    named = spoil(spoiled)
    page = report.write(spoiled).read_text()
    header = re.search(r"<header>.*</header>", page, re.DOTALL).group(0)
    assert [text for text in named if text not in header] == []
    score = json.loads((spoiled / "source" / "result.json").read_text())["last"]["miou"]
    assert table_of(page, "stage", "steps", "mIoU, last")[0]["mIoU, last"] == f"{score:.1f}"
    assert "cannot be made" not in page


def test_an_unfinished_run_says_how_far_it_is(spoiled):
    shutil.rmtree(spoiled / "stage2")
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | {"stages": ["source", "stage1", "stage2"]}))
    (spoiled / "stage1" / "result.json").unlink()
    page = report.write(spoiled).read_text()
    assert "stage1 is not complete: step 150 of 150." in page and "Not begun: stage2." in page
    assert "No features in two dimensions" in page
    rows = table_of(page, "stage", "state", "device")
    assert [row["state"] for row in rows] == ["complete", "step 150 of 150", "not begun", ""]


def test_a_workdir_of_an_older_version_gives_scores_and_says_what_it_lacks(tmp_path):
    """Which has no configuration, metrics or snapshots, as those of the first version."""
    fake_workdir(tmp_path, images=1, size=SIZE)
    for path in [file for file in tmp_path.rglob("*.*") if file.is_file()]:
        if path.name not in ("results.json", "result.json", "history.jsonl"):
            path.unlink()
    page = report.write(tmp_path).read_text()
    run = read(tmp_path)
    assert run.space is SPACE and [stage.role for stage in run.stages[:3]] == ["source", "adaptation", "self-training"]
    assert len(table_of(page, "stage", "steps", "mIoU, last")) == 6
    for missing in ("No losses", "No pseudo labels", "No predictions", "No confusion matrix", "No prototypes"):
        assert missing in page


def test_a_run_without_validation_labels_is_reported_without_scores(spoiled):
    arrays = dict(np.load(spoiled / "samples.npz"))
    del arrays["label"]
    np.savez(spoiled / "samples.npz", **arrays)
    for history in spoiled.glob("*/history.jsonl"):
        entries = [{key: e[key] for key in ("step", "seconds")} for e in lines_of(history)]
        history.write_text("".join(json.dumps(e) + "\n" for e in entries))
    for result in spoiled.glob("*/result.json"):
        contents = json.loads(result.read_text())
        result.write_text(json.dumps(contents | {"last": {"step": 150}, "best": {"step": 150}}))
    page = report.write(spoiled).read_text()
    assert "No scores: there are no labelled validation images." in page
    assert "ground truth" not in page and 'alt="ours: stage2, target_val_0000"' in page


def test_folders_without_a_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist: --workdir names"):
        report.write(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds nothing of a run"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_complete_run_ends_well_where_its_report_cannot_be_written(tmp_path):
    """Here because a package that it needs is not installed."""
    script = "import sys; sys.modules['proda_jax.report'] = None\nfrom proda_jax.cli import modes\n"
    script += "modes.write_last_report(sys.argv[1])"
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and result.stderr.endswith("--mode=report tries again\n")


def test_a_report_needs_no_device_no_tensorflow_and_no_configuration(spoiled):
    """In a process in which JAX finds no backend, and TensorFlow cannot be imported."""
    script = "import sys; sys.modules['tensorflow'] = None\nimport proda_jax.report\n"
    script += "assert 'matplotlib' not in sys.modules\nfrom proda_jax.cli.main import run\nrun()"
    command = [sys.executable, "-c", script, "--mode=report", f"--workdir={spoiled}"]
    environment = os.environ | {"JAX_PLATFORMS": "none_such", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"report: {spoiled}/report/index.html\n"
