"""Several runs side by side, against means and standard deviations by NumPy."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from command import run_main
from fake_workdir import fake_config, fake_workdir
from report_pages import Tables, rows_of, table_of

from proda_jax import report
from proda_jax.report.compare import _counted, grouped
from proda_jax.report.run import read

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ("source", "stage1", "stage2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[pathlib.Path]:
    """Three seeds of one configuration, and one of another temperature; scores and settings alone."""
    found = []
    for number, (seed, temperature) in enumerate([(0, 2.0), (1, 2.0), (2, 2.0), (0, 1.0)]):
        path = tmp_path_factory.mktemp(f"run{number}")
        config = fake_config(STAGES, seed)
        config.stage1.temperature = temperature
        config.log_every = 10 + number  # changes nothing in what a run ends in
        fake_workdir(path, config, images=1, size=(32, 64))
        found.append(path)
    return found


def values(paths: list[pathlib.Path], stage: str, name: str | None = None) -> list[float]:
    results = [json.loads((path / stage / "result.json").read_text())["last"] for path in paths]
    found = [result["miou"] if name is None else result["iou"][name] for result in results]
    return [value for value in found if value is not None]


def of_dice_table(page: str) -> list[list[str]]:
    """The rows of the table that ends with the mean of Dice, without titles."""
    (rows,) = (table[1:] for table in Tables(page).found if table[-1][0] == "mDice")
    return rows


def test_runs_are_grouped_by_all_that_decides_but_the_seed(runs):
    groups = grouped([read(path) for path in runs])
    assert [[run.path.name for run in group.runs] for group in groups] == [[p.name for p in runs[:3]], [runs[3].name]]
    assert len(grouped([read(runs[3]), read(runs[0])])) == 2


@pytest.mark.parametrize(("chosen", "says"), [
    ((0, 1, 2), "3 seeds"), ((0, 1), "2 seeds"), ((0, 0, 1), "3 runs of 2 seeds"), ((1, 1), "2 runs of 1 seed"),
])  # fmt: skip
def test_runs_of_one_seed_are_not_counted_as_several_seeds(chosen, says, runs):
    (group,) = grouped([read(runs[number]) for number in chosen])
    assert _counted(group).endswith(f", {says}")


def test_means_and_spreads_are_those_of_numpy(runs, tmp_path):
    page = report.write_comparison(runs, tmp_path)
    assert str(page) == f"{tmp_path}/report/compare.html"
    text = page.read_text()
    found = {(r["group"], r["stage"]): r for r in rows_of(page.parents[1], "compare_stages")}
    assert len(found) == 2 * len(STAGES)
    for stage in STAGES:
        scores, row = values(runs[:3], stage), found["A", stage]
        assert row["runs"] == "3" and float(row["miou_mean"]) == pytest.approx(np.mean(scores))
        assert float(row["miou_spread"]) == pytest.approx(np.std(scores, ddof=1))
        assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" in text
        alone = found["B", stage]
        assert float(alone["miou_mean"]) == values(runs[3:], stage)[0] and alone["miou_spread"] == ""
    gains = np.subtract(values(runs[:3], "stage2"), values(runs[:3], "source"))
    assert float(found["A", "stage2"]["gain_mean"]) == pytest.approx(gains.mean())
    assert float(found["A", "stage2"]["gain_spread"]) == pytest.approx(gains.std(ddof=1))
    assert f"+{gains.mean():.1f} ± {gains.std(ddof=1):.1f}" in text
    checked = 0
    for row in rows_of(page.parents[1], "compare_classes"):
        scores = values(runs[:3] if row["group"] == "A" else runs[3:], row["stage"], row["class"])
        assert int(row["runs"]) == len(scores) and float(row["iou_mean"]) == pytest.approx(np.mean(scores))
        iou = np.array(scores) / 100
        by_dice = 100 * 2 * iou / (1 + iou)
        assert float(row["dice_mean"]) == pytest.approx(by_dice.mean())
        if len(scores) > 1:
            assert float(row["iou_spread"]) == pytest.approx(np.std(scores, ddof=1))
            assert float(row["dice_spread"]) == pytest.approx(np.std(by_dice, ddof=1))
            checked += 1
    assert checked > 20
    *by_class, mean = of_dice_table(text)
    assert len(by_class) > 5
    for name, *cells in by_class:
        shown = []
        for those in (runs[:3], runs[3:]):
            iou = np.array(values(those, "stage2", name)) / 100
            spread = f" ± {np.std(200 * iou / (1 + iou), ddof=1):.1f}" if len(iou) > 1 else ""
            shown.append(f"{np.mean(200 * iou / (1 + iou)):.1f}{spread}" if len(iou) else "–")
        assert [cell.partition(" (")[0] for cell in cells] == shown
    last = [json.loads((path / "stage2" / "result.json").read_text())["last"]["iou"] for path in runs[:3]]
    means = [np.mean([200 * iou / (100 + iou) for iou in one.values() if iou is not None]) for one in last]
    assert mean[:2] == ["mDice", f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}"]
    differing = [list(row.values()) for row in table_of(text, "setting")]
    assert ["stage1.temperature", "2.0", "1.0"] in differing
    assert "log_every" not in text and "://" not in text and "<script" not in text


def test_a_stage_that_some_seeds_lack_says_of_how_many_its_mean_is(runs, tmp_path):
    paths = [pathlib.Path(shutil.copytree(path, tmp_path / path.name)) for path in runs[:3]]
    shutil.rmtree(paths[2] / "stage2")
    page = report.write_comparison(paths)
    scores = values(paths[:2], "stage2")
    text = page.read_text()
    assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f} (2 of 3)" in text
    assert f"{paths[2]}: not begun: stage2." in text
    assert page.parent.parent.name == runs[0].name  # of the first


def test_too_few_and_repeated_workdirs_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="needs two workdirs or more"):
        report.write_comparison(runs[:1], tmp_path)
    with pytest.raises(ValueError, match="names a workdir twice"):
        report.write_comparison([runs[0], f"{runs[0]}/"], tmp_path)


def test_workdirs_are_given_with_commas_or_one_after_the_other(runs, tmp_path):
    pages = []
    for number, arguments in enumerate((["--compare", *map(str, runs)], [f"--compare={','.join(map(str, runs))}"])):
        folder = tmp_path / str(number)
        result = run_main("--mode=report", *arguments, f"--workdir={folder}")
        assert result.returncode == 0, result.stderr
        pages.append((folder / "report" / "compare.html").read_text())
    assert pages[0] == pages[1]
