"""Studies: their configurations, what their tables say, and what is shared and resumed."""

import csv
import importlib
import io
import json
import pathlib
import re
import subprocess

import jax
import ml_collections
import numpy as np
import pytest
from command import run_main
from tiny import block_source, blocks, tiny_config, tiny_stage

from proda_jax.adaptation.stages import build, kinds
from proda_jax.configs import base, demo, gta5, synthia
from proda_jax.configs.studies import common, table1, table8
from proda_jax.inference.loading import load
from proda_jax.report import paper
from proda_jax.run import settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.study import costs, page, plan, results, run
from proda_jax.study.plan import INPUTS, Plan, Row
from proda_jax.system.files import alone
from proda_jax.system.interruption import Interruption, Stopped

ROOT = pathlib.Path(__file__).parents[2]
TABLES = [f"table{number}" for number in range(1, 11)]
FIGURES = [f"figure{number}" for number in range(2, 6)]


def config_of(name: str, form: str):
    """A study's configuration, with files in place of weights."""
    c = importlib.import_module(f"proda_jax.configs.studies.{name}").get_config(form)
    starts = {section.get("init") for section in c.values() if isinstance(section, ml_collections.ConfigDict)}
    for kind in starts & {"imagenet", "self_supervised"}:
        c.model[f"{kind}_weights"] = __file__
    return c


# The configurations


def test_every_table_and_figure_has_its_study():
    there = {path.stem for path in (ROOT / "configs" / "studies").glob("*.py")} - {"__init__", "common", "demo"}
    assert there == {*TABLES, *FIGURES, "stages", "camvid", "one_stage"}


@pytest.mark.parametrize("name, form", [
    *((name, form) for name in (*TABLES, *FIGURES, "stages") for form in ("gta5", "demo", "camvid")
      if (name, form) != ("table2", "camvid")),
    *(("one_stage", form) for form in ("demo", "camvid", "reverse")),
])  # fmt: skip
def test_a_study_is_possible_in_every_form_and_its_rows_name_its_stages(name, form):
    c = config_of(name, form)
    found = plan(c)
    assert found.name == name and found.seeds == (0, 1, 2)
    assert len({(row.variant, row.stage) for row in found.rows}) == len({row.label for row in found.rows})
    assert len({row.label for row in found.rows}) == len(found.rows)
    for variant, config in found.variants.items():
        rows = {stage for row in found.rows if row.variant == variant for stage in row.stages}
        used = rows | {config[stage].get(key) for stage in config.stages for key in INPUTS}
        assert rows <= set(config.stages) <= used  # nothing is run for nothing
    assert any("tuned" in note for note in found.notes)


@pytest.mark.parametrize("direction", ["dusk", "reverse", "starts"])
def test_camvid_learns_from_one_time_of_day_and_is_scored_on_the_other_on_images_it_never_sees(direction):
    c = config_of("camvid", direction)
    plan(c)
    times = [c.data[role].split.split("_")[0] for role in ("source", "target", "validation")]
    assert times == (["dusk", "day", "day"] if direction == "reverse" else ["day", "dusk", "dusk"])
    assert len({c.data[role].split for role in ("source", "target", "validation")}) == 3


ALONE = [f"{task}_{system}" for task in ("gta5", "camvid") for system in table1.SYSTEMS]


@pytest.mark.parametrize("form", ["demo", "synthia", *ALONE])
def test_every_system_takes_as_many_steps_after_the_same_start(form, tmp_path):
    c = config_of("table1", form)
    found = plan(c)

    def steps_to(name: str) -> int:
        if name == "source":
            return 0
        before = {c[name].get(key) for key in INPUTS} - {"source"}
        return c[name].steps + max((steps_to(other) for other in before if other in c), default=0)

    start, budget = costs.start(found), table1.STEPS[form.split("_")[0]]
    assert start == {(variant, "source") for variant in found.variants}
    for row in found.rows:
        cost = costs.of_row(found, row, start, tmp_path)
        if row.stage == "source":
            assert cost.steps == 0
        else:
            assert {steps_to(stage) for stage in row.stages} == {budget}
            # no stage is shared besides, so that the longest way is the sum
            assert cost.steps == len(row.stages) * budget
        assert found.base(row).variant == row.variant and found.base(row).stage == "control"
    alike = ("optimizer", "batch_norm", "weight_decay", "schedule", "statistics")
    trained = [config[stage] for config in found.variants.values() for stage in config.stages]
    labelling = [stage for stage in trained if stage.init != "imagenet" and kinds.of(stage).segments]
    assert len({tuple(stage[key] for key in alike) for stage in labelling}) == 1
    assert all(stage.schedule_steps == stage.steps for stage in trained)


@pytest.mark.parametrize("form", ["demo", "camvid"])
def test_views_and_what_counts_as_rare_are_in_proportion_to_small_images(form):
    c = config_of("table1", form)
    for config in plan(c).variants.values():
        assert all(not config[stage].views for stage in config.stages)
    height, width = c.views.crop_size
    assert c.memory.rare_pixels / (height * width) == pytest.approx(64 * 64 / (512 * 1024), rel=0.01)


def test_systems_of_two_heads_are_beside_the_others_and_have_a_start_of_their_own():
    found = plan(config_of("table1", "demo"))
    heads = {name: (config.model.auxiliary_head, config.model.head) for name, config in found.variants.items()}
    assert heads == {"": ("none", "deeplabv3plus"), "levels": ("lower", "deeplab"), "clan": ("parallel", "deeplab"),
                     "uncertainty": ("lower", "deeplab")}  # fmt: skip
    assert {row.published.source for row in found.rows if row.published} == {"Table 1"}
    named = [row.published for row in found.rows if row.published]
    assert {id(row) for row in named} == {id(row) for row in paper.TABLE_1.values()} and len(named) == 14


@pytest.mark.parametrize("form", ["gta5", "synthia"])
def test_every_system_of_the_papers_table_has_its_row(form, tmp_path):
    found = plan(config_of("table1", form))
    theirs = paper.TABLE_1 if form == "gta5" else paper.TABLE_2
    assert sorted(row.published.miou or 0 for row in found.rows if row.published) == sorted(
        row.miou or 0 for row in theirs.values()
    )
    titles, rows = results.cells(found, results.collect(found, tmp_path))
    assert ("paper, 13 classes" in titles) == (form == "synthia") and "paper's gain over source only" in titles
    cells = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}
    gains = {"gta5": {"CLAN": "+6.6", "ProDA": "+20.9"}, "synthia": {"CLAN": "–", "ProDA": "+20.6"}}[form]
    assert {name: cells[name]["paper's gain over source only"] for name in gains} == gains
    if form == "synthia":
        assert (cells["CLAN"]["paper"], cells["CLAN"]["paper, 13 classes"]) == ("–", "47.8")


def test_what_the_paper_does_not_have_is_refused():
    c = config_of("table1", "demo_clan")
    with c.study.unlocked():
        c.study.rows = (*c.study.rows[:2], ("CLAN", "clan", "CLANN", ""))
    with pytest.raises(ValueError, match="what Table 1 calls the row 'CLAN'.* = 'CLANN': .*did you mean 'CLAN'"):
        plan(c)
    with c.study.unlocked():
        c.study.rows = (*c.study.rows[:2], ("CLAN", "clan", None, "level"))
    with pytest.raises(ValueError, match="a variant in study.rows = 'level'"):
        plan(c)


@pytest.mark.parametrize("name", [*TABLES, *FIGURES, "camvid", "stages"])
def test_another_form_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=rf"configs/studies/{name}.py:huge: expected"):
        config_of(name, "huge")


def test_rows_of_stage_1_differ_in_what_is_studied_alone():
    """Which setting that is, by study; everything else is equal, the random draws too."""
    studied = {
        "table4": {"label_threshold"}, "table5": {"prototype_momentum"}, "table6": {"prototype_init"},
        "table7": {"views"}, "table8": {"temperature"}, "table9": {"ce_weight", "rce_weight"},
        "table10": {"consistency_weight", "regulariser_weight"},
    }  # fmt: skip
    for name, settings_studied in studied.items():
        for form in ("gta5", "demo", "camvid"):
            c = config_of(name, form)
            draws = set()
            for stage in (row[1] for row in c.study.rows):
                differing = {key for key, value in c[stage].items() if value != c.stage1[key]}
                assert differing - {"random_as"} <= settings_studied, (name, form, stage)
                draws.add(c[stage].random_as or stage)
            assert draws == {"stage1"}, (name, form)


def test_the_papers_own_settings_are_the_recipe_at_full_size():
    """The row of each sensitivity table that the paper calls its default has 53.7 and is stage 1 itself."""
    for name in ("table4", "table5", "table6", "table7", "table8", "table9", "table10"):
        found = plan(config_of(name, "gta5"))
        assert [row.paper for row in found.rows if row.stage == "stage1"] == [53.7], name


def test_numbers_that_stand_in_several_places_agree():
    """Studies, and the rows that reports of runs set beside theirs."""
    theirs = {"stages": paper.GTA5, "table2": paper.SYNTHIA, "table3": paper.GTA5}
    compared = 0
    for name, rows in theirs.items():
        c = config_of(name, "gta5")
        kinds = {stage: c[stage].kind for stage in c.stages}
        for row in plan(c).rows:
            key = paper.row_of(json.loads(c[row.stage].to_json()), kinds)
            if row.paper is not None:
                assert rows[key].miou == row.paper, (name, row)
                compared += 1
    assert compared == 18


def test_rows_without_a_number_in_the_running_text_have_none():
    found = {row.label: row.paper for row in plan(config_of("table3", "gta5")).rows}
    unsettled = {"stage 2 from supervised weights", "stage 3 from stage 2", "stage 3 from supervised weights"}
    assert {label for label, number in found.items() if number is None} == unsettled
    assert all(row.paper is None for name in FIGURES for row in plan(config_of(name, "gta5")).rows)


@pytest.mark.parametrize("form", ["gta5", "demo", "camvid"])
def test_studies_of_one_workdir_mean_the_same_by_a_stages_name(form):
    """Table 2 has other data, Table 1 other terms, and each a workdir of its own."""
    sections: dict[str, dict] = {}
    for name in [*TABLES, *FIGURES, "stages"]:
        if name not in ("table1", "table2"):
            c = config_of(name, form)
            for stage in c.stages:
                known = sections.setdefault(stage, c[stage].to_dict())
                assert known == c[stage].to_dict(), (name, stage)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": (("a", "stage9", None),)}, "config.study.rows = 'stage9': expected one of .*did you mean 'stage1'"),
        ({"gain_over": "warmup"}, "config.study.gain_over = 'warmup'"),
        ({"show": ("curve",)}, "config.study.show = 'curve': .*did you mean 'curves'"),
        ({"seeds": (0, 0)}, r"config.study.seeds = \(0, 0\): expected different whole numbers"),
    ],
)
def test_a_study_that_cannot_work_is_refused(change, message):
    c = config_of("table8", "demo")
    c.study.update(change)
    with pytest.raises(ValueError, match=message):
        plan(c)


@pytest.mark.parametrize("form", ["gta5", "synthia"])
def test_the_large_table_has_the_settings_of_its_task_and_of_its_systems(form):
    task = {"gta5": gta5, "synthia": synthia}[form].get_config()
    c = config_of("table1", form)
    assert c.stage1.regulariser_weight == task.stage1.regulariser_weight
    assert c.fda_round2.fourier_beta == 0.01 and config_of("table1", "demo").fda_round2.fourier_beta == 0.05


def test_rows_of_stages_that_are_left_out_are_left_out():
    c, rows = (config_of("table1", "demo") for _ in range(2))
    c.stages = ("source", "control", "minent", "dacs")
    kept = [row.label for row in plan(c).rows if not row.variant]
    of = {row.label: row.stages for row in plan(rows).rows if not row.variant}
    assert kept == [label for label, stages in of.items() if set(stages) <= set(c.stages)] and len(kept) == 4
    c.stages = ("source", "minent")
    with pytest.raises(ValueError, match="config.study.gain_over = 'control'"):
        plan(c)
    c = config_of("table8", "demo")
    c.stages = ("source",)
    with pytest.raises(ValueError, match="config.stages = .*: expected a stage that a row of the study scores: temp"):
        plan(c)


def test_a_configuration_without_a_study_is_refused():
    with pytest.raises(ValueError, match="--mode=study needs a configuration with a section 'study'"):
        plan(demo.get_config())


# What the table says, against NumPy

SCORES = {"one": [30.0, 31.5, 33.0], "two": [32.5, 33.0, 37.0], "three": [29.0, 30.0]}


@pytest.fixture
def written(tmp_path) -> tuple[Plan, pathlib.Path]:
    """A study whose stages are complete with the scores above; the third row lacks its last seed."""
    rows = tuple(Row(f"row {name}", name, number) for name, number in (("one", 40.0), ("two", 41.0), ("three", 42.0)))
    for name, values in SCORES.items():
        for seed, value in enumerate(values):
            last = {"step": 5, "miou": value, "iou": {"road": value + 1, "sky": None}}
            folder = tmp_path / f"seed{seed}" / name
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"name": name, "steps": 5, "best": last, "last": last}))
            (folder / "history.jsonl").write_text(json.dumps(last | {"seconds": 1.0}) + "\n")
    c = demo.get_config()
    with c.unlocked():
        c.stages = tuple(SCORES)
        c.update({name: base.supervised("random", 5) for name in SCORES})
    return Plan("made_up", "Made up", "Table 0", rows, (0, 1, 2), {"": c}, ("A note.",)), tmp_path


@pytest.mark.smoke("study")
def test_means_spreads_and_gains_are_those_of_numpy(written):
    found, workdir = written
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(results.csv_table(found, results.collect(*written))))}
    base_values = np.array(SCORES["one"])
    for name, values in SCORES.items():
        row, gains = rows[f"row {name}"], np.array(values) - base_values[: len(values)]
        assert float(row["miou_mean"]) == pytest.approx(np.mean(values))
        assert float(row["miou_spread"]) == pytest.approx(np.std(values, ddof=1))
        assert float(row["gain_mean"]) == pytest.approx(np.mean(gains), abs=1e-9)
        assert float(row["gain_spread"]) == pytest.approx(np.std(gains, ddof=1), abs=1e-9)
    assert (rows["row two"]["paper"], float(rows["row two"]["paper_gain"])) == ("41.0", pytest.approx(1.0))
    assert rows["row three"]["miou_seed2"] == ""


def test_text_latex_and_json_show_the_same_beside_the_paper(written):
    found, workdir = written
    results.write(found, workdir)
    folder = workdir / "made_up"
    line = next(line for line in (folder / "study.txt").read_text().splitlines() if line.startswith("row two"))
    assert line.split()[2:] == ["32.5", "33.0", "37.0", "34.2", "±", "2.5", "+2.7", "±", "1.3", "41.0", "+1.0"]
    assert "row three & 29.0 & 30.0 & -- & 29.5 $\\pm$ 0.7 (2 of 3)" in (folder / "study.tex").read_text()
    held = json.loads((folder / "study.json").read_text())
    assert held["complete"] is False and held["notes"] == ["A note."]
    assert held["rows"][1]["mean"] == pytest.approx(np.mean(SCORES["two"]))


@pytest.mark.parametrize("name", ["table9", "table10"])
@pytest.mark.parametrize("form", ["gta5", "demo"])
def test_two_settings_stand_against_each_other_as_in_the_paper(name, form, tmp_path):
    """Every pair in its place, beside the paper's number; of one there is a score."""
    numbers = importlib.import_module(f"proda_jax.configs.studies.{name}")
    seconds = numbers.BETAS if name == "table9" else numbers.GAMMAS_2
    found = plan(config_of(name, form), (5,))
    row = found.rows[1]
    (tmp_path / "seed5" / row.stage).mkdir(parents=True)
    last = {"step": 5, "miou": 12.34, "iou": {}}
    (tmp_path / "seed5" / row.stage / "result.json").write_text(json.dumps({"name": row.stage, "last": last}))
    titles, rows = results.grid(found, results.collect(found, tmp_path))
    assert [title.split()[1] for title in titles[1:]] == [f"{second:g}" for second in seconds]
    for (first, theirs), cells in zip(numbers.PAPER.items(), rows, strict=True):
        assert cells[0].split()[1] == f"{first:g}"
        assert [cell.split("(")[-1] for cell in cells[1:]] == [f"{number})" for number in theirs]
    assert rows[0][2].startswith("12.3 (") and sum("12.3" in cell for cells in rows for cell in cells) == 1
    printed = results.text_table(found, results.collect(found, tmp_path)).splitlines()
    assert " ".join(rows[-1]).split() in [line.split() for line in printed]


def test_agreement_counts_pairs_in_the_papers_order(written):
    """Our order is three < one < two, the paper's one < two < three."""
    assert results.agreement(results.collect(*written)) == (1, 3)


def test_the_page_has_the_table_and_says_what_is_missing(written):
    found, workdir = written
    text = page.write_page(found, workdir).read_text()
    assert "34.2 ± 2.5" in text and "row three: 2 of 3 seeds." in text and "Table 0" in text
    rows = list(csv.DictReader((workdir / "made_up" / "report" / "data" / "study.csv").open()))
    assert [float(row["miou"]) for row in rows if row["row"] == "row two"] == SCORES["two"]


# Running


@pytest.fixture(scope="module", autouse=True)
def kept_programs():
    """A study forgets each stage's programs, of which there may be dozens; other tests want some of these again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "clear_caches", lambda: None)
        yield


def tiny_study():
    """Two rows that share a stage; programs that compile quickly."""
    c = tiny_config()
    c.snapshots.images = 0
    c.source = tiny_stage(base.supervised("random", 2))
    c.more = tiny_stage(base.supervised("source", 2))
    c.again = common.variant(c.more, "more")
    rows = [("more", "more", None), ("again", "again", 50.0), ("both", "source+more", None)]
    return common.study(c, "tiny", "Tiny", rows, paper="", gain_over="more", show=("curves",))


def given(config, workdir) -> Sources:
    data = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    return Sources(config, workdir, data | {"validation": block_source(2, 2)})


class After(Interruption):
    """Asks to stop after a number of stages."""

    def __init__(self, stages: int):
        super().__init__()
        self.left = stages

    def __exit__(self, *_) -> None:
        self.left -= 1
        self.wished = self.left <= 0


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A workdir of two seeds that was interrupted once, with what stood there then."""
    workdir, found = tmp_path_factory.mktemp("study"), plan(tiny_study(), (0, 1))
    options = {"sources": given, "devices_used": 1}
    with pytest.raises(Stopped):
        run(found, workdir, interruption=After(2), **options)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}
    table = (workdir / "tiny" / "study.txt").read_text()
    run(found, workdir, **options)
    return workdir, found, before, table


def test_an_interrupted_study_goes_on_and_runs_nothing_twice(interrupted):
    workdir, found, before, table = interrupted
    assert sorted(path.parent.name for path in before) == ["more", "source", "source+more"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert "(1 of 2)" in table  # what there was by then
    done = {f"{path.parents[1].name}/{path.parent.name}" for path in workdir.rglob("result.json")}
    assert done == {f"seed{seed}/{stage}" for seed in (0, 1) for stage in ("source", "more", "again", "source+more")}
    assert json.loads((workdir / "tiny" / "study.json").read_text())["complete"]


def test_rows_are_the_scores_of_their_stages_and_seeds_differ(interrupted):
    workdir, found, _, _ = interrupted
    held = json.loads((workdir / "tiny" / "study.json").read_text())["rows"]
    for row in held:
        for seed in (0, 1):
            last = json.loads((workdir / f"seed{seed}" / row["stage"] / "result.json").read_text())["last"]
            assert row["seeds"][str(seed)]["miou"] == last["miou"]
            stages = [stage for stage in row["stage"].split("+") if stage != "source"]
            assert row["cost"]["stages_after_start"] == stages and row["cost"]["steps_after_start"] == 2
            measured = row["cost"]["seeds"][str(seed)]
            assert measured["restarts"] == 0 and min(measured[what] for what in ("seconds", "step_bytes")) > 0
    for seed in (0, 1):
        noted = json.loads((workdir / f"seed{seed}" / "config.json").read_text())
        assert noted["seed"] == seed and noted["data"]["data_dir"] == str(workdir / "data")


def test_an_average_is_scored_as_the_command_scores_it_and_predicts_with_the_mean_of_its_networks(interrupted):
    workdir, found, _, _ = interrupted
    held = json.loads((workdir / "seed0" / "source+more" / "result.json").read_text())["last"]
    (_, config), *_ = found.pieces
    scores = Experiment(config, workdir / "seed0", given(config, workdir), 1).evaluate("source+more", "last")
    assert (held["miou"], held["iou"]) == (scores["miou"], scores["iou"])
    image = blocks(1, 7)[0][0]
    both = load(workdir / "seed0", stage="source+more")
    ones = [load(workdir / "seed0", stage=stage) for stage in ("source", "more")]
    logits = [one.network[0].apply(one.network[1], image[None] / np.float32(255), train=False).logits for one in ones]
    mean = both.network[0].apply(both.network[1], image[None] / np.float32(255), train=False).logits
    np.testing.assert_allclose(mean, np.mean(logits, axis=0), rtol=1e-5, atol=1e-5)
    assert both(image).shape == image.shape[:2] and both.card.stage == "source+more"
    with pytest.raises(ValueError, match="average of several networks"):
        both.save_pretrained(workdir / "shared")


def test_a_study_that_shares_the_workdir_reuses_stages_and_refuses_other_settings(interrupted):
    workdir, found, _, _ = interrupted
    before = (workdir / "seed0" / "source" / "result.json").stat().st_mtime_ns
    c = tiny_study()
    c.study.rows, c.study.name = (("source", "source", None),), "other"
    c.study.gain_over, c.stages = "source", ("source",)
    run(plan(c, (0,)), workdir, sources=given, devices_used=1)
    assert (workdir / "seed0" / "source" / "result.json").stat().st_mtime_ns == before
    c.source.backbone_rate = 0.5
    with pytest.raises(ValueError, match="config.source.backbone_rate was 0.01 and is 0.5 now"):
        run(plan(c, (0,)), workdir, sources=given, devices_used=1)


def test_a_stage_that_another_process_is_at_is_left_to_it(tmp_path, monkeypatch):
    """The other process holds the first stage of seed 0; seed 1 is run meanwhile, and then it is waited for."""
    c, finished = tiny_study(), []
    c.study.rows, c.study.gain_over, c.stages = (("source", "source", None),), "source", ("source",)
    found = plan(c, (0, 1))
    lock = tmp_path / "seed0" / "source" / "lock"

    def pause(_: float) -> None:
        finished.extend(sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob("result.json")))
        raise KeyboardInterrupt

    monkeypatch.setattr("proda_jax.study.runner.sleep", pause)
    with alone(lock, "busy", wait=False), pytest.raises(KeyboardInterrupt):
        run(found, tmp_path, sources=given, devices_used=1)
    assert finished == ["seed1/source"]


def test_a_row_that_cannot_be_trained_is_named_and_the_others_are_run(tmp_path):
    c = tiny_study()
    c.max_skipped, c.more.backbone_rate, c.more.head_rate = 1, 1e30, 1e30  # as in test_bad_numbers.py
    with c.unlocked():
        c.after = common.variant(c.again, init="more")
    with c.study.unlocked():
        c.study.rows = (("more", "more", None), ("after", "after", None), ("again", "again", None))
    c.stages = ("source", "more", "after", "again")
    found = plan(c, (0,))
    failed = run(found, tmp_path, sources=given, devices_used=1)
    assert list(failed) == ["seed0, more"] and "were not finite" in failed["seed0, more"]
    held = json.loads((tmp_path / "tiny" / "study.json").read_text())
    assert [len(row["seeds"]) for row in held["rows"]] == [0, 0, 1] and not held["complete"]


def test_variants_draw_what_their_model_draws(interrupted):
    """With the same settings they are the same in every step, as views, order and dropout are; another seed is not."""
    workdir = interrupted[0]

    def losses(folder: str) -> list[float]:
        return [json.loads(line)["source_ce"] for line in (workdir / folder / "metrics.jsonl").read_text().splitlines()]

    assert losses("seed0/more") == losses("seed0/again")
    assert losses("seed0/more") != losses("seed1/more")
    assert build.order_seed(0, "more") != build.order_seed(0, "again")  # what it would draw by its own name


# The command


def study(*flags: str) -> subprocess.CompletedProcess:
    return run_main("--mode=study", "--config=configs/demo.py:scratch", *flags)


def test_the_command_prints_the_table_of_what_is_complete_and_says_where_its_files_are(tmp_path):
    for name, miou in (("source", 20.0), ("warmup", 30.0)):
        last = {"step": 150, "miou": miou, "iou": {"road": miou}}
        (tmp_path / "seed7" / name).mkdir(parents=True)
        (tmp_path / "seed7" / name / "result.json").write_text(json.dumps({"name": name, "best": last, "last": last}))
    ran = study(f"--workdir={tmp_path}", "--sweep=warmup.steps=150", "--seeds=7",
                "--config.stages=('source', 'warmup')")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^warmup.steps=150 +30.0 +30.0", ran.stdout, re.MULTILINE)
    for name in ("study.json", "study.csv", "study.tex", "report/index.html"):
        assert (tmp_path / "sweep_warmup.steps" / name).exists()


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    assert "--mode=study needs a configuration with a section 'study'" in study(f"--workdir={tmp_path}").stderr
    assert "expected whole numbers, such as 0,1,2" in study(f"--workdir={tmp_path}", "--seeds=a").stderr
    assert "--workdir is needed" in study().stderr


def test_a_studys_stages_can_be_trained_as_one_run_too():
    settings.check(table8.get_config("demo"))
