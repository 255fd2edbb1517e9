"""Whole runs on other numbers of devices."""

import shutil

import pytest
from survival import At, assert_close, config_of, interrupt, networks_of
from tiny import tiny_stage

from proda_jax.configs import base
from proda_jax.data.checks import NONE
from proda_jax.run.experiment import Experiment


@pytest.fixture(scope="module")
def written_on_two(tmp_path_factory):
    """A run that was interrupted on two devices, and the networks that it would have ended in on as many."""
    folder = tmp_path_factory.mktemp("two")
    config = config_of(stages=("source",), batch_size=4, **{"snapshots.images": 0, "data.validation.name": NONE})
    with pytest.raises(KeyboardInterrupt):
        Experiment(config, folder / "begun", At(config, "source", 3, interrupt), devices_used=2).run()
    Experiment(config, folder / "whole", At(config), devices_used=2).run()
    return config, folder / "begun", networks_of(folder / "whole", ("source",))


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_checkpoint_of_two_devices_continues_on_another_number_of_them(count, written_on_two, tmp_path):
    config, begun, expected = written_on_two
    shutil.copytree(begun, tmp_path / "run")
    taken = []
    Experiment(config, tmp_path / "run", At(config, "source", 3, lambda: taken.append(3)), devices_used=count).run()
    assert taken == [3]  # after the checkpoint of step 2
    assert_close(networks_of(tmp_path / "run", ("source",)), expected, 1e-4)


@pytest.mark.slow
def test_one_two_and_four_devices_train_alike_over_twenty_steps_of_every_stage(tmp_path):
    config = config_of(save_every=20, evaluate_every=20)
    config.stages, config.batch_size = ("source", "warmup", "stage1", "stage2"), 4
    config.warmup = tiny_stage(base.warmup("source", 20))
    config.stage2 = tiny_stage(base.distill("source", "source", 20), label_threshold=0.2)
    config.source.steps = config.stage1.steps = 20
    for name in config.stages:  # at the method's rate; at those of tiny networks rounding soon flips an argmax
        config[name].backbone_rate = config[name].head_rate = 1e-4
    networks = {}
    for count in (1, 2, 4):
        Experiment(config, tmp_path / str(count), At(config), devices_used=count).run()
        networks[count] = networks_of(tmp_path / str(count), config.stages)
    for count in (2, 4):
        assert_close(networks[count], networks[1], 1e-3)
