"""The report of a complete run against what lies in its workdir."""

import base64
import io
import json
import re
import types

import numpy as np
import pytest
from fake_workdir import fake_workdir
from PIL import Image
from report_pages import first_two, lines_of, rows_of, table_of

from proda_jax import report
from proda_jax.data.label_spaces import IGNORE, LABEL_SPACES
from proda_jax.report import embedding, tables

SIZE = (48, 96)
SPACE = LABEL_SPACES["cityscapes19"]
STAGES = ("source", "warmup", "self_training", "stage1", "stage2", "stage3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete run with everything, and the text of its page."""
    path = tmp_path_factory.mktemp("whole")
    fake_workdir(path, size=SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "_umap", first_two)
        page = report.write(path)
    return path, page.read_text()


@pytest.mark.smoke("report")
def test_scores_on_the_page_are_those_of_the_results(whole):
    path, page = whole
    results = {name: json.loads((path / name / "result.json").read_text()) for name in STAGES}
    start = results["source"]["last"]["miou"]
    for row in table_of(page, "stage", "steps", "mIoU, last"):
        last, best = results[row["stage"]]["last"], results[row["stage"]]["best"]
        assert row["mIoU, last"] == f"{last['miou']:.1f}"
        assert row["mIoU, best"] == f"{best['miou']:.1f}" and row["at step"] == str(best["step"])
        if row["stage"] != "source":
            assert row["gain over source"] == f"{last['miou'] - start:+.1f}".replace("-", "\u2212")
    rows = table_of(page, "class", *STAGES)
    assert [row["class"] for row in rows] == [*SPACE.classes, "mIoU"]
    for row in rows[:-1]:
        for stage in STAGES:
            value = results[stage]["last"]["iou"][row["class"]]
            assert row[stage] == ("–" if value is None else f"{value:.1f}")
    best, last = results["stage3"]["last"]["miou"], f"{results['stage3']['last']['miou']:.1f} mIoU after stage3"
    assert re.search(r"<h1>(.*?)</h1>", page).group(1).startswith(f"{last}, {best - start:+.1f} over source")
    assert "no column of its own" in page  # the paper has no such task


def test_a_class_that_is_named_like_a_row_keeps_its_own():
    def stage(name: str, iou: dict, miou: float) -> types.SimpleNamespace:
        entry = {"step": 1, "iou": iou, "miou": miou}
        return types.SimpleNamespace(name=name, last=entry, best=entry, role="source", settings={}, random_as=None)

    run = types.SimpleNamespace(scored=[stage("source", {"mIoU": 10.0, "class": 30.0}, 20.0)])
    folder = types.SimpleNamespace(table=lambda name, columns, rows: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "compared", lambda stages: [])
        table, _, of_dice = tables._class_tables(run, None, folder)
    assert [row[:2] for row in table.rows] == [["mIoU", "10.0"], ["class", "30.0"], ["mIoU", "20.0"]]
    dice = (2 * 0.1 / 1.1, 2 * 0.3 / 1.3)
    shown = zip(("mIoU", "class", "mDice"), (*dice, sum(dice) / 2), strict=True)
    assert [row[:2] for row in of_dice.rows] == [[name, f"{100 * value:.1f}"] for name, value in shown]


def test_csv_files_hold_the_scores_with_all_digits(whole):
    path, _ = whole
    found = {(r["stage"], r["network"], r["class"]): r["iou"] for r in rows_of(path, "classes")}
    expected = {}
    for stage in STAGES:
        result = json.loads((path / stage / "result.json").read_text())
        for which in ("last", "best"):
            expected |= {(stage, which, name): value for name, value in result[which]["iou"].items()}
    assert len(found) == len(expected) == 2 * 6 * 19
    assert {key: float(value) if value else None for key, value in found.items()} == expected


def test_curves_hold_every_logged_value(whole):
    path, _ = whole
    found = {(r["stage"], int(r["step"]), r["metric"]): float(r["value"]) for r in rows_of(path, "metrics")}
    expected = {
        (stage, line["step"], key): value
        for stage in STAGES
        for line in lines_of(path / stage / "metrics.jsonl")
        for key, value in line.items()
        if key not in ("step", "seconds", "images_per_second")
    }
    assert found == expected and len(found) > 200
    found = [(r["stage"], int(r["step"]), float(r["miou"])) for r in rows_of(path, "curve_miou")]
    entries = [(stage, e["step"], e["miou"]) for stage in STAGES for e in lines_of(path / stage / "history.jsonl")]
    assert found == entries


def test_confusion_and_prototypes_are_those_of_the_last_snapshots(whole):
    path, page = whole
    counts = np.load(path / "stage3" / "snapshots" / "150.npz")["confusion"]
    rows = rows_of(path, "confusion")
    assert [[int(row[name]) for name in SPACE.classes] for row in rows] == counts.tolist()

    first, last = (np.load(path / "stage1" / "snapshots" / f"{step}.npz") for step in (0, 150))
    seen = [name for name, there in zip(SPACE.classes, last["seen"], strict=True) if there]
    assert len(seen) == 18 and "Never seen: bicycle." in page
    vectors = last["prototypes"][last["seen"]].astype(np.float64)
    expected = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    rows = rows_of(path, "prototype_distances")
    assert [row["class"] for row in rows] == seen
    np.testing.assert_allclose([[float(row[name]) for name in seen] for row in rows], expected, rtol=1e-12)

    moved = np.linalg.norm(last["prototypes"].astype(np.float64) - first["prototypes"], axis=1)
    found = {r["class"]: float(r["distance"]) for r in rows_of(path, "prototype_drift") if r["step"] == "150"}
    assert list(found) == seen
    np.testing.assert_allclose(list(found.values()), moved[last["seen"]], rtol=1e-6)


def test_label_quality_joins_snapshots_and_history(whole):
    path, _ = whole
    rows = {(r["stage"], int(r["step"]), r["labels"]): r for r in rows_of(path, "label_quality")}
    start = np.load(path / "stage1" / "snapshots" / "0.npz")["quality"]
    for i, labels in enumerate(("learnt_from", "fixed", "network")):
        measures = [float(rows["stage1", 0, labels][key]) for key in ("miou", "pixel_accuracy", "class_accuracy")]
        assert measures == start[i].tolist()
    for entry in lines_of(path / "stage1" / "history.jsonl"):
        for labels, measures in entry["pseudo_labels"].items():
            assert float(rows["stage1", entry["step"], labels]["miou"]) == measures["miou"]
    assert {stage for stage, _, _ in rows} == {"stage1", "self_training"}


def test_pseudo_labels_are_measured_against_the_truth_at_their_grid(whole):
    path, page = whole
    samples = np.load(path / "samples.npz")
    rows = {(r["image"], int(r["step"])): r for r in rows_of(path, "pseudo_labels")}
    steps = sorted({step for _, step in rows})
    assert steps[0] == 0 and steps[-1] == 150 and 3 <= len(steps) <= 4
    for step in steps:
        arrays = np.load(path / "stage1" / "snapshots" / f"{step}.npz")
        for i, name in enumerate(samples["name"]):
            height, width = arrays["rectified"].shape[1:]
            right = counted = 0
            for y in range(height):
                for x in range(width):
                    row = round(y * (SIZE[0] - 1) / (height - 1))  # corners on corners
                    truth = samples["label"][i, row, round(x * (SIZE[1] - 1) / (width - 1))]
                    counted += truth != IGNORE
                    right += truth != IGNORE and arrays["rectified"][i, y, x] == truth
            assert float(rows[name, step]["right"]) == pytest.approx(100 * right / counted)
            assert f"{100 * right / counted:.0f} % right" in page
            assert float(rows[name, step]["mean_weight"]) == pytest.approx(arrays["weight"][i].astype(float).mean())


def test_pictures_show_predictions_in_the_colours_of_their_classes(whole):
    path, page = whole
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="ours: stage3, ([^"]+)"', page)
    predictions = np.load(path / "stage3" / "snapshots" / "150.npz")["prediction"]
    names = np.load(path / "samples.npz")["name"]
    assert [name for _, name in sources] == list(names)
    for (encoded, _), prediction in zip(sources, predictions, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        np.testing.assert_array_equal(picture, SPACE.colors[prediction])


def test_image_scores_follow_from_their_pixels(whole):
    path, _ = whole
    samples = np.load(path / "samples.npz")
    prediction = np.load(path / "source" / "snapshots" / "150.npz")["prediction"]
    for row in rows_of(path, "predictions")[::3]:
        assert row["stage"] == "source"
        i = list(samples["name"]).index(row["image"])
        counts = samples["label"][i] != IGNORE
        truth, guess = samples["label"][i][counts], prediction[i][counts]
        found = [np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c))
                 for c in np.union1d(truth, guess)]  # fmt: skip
        assert float(row["miou"]) == pytest.approx(100 * np.mean(found))
        assert float(row["pixel_accuracy"]) == pytest.approx(100 * np.mean(truth == guess))


def test_the_page_needs_nothing_but_itself(whole):
    path, page = whole
    assert "://" not in page and "<script" not in page and "@import" not in page and "<link" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    inside = [link for link in links if not link.startswith(("data:", "#"))]
    assert len(inside) > 30 and all((path / "report" / link).is_file() for link in inside)
    assert all(inside in ("#", "") or inside.startswith("#") for inside in re.findall(r"url\(([^)]?)", page))
    written = {str(file.relative_to(path / "report")) for file in (path / "report").rglob("*.*")}
    assert written - set(inside) == {"index.html"}  # nothing lies there that the page does not link to
    anchors = [link[1:] for link in re.findall(r'<a href="(#[^"]+)"', page)]
    assert len(anchors) == 10 and all(f'id="{anchor}"' in page for anchor in anchors)
    assert "missing here" not in page  # a complete run lacks nothing


def test_the_same_files_give_the_same_page_without_mapping_features_again(whole, monkeypatch):
    path, page = whole
    monkeypatch.setattr(embedding, "_umap", lambda *_: pytest.fail("features are kept in features.csv"))
    before = {file: file.read_bytes() for file in (path / "report").rglob("*.*")}
    assert report.write(path).read_text() == page
    assert {file: file.read_bytes() for file in (path / "report").rglob("*.*")} == before
