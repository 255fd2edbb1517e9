"""A workdir of version 0.1.0, made by `make_workdir_0_1_0.py` with that version's code, is as good as one of now."""

import csv
import json
import shutil

import numpy as np
import older_run
import pytest
from older_run import digest, images

from proda_jax import load, report
from proda_jax.configs import base
from proda_jax.data import memory
from proda_jax.models import weights
from proda_jax.report import status
from proda_jax.run import provenance, settings, sources
from proda_jax.run.experiment import Experiment
from proda_jax.system.files import parse_json_lines


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder with `workdir` and with what version 0.1.0 said of it and ended in."""
    return older_run.unpack(tmp_path_factory.mktemp("older")).parent


@pytest.fixture(scope="module")
def expected(kept) -> dict:
    return json.loads((kept / "expected.json").read_text())


def experiment(workdir, config) -> Experiment:
    return Experiment(config, workdir, older_run.sources_of(config, sources, memory), devices_used=1)


def assert_scores(found: dict, expected: dict, exact: bool) -> None:
    """Equal, or on another machine within what a few pixels of the small images can make, in percent."""
    if exact:
        assert found == expected
    assert found.keys() == expected.keys()
    for name in ("miou", "pixel_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1.0)
    assert found["iou"] == pytest.approx(expected["iou"], abs=3.0)


@pytest.fixture(scope="module")
def exact(expected) -> bool:
    """Whether this machine rounds as the one did on which the workdir was made."""
    return older_run.machine() == expected["machine"]


def test_its_network_is_loaded_and_predicts(kept, exact):
    opened = load(kept / "workdir")
    assert opened.card.stage == "source" and opened.classes == older_run.CLASSES
    labels = np.stack([opened(image) for image in images(3, 2)[0]])
    there = np.load(kept / "labels.npy")
    assert len(np.unique(there)) == len(older_run.CLASSES)
    assert (labels == there).mean() > (1 - 1e-9 if exact else 0.99)


def test_the_stage_that_was_interrupted_is_loaded_too(kept):
    opened = load(kept / "workdir", stage="stage1")
    assert opened.origin.endswith("stage1/checkpoints/2") and opened(images(1, 2)[0][0]).shape == older_run.SIZE


def test_it_is_evaluated_with_the_settings_that_it_notes(kept, expected, exact):
    found = experiment(kept / "workdir", provenance.read_configuration(kept / "workdir")).evaluate()
    assert found.pop("evaluate_at") == "image_size"
    assert found.pop("dice").keys() == found["iou"].keys() and found.pop("mdice") > found["miou"]
    assert found.pop("network") == str(kept / "workdir" / "source")
    assert_scores(found, {name: value for name, value in expected["evaluation"].items() if name != "network"}, exact)


def test_its_weights_are_converted(kept):
    read, account = weights.read(kept / "workdir" / "source")
    assert account.missing == account.wrong_shape == account.left_over == ()
    backbone = read.layout.backbone
    assert (backbone.depths, backbone.width, read.classes, read.head) == ((1, 1), 1, 3, "released")


def test_its_state_is_shown(kept):
    words = " ".join(status.text(kept / "workdir").split())
    for said in (
        "older, seed 0 no process is at it",
        "source 2/2", "stage1 3/4", "stage2 0/2", "stage1, step 3 of 4 (75 %)",
        "1 step noted since will be taken again",
        "source/soft_labels_8: 4", "next: stage1 goes on from step 2, then stage2",
    ):  # fmt: skip
        assert said in words, said
    assert "checkpoint of step 2" in words and "damaged" not in words


def test_a_report_is_written_of_it(kept, expected, tmp_path):
    workdir = shutil.copytree(kept / "workdir", tmp_path / "workdir")
    page = report.write(workdir).read_text()
    assert f"{expected['results']['stages'][0]['last']['miou']:.1f}" in page and "cannot be read" not in page
    with (workdir / "report" / "data" / "metrics.csv").open() as file:
        rows = [(row["stage"], int(row["step"]), float(row["value"])) for row in csv.DictReader(file)
                if row["metric"] == "source_ce"]  # fmt: skip
    there = [("stage1", line["step"], line["source_ce"]) for line in expected["metrics"][:3]]
    assert [row for row in rows if row[0] == "stage1"] == there and ("source", 2) in {row[:2] for row in rows}


def test_training_goes_on_with_it_to_the_numbers_of_version_0_1_0(kept, expected, exact, tmp_path):
    workdir = shutil.copytree(kept / "workdir", tmp_path / "workdir")
    config = older_run.further(older_run.config_of(base))
    before = (workdir / "source" / "result.json").stat().st_mtime_ns
    settings.check(config)
    results = experiment(workdir, config).run()
    assert (workdir / "source" / "result.json").stat().st_mtime_ns == before  # what was complete is left alone
    for found, wanted in zip(results["stages"], expected["results"]["stages"], strict=True):
        for which in ("last", "best"):
            assert_scores(found.pop(which), wanted.pop(which), exact)
        assert found == wanted
    lines = parse_json_lines((workdir / "stage1" / "metrics.jsonl").read_text())
    for line, wanted in zip(lines, expected["metrics"], strict=True):
        for name in ("seconds", "images_per_second"):
            del line[name], wanted[name]
        assert line == (wanted if exact else pytest.approx(wanted, rel=1e-3, abs=1e-5))
    if exact:
        networks = {name: digest(weights.load(workdir / name).arrays) for name in config.stages}
        assert networks == expected["networks"]
