"""The stage that docs/extend.md adds, as it stands there."""

import pathlib
import re
import types

import ml_collections
import numpy as np
from tiny import block_source, tiny_config, tiny_stage

from proda_jax.adaptation.stages import build
from proda_jax.configs import base
from proda_jax.run import settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"


def test_the_stage_of_the_example_trains(tmp_path, monkeypatch):
    step, section = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module, here = types.ModuleType("entropy"), {"ml_collections": ml_collections, "stage": base.stage}
    exec(step, module.__dict__)
    exec(section, here)
    monkeypatch.setitem(build.TRAIN_STEPS, "entropy", module.train_step)
    c = tiny_config()
    c.stages, c.entropy = ("entropy",), tiny_stage(here["entropy"]("random", 20), entropy_weight=1.0)
    c.evaluate_every = 20
    settings.check_stage(c, "entropy", ())
    given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    given["validation"] = block_source(2, 2)
    result = Experiment(c, tmp_path, Sources(c, tmp_path, given), devices_used=1).run()
    assert result["stages"][0]["last"]["step"] == 20
    lines = Metrics(tmp_path / "entropy" / "metrics.jsonl", 20).entries
    entropy = np.array([line["entropy"] for line in lines])
    assert np.all((entropy > 0) & (entropy < 1.0001))
    assert entropy[-5:].mean() < 0.95 * entropy[:5].mean()
