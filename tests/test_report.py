"""The report of a run against what lies in its workdir."""

import base64
import csv
import html.parser
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fake_workdir import fake_config, fake_workdir, gta5_like
from PIL import Image

from configs import base
from proda_jax import report
from proda_jax.data.label_spaces import IGNORE, LABEL_SPACES
from proda_jax.report import charts, embedding, label_quality, matrices, page, pictures, tables
from proda_jax.report.content import Folder
from proda_jax.report.run import read

ROOT = pathlib.Path(__file__).parents[1]
SIZE = (48, 96)
SPACE = LABEL_SPACES["cityscapes19"]


def first_two(name: str, features: np.ndarray) -> np.ndarray:
    """In place of UMAP, which takes long to compile."""
    return features[:, :2].astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete run with everything, and the text of its page."""
    path = tmp_path_factory.mktemp("whole")
    fake_workdir(path, size=SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "_umap", first_two)
        page = report.write(path)
    return path, page.read_text()


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


class Tables(html.parser.HTMLParser):
    """The tables of a page: rows of cells."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self._cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.found[-1][-1].append(self._cell.strip())
            self._cell = None


def table_of(page: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the table whose titles begin like that."""
    tables = [t for t in Tables(page).found if t[0][: len(columns)] == list(columns)]
    assert tables, columns
    return [dict(zip(tables[0][0], row, strict=True)) for row in tables[0][1:]]


def rows_of(path: pathlib.Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((path / "report" / "data" / f"{name}.csv").read_text())))


def lines_of(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


STAGES = ("source", "warmup", "self_training", "stage1", "stage2", "stage3")


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


def test_features_are_mapped_again_once_they_change(whole, tmp_path, monkeypatch):
    path, _ = whole
    features = np.load(path / "stage3" / "snapshots" / "150.npz")["features"]
    folder = Folder(path / "report")
    mapped = []
    monkeypatch.setattr(embedding, "_umap", lambda name, vectors: mapped.append(name) or first_two(name, vectors))
    kept = embedding.embedded({"stage3": features}, folder)["stage3"]
    assert not mapped
    np.testing.assert_array_equal(kept[1], features[:, :2].astype(np.float64))
    changed = embedding.embedded({"stage3": features + np.float16(1)}, folder)["stage3"]
    assert mapped == ["stage3"] and changed[0] != kept[0]


def test_without_umap_the_page_says_so(whole, tmp_path, monkeypatch):
    path, _ = whole
    monkeypatch.setitem(sys.modules, "umap", None)  # so that it cannot be imported
    section = embedding.features(read(path), Folder(tmp_path))
    assert len(section.missing) == 1 and "umap-learn is needed" in section.missing[0]


def test_the_four_highlighted_classes_are_the_papers_or_the_most_frequent():
    classes = np.array([2] * 3 + [5] + [7] * 2 + [8] + [0] * 9)
    assert list(embedding.highlighted(SPACE, classes)) == [2, 7, 5, 8]
    without = np.array([2] * 3 + [0] * 9 + [10] * 2 + [13])
    assert list(embedding.highlighted(SPACE, without)) == [2, 0, 10, 13]


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


@pytest.mark.slow
def test_umap_keeps_apart_what_is_apart_and_repeats_itself(tmp_path):
    """The real one, which takes half a minute to import and compile."""
    generator = np.random.default_rng(0)
    of = np.repeat([0, 1], 40)
    features = (generator.normal(size=(80, 16)) + 8 * of[:, None]).astype(np.float16)
    places = [embedding.embedded({"stage1": features}, Folder(tmp_path / str(i)))["stage1"][1] for i in range(2)]
    np.testing.assert_array_equal(*places)
    inside = max(np.linalg.norm(places[0][of == c] - places[0][of == c].mean(0), axis=1).max() for c in (0, 1))
    assert np.linalg.norm(places[0][of == 0].mean(0) - places[0][of == 1].mean(0)) > inside


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


def test_a_workdir_of_an_older_version_gives_scores_and_says_what_it_lacks(whole, tmp_path):
    """Which has no configuration, metrics or snapshots, as those of the first version."""
    path, _ = whole
    for name in ("results.json", *(f"{s}/{file}" for s in STAGES for file in ("result.json", "history.jsonl"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(path / name, tmp_path / name)
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


def test_a_report_needs_no_device_no_tensorflow_and_no_configuration(spoiled):
    """In a process in which JAX finds no backend, and TensorFlow cannot be imported."""
    script = "import sys; sys.modules['tensorflow'] = None\nimport proda_jax.report\n"
    script += "assert 'matplotlib' not in sys.modules\nimport main\nfrom absl import app\napp.run(main.main)"
    command = [sys.executable, "-c", script, "--mode=report", f"--workdir={spoiled}"]
    environment = os.environ | {"JAX_PLATFORMS": "none_such", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"report: {spoiled}/report/index.html\n"


def test_drift_begins_where_a_class_is_first_seen():
    vectors = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    series = [(0, vectors[0], np.array([True, False])), (5, vectors[1], np.array([True, True])),
              (9, vectors[2], np.array([True, True]))]  # fmt: skip
    moved = matrices.drift(series)
    assert np.isnan(moved[0, 1])
    expected = [[0, np.linalg.norm(vectors[1, 0] - vectors[0, 0]), np.linalg.norm(vectors[2, 0] - vectors[0, 0])],
                [0, np.linalg.norm(vectors[2, 1] - vectors[1, 1])]]  # fmt: skip
    np.testing.assert_allclose(moved[:, 0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(moved[1:, 1], expected[1], rtol=1e-6)


def test_confusion_is_a_share_of_the_true_class():
    shares = matrices.by_truth(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(shares[0], [0.75, 0.25])
    assert np.isnan(shares[1]).all()


def test_a_running_mean_is_the_mean_of_what_is_finite_around():
    values = np.array([1.0, np.nan, 3.0, 5.0, 100.0])
    found = charts.running_mean(values, 3)
    np.testing.assert_allclose(found, [1.0, 2.0, 4.0, 36.0, 52.5])


def test_self_training_is_a_stair_that_ends_with_its_networks_labels():
    def quality(learnt_from: float, network: float) -> list:
        return [(10, {"learnt_from": {"miou": learnt_from}, "fixed": {}, "network": {"miou": network}})]

    corners = label_quality.rounds([(20, quality(50, 55)), (30, quality(54, 60))])
    assert [(step, scores["miou"]) for step, scores in corners] == [(0, 50), (20, 50), (20, 54), (50, 54), (50, 60)]


def test_steps_that_are_shown_are_the_first_the_last_and_some_between():
    assert pictures.spread([0, 50]) == [0, 1]
    steps = [0, *range(1000, 63000, 1000)]
    shown = [steps[i] for i in pictures.spread(steps)]
    assert shown[0] == 0 and shown[-1] == 62000 and len(shown) == 4 and 1000 < shown[1] < 10000 < shown[2] < 40000


def test_the_gap_that_is_closed_is_named_where_there_is_an_oracle(tmp_path):
    config = fake_config(("source", "stage1", "oracle"))
    config.oracle = base.supervised("random", 150, target_labels=True)
    fake_workdir(tmp_path, config, images=1, size=SIZE)
    low, ours, high = (json.loads((tmp_path / s / "result.json").read_text())["last"]["miou"] for s in config.stages)
    assert page.gap_closed(read(tmp_path)) == [("gap closed to oracle", f"{100 * (ours - low) / (high - low):.0f} %")]


def test_gta5_stands_beside_the_paper(tmp_path):
    fake_workdir(tmp_path, gta5_like(), images=1, size=SIZE)
    run, folder = read(tmp_path), Folder(tmp_path / "report")
    by_stage, by_class, _, note = tables.scores(run, folder).blocks
    assert list(by_stage.columns[-2:]) == ["paper", "paper’s gain"] and "GTA5 to Cityscapes" in note.text
    assert {row[0]: tuple(row[-2:]) for row in by_stage.rows} == {
        "source": ("36.6", "–"), "warmup": ("41.6", "+5.0"), "stage1": ("53.7", "+17.1"),
        "stage2": ("56.9", "+20.3"), "stage3": ("57.5", "+20.9")}  # fmt: skip
    assert by_class.columns[-3:] == ["paper: source", "paper: warm-up", "paper: stage 3"]
    scores = {row[0]: row[-1] for row in by_class.rows}
    assert (scores["road"], scores["train"], scores["bicycle"]) == ("87.8", "1.0", "56.4")
    differing = {row[0]: row[1:3] for row in tables.settings(run, folder).blocks[0].rows}
    assert differing["model.head"] == ("released", "deeplab")
    assert differing["stage1.steps"][1] == "80 epochs" and "stage1.temperature" not in differing
