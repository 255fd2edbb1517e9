"""Sweeps of any setting: which stages are copied, what is shared, and what is refused."""

import pytest

from proda_jax.adaptation.stages.sections import views_of
from proda_jax.configs import demo, small
from proda_jax.study import sweep, swept


def short_run() -> object:
    c = demo.get_config("scratch")
    c.stages = ("source", "warmup", "stage1")
    return c


def test_a_sweep_copies_a_stage_for_each_value_and_shares_what_comes_before():
    found = swept(short_run(), "stage1.temperature=0.5,2,4")
    (c,) = found.variants.values()
    stages = [row.stage for row in found.rows]
    assert c.stages == ("source", "warmup", *stages) and stages[1] == "stage1"  # 2 is its own value
    assert [c[stage].temperature for stage in stages] == [0.5, 2.0, 4.0]
    assert found.seeds == (0,) and {c[stage].random_as or stage for stage in stages} == {"stage1"}


def test_stages_after_a_swept_one_are_copied_with_it():
    found = swept(demo.get_config("scratch"), "denoise.temperature=1,2", (3, 4))
    (c,) = found.variants.values()
    third = c[found.rows[2].stage]
    assert found.rows[2].label == "denoise.temperature=1: stage3" and found.seeds == (3, 4)
    second = c[third.teacher]
    assert c[second.teacher].temperature == 1.0 and second.init == second.teacher
    assert found.base(found.rows[5]) == found.rows[2]  # gains are over the same stage with the first value


def test_a_stage_before_one_whose_network_is_in_a_file_is_not_trained_for_nothing():
    c = short_run()
    c.stages, c.warmup.weights = ("warmup", "stage1"), __file__
    c.model.input_mean, c.model.input_std = (0.0,) * 3, (1.0,) * 3  # nothing starts at random
    (found,) = swept(c, "stage1.temperature=1,2").variants.values()
    assert found.stages[0] == "warmup" and "source" not in found.stages


@pytest.mark.parametrize("sweep", ["pretrained.contrast_temperature=0.1,0.5", "views.flip=True,False"])
def test_pretraining_which_has_no_score_has_no_row(sweep):
    c = short_run()
    with c.unlocked():
        c.pretrained = small.pretrain("random", 10)
        c.stage2 = small.distill("warmup", 10)
    c.stages, c.stage2.init = ("source", "warmup", "pretrained", "stage2"), "pretrained"
    found = swept(c, sweep)
    rows = ["stage2"] if sweep.startswith("pretrained") else ["source", "warmup", "stage2"]
    assert [row.over for row in found.rows] == [*range(len(rows))] * 2
    assert [row.stage.split("_")[0] for row in found.rows] == rows * 2


def test_a_setting_of_all_stages_makes_an_experiment_for_each_value():
    found = swept(short_run(), "views.scale=(1.0, 1.0),(0.75, 1.25)")
    assert [c.views.scale for c in found.variants.values()] == [(1.0, 1.0), (0.75, 1.25)]
    assert len({folder for folder, _ in found.pieces}) == 2 and len(found.rows) == 6


def test_a_stages_own_views_can_be_swept():
    found = swept(short_run(), "stage1.views.randaugment=True,False")
    (c,) = found.variants.values()
    assert [views_of(c, row.stage).randaugment for row in found.rows] == [True, False]
    assert views_of(c, "warmup").randaugment


@pytest.mark.parametrize(
    "text, message",
    [
        ("stage1.temprature=1", "did you mean 'temperature'"),
        ("stag1.temperature=1", "did you mean 'stage1'"),
        ("stage1.temperature=hot", r"= 'hot': expected values like 2\.0"),
        ("stage1.temperature=-1", "expected a positive number"),
        ("stage1.weighting=prototype", "did you mean 'prototypes'"),
        ("stage1.temperature", "expected a setting and its values"),
        ("stage1=1", "expected one setting of it"),
        ("seed=1,2", "seeds are given as --seeds"),
        ("views.scale=1", "expected values like"),
        ("stage1.label_scales=(0.5,1.0),(0,5.1,0)", "told apart by letters and digits"),
        ("stage1.random_as=1", "values of another type"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_with_the_nearest_name(text, message):
    with pytest.raises(ValueError, match=message):
        swept(short_run(), text)


def test_values_stand_between_commas_that_are_in_no_bracket():
    assert sweep.split("(1, 2), 'a,b', 3") == ["(1, 2)", "'a,b'", "3"]
