"""Exact resume: a run that died at any step ends as if nothing had happened; only its own settings go on with it."""

import pytest
from survival import At, assert_same_end, checkpoints_in, config_of, interrupt, run


@pytest.mark.parametrize(
    ("stage", "step"),
    [("stage1", 4), *(pytest.param(*at, marks=pytest.mark.slow) for at in (("source", 3), ("stage1", 2)))],
)
def test_a_run_that_is_interrupted_at_any_step_ends_in_the_same_bits(stage, step, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config_of(), At(config_of(), stage, step, interrupt))
    assert checkpoints_in(tmp_path / stage) == [str(i) for i in range(max(step - 2, 1), step)]
    assert_same_end(tmp_path, whole, "source", "stage1")


@pytest.mark.smoke("run")
def test_checkpoints_are_as_far_apart_as_settings_say(tmp_path):
    config = config_of(save_every=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, At(config, "source", 4, interrupt))
    assert checkpoints_in(tmp_path / "source") == ["3"]
    config = config_of(save_every=100, save_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "minutes", config, At(config, "source", 3, interrupt))
    assert checkpoints_in(tmp_path / "minutes" / "source") == ["1", "2"]


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("seed", 1, "config.seed was 0 and is 1 now"),
        ("source.backbone_rate", 0.5, "config.source.backbone_rate was 0.01 and is 0.5 now"),
        ("model.width", 16, "config.model.width was 8 and is 16 now"),
        ("views.crop_size", (32, 32), r"config.views.crop_size was \[32, 64\] and is \[32, 32\] now"),
        ("data.source.split", "other", "config.data.source.split was 'train' and is 'other' now"),
    ],
)
def test_a_workdir_of_other_settings_is_refused_with_the_difference(setting, value, told, whole):
    with pytest.raises(ValueError, match=f"source was made with other settings: {told}.*Use another workdir"):
        run(whole[0], config_of(**{setting: value}))


def test_settings_that_decide_nothing_may_change(whole):
    config = config_of(log_every=3, save_every=7, evaluate_batch_size=1)
    config.data.source.raw_dir = "elsewhere"
    assert run(whole[0], config) == whole[1]
