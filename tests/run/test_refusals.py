"""What an experiment refuses before anything is computed."""

import numpy as np
import pytest
from survival import config_of, given, run
from tiny import CLASSES, block_source, tiny_model, tiny_variables

from proda_jax.run import evaluate
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.system import devices


@pytest.mark.parametrize("role", ["source", "validation"])
def test_data_sets_that_need_labels_are_refused_without_them_before_anything_is_computed(role, tmp_path):
    config = config_of()
    sources = Sources(config, tmp_path, given=given(**{role: block_source(4, 0, labelled=False)}))
    with pytest.raises(ValueError, match=f"the {role} images .* have no labels"):
        run(tmp_path / "run", config, sources)
    assert not (tmp_path / "run").exists()


def test_validation_labels_of_which_none_counts_are_refused(tmp_path):
    source = block_source(3, 2)
    source.labels[:] = 255
    config, mesh = config_of(), devices.make_mesh(1)
    model = tiny_model(config, devices.AXIS)
    step, variables = evaluate.confusion_step(model, mesh), devices.replicate(tiny_variables(model, 0), mesh)
    message = "no pixel of the 3 validation images has a label that counts"
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(step, variables, source, 2, CLASSES, mesh)
    with pytest.raises(ValueError, match=message):  # before anything is computed
        run(tmp_path / "run", config, Sources(config, tmp_path, given=given(validation=source)))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused_with_sizes_that_they_can():
    config = config_of()
    config.batch_size = 3
    with pytest.raises(ValueError, match=r"batch_size = 3 does not divide over 2 devices; choose 2 or 4"):
        Experiment(config, "unused", Sources(config, "unused", given=given()), devices_used=2).run()
    config.batch_size, config.micro_batches = 6, 2
    with pytest.raises(ValueError, match=r"= 6 does not .* 2 devices with 2 micro-batches each; choose 4 or 8"):
        Experiment(config, "unused", Sources(config, "unused", given=given()), devices_used=2).run()


def test_files_of_weights_are_read_before_the_first_stage_begins(tmp_path):
    config = config_of(**{"model.imagenet_weights": str(tmp_path / "weights.npz")})
    config.stage1.init = "imagenet"
    config.stage1.weighting, config.stage1.consistency_weight = "none", 0.0
    for array, told in ((np.zeros((3, 3)), "conv1.weight"), (np.full((8, 3, 7, 7), np.nan), "conv1.weight")):
        np.savez(tmp_path / "weights.npz", **{"conv1.weight": array})
        with pytest.raises(ValueError, match=told):
            run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
