"""The paper's numbers in the report: against each other, and against our recipes."""

import numpy as np
import pytest
from fake_workdir import fake_workdir, gta5_like

from proda_jax.configs import (
    advent,
    base,
    bdl,
    cag,
    cbst,
    fada,
    fda,
    gta5,
    gta5_released,
    lrent,
    mrkld,
    seg_uncertainty,
    synthia,
)
from proda_jax.report import paper, tables
from proda_jax.report.content import Folder
from proda_jax.report.run import flat, read


@pytest.mark.parametrize("rows", [paper.GTA5, paper.SYNTHIA, paper.TABLE_1, paper.TABLE_2])
def test_each_mean_of_the_paper_is_that_of_its_classes(rows):
    checked = 0
    for row in rows.values():
        if row.iou and row.miou is not None:
            assert abs(np.mean(list(row.iou.values())) - row.miou) <= 0.12  # columns are rounded, and so are means
            checked += 1
        if row.miou_13 is not None:
            thirteen = [value for name, value in row.iou.items() if name not in ("wall", "fence", "pole")]
            assert len(thirteen) == 13 and abs(np.mean(thirteen) - row.miou_13) <= 0.1
    assert checked >= 2


def test_the_gains_that_the_paper_states_follow_from_its_scores():
    """Section 5.3: +5.0, +0.4, stage 1 1.4 over denoising, stage 2 0.6 over going on, 1.1 by distilling, 0.6 more."""
    score = {name: row.miou for name, row in paper.GTA5.items()}
    stated = [("warm-up", "source", 5.0), ("self-training, symmetric loss", "self-training", 0.4),
              ("stage 1", "denoising alone", 1.4), ("stage 2", "stage 2 from stage 1", 0.6),
              ("stage 2", "stage 2, not distilled", 1.1), ("stage 3", "stage 2", 0.6),
              ("stage 3", "source", 20.9)]  # fmt: skip
    assert [round(score[after] - score[before], 1) for after, before, _ in stated] == [gain for *_, gain in stated]
    assert round(paper.SYNTHIA["stage 3"].miou - paper.SYNTHIA["source"].miou, 1) == 20.6


def settings_of(config) -> tuple[dict, dict]:
    tree = config.to_dict()
    return dict(flat(tree)), {name: dict(flat(tree[name])) for name in config.stages}


@pytest.mark.parametrize("recipe", [gta5, synthia])
def test_stages_of_our_recipes_are_found_in_the_paper(recipe):
    settings, stages = settings_of(recipe.get_config())
    title, rows = paper.task(settings)
    assert title == {"gta5": "GTA5 to Cityscapes", "synthia": "SYNTHIA to Cityscapes"}[settings["task"]]
    kinds = {name: stage["kind"] for name, stage in stages.items()}
    found = [paper.row_of(stage, kinds) for stage in stages.values()]
    assert found == ["warm-up", "stage 1", "stage 2", "stage 3"] and "stage 3" in rows


def test_variants_of_stage_1_are_rows_of_table_3():
    def row(**changes) -> str | None:
        stage = base.denoise("warmup", 10)
        stage.update(changes)
        return paper.row_of(dict(flat(stage.to_dict())), {})

    assert row() == "stage 1" and row(consistency_weight=0.0) == "denoising alone"
    assert row(weighting="none") == "structure learning alone"
    assert row(weighting="none", consistency_weight=0.0) == "self-training, symmetric loss"
    plain = base.self_training("warmup", 10)
    assert paper.row_of(dict(flat(plain.to_dict())), {}) == "self-training"
    assert row(label_source="moving") is None and row(weighting="network") is None


@pytest.mark.parametrize("system", [bdl, cbst, mrkld, lrent, fada, fda, seg_uncertainty, cag, advent])
def test_stages_of_other_systems_are_none_of_the_papers_networks(system):
    """But for those that learn the source alone, or begin as the paper's warm-up does (CAG-UDA)."""
    _, stages = settings_of(system.get_config())
    kinds = {name: stage["kind"] for name, stage in stages.items()}
    found = {name: paper.row_of(stage, kinds) for name, stage in stages.items()}
    own = {name: row for name, row in found.items() if kinds[name] != "supervised" and row}
    assert own == ({"warmup": "warm-up"} if system is cag else {})


def test_a_stage_with_a_batch_of_its_own_has_its_own_epochs():
    settings, stages = settings_of(gta5.get_config())
    here = {key: value for key, value in stages["stage1"].items()}
    shown = [row[1] for row in paper.differences(settings, {"stage1": here | {"batch_size": 8, "steps": 2975}})]
    assert "2,975 steps of 8 images: 8.0 epochs" in shown


def test_settings_with_the_papers_values_differ_in_nothing():
    config = gta5.get_config()
    config.model.head, config.views.scale, config.views.base_width = "deeplab", (1.0, 1.0), 2048
    config.stages = ("stage1", "stage2")
    for name in config.stages:
        config[name].steps = 59_500  # 80 epochs of 2975 images in batches of 4
    config.stage1.update(schedule="per_epoch", reduction="sum", ema_view="crop", prototype_update="batch",
                         prototype_init_by="pixels")  # fmt: skip
    config.stage2.target_view = "weak"
    assert paper.differences(*settings_of(config)) == []
    config.stage1.temperature = 2.0
    config.stage2.steps = 20_000
    assert paper.differences(*settings_of(config)) == [
        ("stage1.temperature", 2.0, 1.0, "Equation 4, Table 8"),
        ("stage2.steps", "20,000 steps of 4 images: 26.9 epochs", "80 epochs", "Section 5.1"),
    ]


def test_the_released_choices_are_listed_as_differences():
    names = {name for name, *_ in paper.differences(*settings_of(gta5_released.get_config()))}
    expected = {"model.head", "views.scale", "views.base_width", "stage1.ema_view", "stage2.distillation_form"}
    assert expected | {"stage3.init"} <= names


def test_synthia_has_no_regulariser_in_the_paper_either():
    names = {name for name, *_ in paper.differences(*settings_of(synthia.get_config()))}
    assert "stage1.regulariser_weight" not in names and "stage1.reduction" in names


def test_other_tasks_have_no_row():
    settings, _ = settings_of(gta5.get_config())
    assert paper.task(settings | {"data.target.name": "camvid"}) is None
    assert paper.task(settings | {"data.label_space": "synthia16"}) is None


def test_gta5_stands_beside_the_paper(tmp_path):
    fake_workdir(tmp_path, gta5_like(), images=1, size=(48, 96))
    run, folder = read(tmp_path), Folder(tmp_path / "report")
    by_stage, by_class, *_, note = tables.scores(run, folder).blocks
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
