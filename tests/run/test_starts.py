"""Settings that nothing has use for: of weights that no stage starts from, of data sets that there are not."""

import pytest
import tiny

from proda_jax.configs import base, custom
from proda_jax.data.checks import check_given
from proda_jax.run import settings


def config_of(init: str):
    c = tiny.tiny_config()
    c.stages, c.source = ("source",), tiny.tiny_stage(base.supervised(init, 1))
    return c


@pytest.mark.parametrize("init, setting, value, says", [
    ("imagenet", "input_mean", (0.4, 0.4, 0.4), "model.weights_input"),
    ("imagenet", "input_std", (0.2, 0.2, 0.2), "model.weights_input"),
    ("random", "weights_input", "imagenet", "no stage starts from a file"),
    ("random", "imagenet_weights", "x.pth", "config.source.init"),
    ("imagenet", "self_supervised_weights", "x.pth", "'self_supervised'"),
])  # fmt: skip
def test_what_no_network_has_use_for_is_refused(init, setting, value, says, tmp_path):
    c = config_of(init)
    if init == "imagenet":
        (tmp_path / "w.pth").touch()
        c.model.imagenet_weights = str(tmp_path / "w.pth")
    settings.check(c)
    c.model[setting] = value
    with pytest.raises(ValueError, match=f"config.model.{setting} = .*{says}"):
        settings.check(c)


def test_statistics_of_the_target_alone_are_refused_where_passes_are_of_both_domains():
    c = config_of("random")
    c.source = tiny.tiny_stage(base.pretrain("random", 1))
    settings.check(c)
    c.source.statistics = "target"
    with pytest.raises(ValueError, match="config.source.statistics = 'target': .*both domains' images together"):
        settings.check(c)


def test_files_of_a_data_set_that_a_configuration_does_not_have_are_refused_beside_it():
    c = custom.get_config("lite")  # without validation images
    given = {"data.validation.images": "photos", "data.source.images": "other"}
    with pytest.raises(ValueError, match="validation.images = 'photos'.*--config.data.validation.name=folder"):
        check_given(c, given)
    check_given(c, {"data.source.images": "other", "seed": 1, "data.validation.name": "none"})
    c.data.validation.name = "folder"
    check_given(c, given | {"data.validation.name": "folder"})
