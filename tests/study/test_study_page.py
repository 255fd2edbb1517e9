"""The page of a study: bars of its classes, what rows cost beside what they score, and pictures side by side."""

import csv
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
from fake_workdir import fake_config, fake_workdir
from PIL import Image
from report_pages import table_of

from proda_jax.configs.studies import common, table1
from proda_jax.data.label_spaces import IGNORE
from proda_jax.study import costs, page, plan, results
from proda_jax.study.prediction_section import chosen

STAGES = ("source", "warmup", "self_training", "stage1")
ROWS = [("source only", "source", None), ("warm-up", "warmup", None), ("self-training", "self_training", None),
        ("ours", "stage1", 53.7)]  # fmt: skip
# of each stage by seed: seconds, and what is noted besides
SECONDS = {"source": (100, 110), "warmup": (60.5, 62.5), "self_training": (30, 40), "stage1": (90, 100)}
COST = {"starts": 1, "preparing_seconds": 5.5, "compiling_seconds": 20.0, "repeated_seconds": 0.0,
        "step_bytes": 10**9, "device_bytes": None, "process_bytes": 3 * 10**9}  # fmt: skip


def study_of(**changes):
    c = fake_config(STAGES)
    c.study = common.study(c, "fake", "Made up", ROWS, paper="", gain_over="warmup",
                           show=("classes", "costs", "predictions")).study  # fmt: skip
    with c.study.unlocked():
        c.study.seeds = (0, 1)
        c.study.update(changes)
    return c


def cost_is(workdir: pathlib.Path, seed: int, stage: str, cost: dict | None) -> None:
    path = workdir / f"seed{seed}" / stage / "result.json"
    result = json.loads(path.read_text()) | {"seconds": SECONDS[stage][seed]}
    path.write_text(json.dumps(result | ({} if cost is None else {"cost": cost})))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple:
    """A study of two seeds that is complete, its page, and the page's text; stage 1 of seed 1 was stopped twice."""
    workdir, found = tmp_path_factory.mktemp("study"), plan(study_of())
    for seed in found.seeds:
        config = fake_config(STAGES, seed)
        fake_workdir(workdir / f"seed{seed}", config, images=2, size=(48, 96))
        for stage in STAGES:
            cost_is(workdir, seed, stage, COST)
    again = COST | {"starts": 3, "repeated_seconds": 12.5, "step_bytes": 2 * 10**9, "preparing_seconds": 9.5}
    cost_is(workdir, 1, "stage1", again)
    return found, workdir, page.write_page(found, workdir).read_text()


def test_costs_are_sums_over_what_a_row_needs_after_the_start(written):
    found, workdir, text = written
    rows = {row["row"]: row for row in csv.DictReader((workdir / "fake" / "study.csv").open())}
    ours, first = rows["ours"], rows["source only"]
    assert (first["steps_after_start"], first["seconds_mean"], first["step_bytes"]) == ("0", "0.0", "")
    assert ours["steps_after_start"] == "300"  # warm-up and stage 1
    sums = np.add(SECONDS["warmup"], SECONDS["stage1"])
    assert float(ours["seconds_mean"]) == sums.mean() and float(ours["seconds_spread"]) == sums.std(ddof=1)
    assert float(ours["preparing_seconds_mean"]) == ((5.5 + 5.5) + (5.5 + 9.5)) / 2
    assert float(ours["repeated_seconds_mean"]) == 12.5 / 2 and float(ours["restarts_mean"]) == 1
    assert (ours["step_bytes"], ours["device_bytes"], ours["process_bytes"]) == (str(2 * 10**9), "", str(3 * 10**9))
    held = json.loads((workdir / "fake" / "study.json").read_text())["rows"][3]["cost"]
    assert held["stages_after_start"] == ["warmup", "stage1"] and held["seeds"]["1"]["restarts"] == 2
    shown = {row["row"]: row for row in table_of(text, "row", "mIoU", "stages", "steps")}
    assert shown["ours"]["training"] == "2 min 36 s" and shown["ours"]["memory of a step"] == "2.00 GB"  # 156.5 s
    assert shown["ours"]["lost and repeated"] == "6 s" and shown["ours"]["restarts"] == "2"
    assert "device, at most" not in shown["ours"] and "Stopped and gone on with: ours." in text


def test_what_is_not_measured_is_not_shown_as_if_it_were(written, tmp_path):
    """A stage of an older version, and a row of which a seed is missing."""
    found, workdir, _ = written
    shutil.copytree(workdir, tmp_path / "old")
    path = tmp_path / "old" / "seed0" / "warmup" / "result.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "cost"}))
    (tmp_path / "old" / "seed1" / "self_training" / "result.json").unlink()
    lines = {line.row.label: line for line in results.collect(found, tmp_path / "old")}
    assert lines["ours"].cost.most("step_bytes") is None and lines["ours"].cost.seeds[1]["step_bytes"] == 2 * 10**9
    assert lines["ours"].cost.seeds[0]["seconds"] == 60.5 + 90
    assert list(lines["self-training"].cost.seeds) == [0]
    text = page.write_page(plan(study_of(show=("costs",))), tmp_path / "old").read_text()
    assert "not known, as an older version ran at least one of their stages: warm-up; self-training; ours." in text
    row = next(row for row in table_of(text, "row", "mIoU", "stages") if row["row"] == "self-training")
    assert row["training"] == "1 min 30 s (1 of 2)" and "restarts" not in row  # nobody knows any


def test_rows_without_a_stage_in_common_cost_all_that_they_take(tmp_path):
    c = study_of(rows=(("source only", "source", None), ("other", "other", None)), gain_over="source")
    with c.unlocked():
        c.other = c.source.copy_and_resolve_references()
    c.stages = ("source", "other")
    found = plan(c)
    assert costs.start(found) == set()
    assert [line.cost.steps for line in results.collect(found, tmp_path)] == [150, 150]


def test_each_class_has_a_panel_with_a_bar_for_each_row(written):
    found, workdir, text = written
    last = [json.loads((workdir / "seed0" / stage / "result.json").read_text())["last"]["iou"] for stage in STAGES]
    panels = sorted((workdir / "fake" / "report" / "figures").glob("class_*.png"))
    assert len(panels) == len(last[0])
    for name in last[0]:
        both = [[line.scores[seed]["iou"][name] for seed in (0, 1)] for line in results.collect(found, workdir)]
        numbers = ["–" if None in pair else f"{np.mean(pair):.1f}" for pair in both]
        bars = "; ".join(f"{row[0]} {number}" for row, number in zip(ROWS, numbers, strict=True))
        assert f'aria-label="IoU of {name}: {bars}"' in text


def test_pictures_stand_side_by_side_with_the_scores_of_their_image(written):
    _, workdir, text = written
    report = workdir / "fake" / "report"
    rows = list(csv.DictReader(io.StringIO((report / "data" / "predictions.csv").read_text())))
    assert [row["stage"] for row in rows[:4]] == list(STAGES) and len(rows) == 2 * 4
    ours = np.load(workdir / "seed0" / "stage1" / "snapshots" / "150.npz")["prediction"][0]
    truth = np.load(workdir / "seed0" / "samples.npz")["label"][0]
    accuracy = 100 * (ours == truth)[truth != IGNORE].mean()
    assert float(rows[3]["pixel_accuracy"]) == pytest.approx(accuracy)
    with Image.open(report / "figures" / "predictions.png") as sheet:
        assert sheet.width >= 6 * 96  # the image, four rows, the truth
    heads = [text.index(f'<div class="head">{title}</div>') for title in ("input", *(r[0] for r in ROWS),
                                                                         "ground truth")]  # fmt: skip
    assert heads == sorted(heads)


def test_pictures_are_of_the_rows_that_are_named_or_of_the_best_beside_what_they_start_from(written, tmp_path):
    c = table1.get_config("demo")
    scores = {"dacs": 40.0, "cbst_round3": 39.0, "fda_round2": 38.0, "advent": 10.0, "source": 20.0, "stage3": 5.0}
    for stage, miou in scores.items():
        (tmp_path / "seed0" / stage).mkdir(parents=True)
        last = {"step": 1, "miou": miou, "iou": {}}
        (tmp_path / "seed0" / stage / "result.json").write_text(json.dumps({"name": stage, "last": last, "steps": 1}))

    def stages(found) -> list[str]:
        return [row.stage for row in chosen(found, results.collect(found, tmp_path))]

    assert stages(plan(c)) == ["source", "control", "cbst_round3", "fda_round2", "dacs", "stage3"]
    c.study.picture_rows = ("advent", "source")
    assert stages(plan(c)) == ["source", "advent"]
    c.study.picture_rows = ("adventure",)
    with pytest.raises(ValueError, match="config.study.picture_rows = 'adventure': .*did you mean 'advent'"):
        plan(c)
    found, workdir, _ = written
    few = plan(study_of(picture_rows=("stage1",), show=("predictions",)))
    assert '<div class="head">warm-up</div>' not in page.write_page(few, workdir).read_text()
