"""How images are fed to weights, and settings that no weights have use for."""

import pytest
import tiny

from proda_jax.configs import base
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
