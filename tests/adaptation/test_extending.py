"""What docs/extend.md adds, as it stands there: a stage, a selector, a backbone."""

import importlib
import pathlib
import re
import sys
import types

import jax
import ml_collections
import numpy as np
import pytest
from tiny import block_source, tiny_config, tiny_stage

from proda_jax.adaptation import selectors
from proda_jax.adaptation.stages import kinds
from proda_jax.configs import base
from proda_jax.models import backbones
from proda_jax.run import settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"
STEP, ROW, SECTION, SELECTOR, BACKBONE, BACKBONE_ROW = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def added(monkeypatch, table, row, names):
    """Puts a row, as it stands on the page, into a table."""
    for name, value in eval("{" + row + "}", names).items():
        monkeypatch.setitem(table, name, value)


def run(c, folder, *stages):
    c.stages = stages
    for i, name in enumerate(stages):
        settings.check_stage(c, name, stages[:i])
    given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    given["validation"] = block_source(2, 2)
    return Experiment(c, folder, Sources(c, folder, given), devices_used=1).run()


def test_the_stage_of_the_example_trains(tmp_path, monkeypatch):
    module, here = types.ModuleType("entropy"), {"ml_collections": ml_collections, "stage": base.stage}
    exec(STEP, module.__dict__)
    exec(SECTION, here)
    monkeypatch.setitem(sys.modules, f"{kinds.__package__}.entropy", module)
    added(monkeypatch, kinds.KINDS, ROW, {"Kind": kinds.Kind})
    c = tiny_config()
    c.entropy, c.evaluate_every = tiny_stage(here["entropy"]("random", 20), entropy_weight=1.0), 20
    result = run(c, tmp_path, "entropy")
    assert result["stages"][0]["last"]["step"] == 20
    lines = Metrics(tmp_path / "entropy" / "metrics.jsonl", 20).entries
    entropy = np.array([line["entropy"] for line in lines])
    assert np.all((entropy > 0) & (entropy < 1.0001))
    assert entropy[-5:].mean() < 0.95 * entropy[:5].mean()


def test_the_selector_of_the_example_is_accepted_once_it_is_in_the_table(monkeypatch):
    names: dict = {}
    exec(SELECTOR, names)
    c = tiny_config()
    c.source, c.stage1 = base.supervised("random", 2), base.denoise("source", 2)
    c.stage1.label_selector = "at_least_mean"
    with pytest.raises(ValueError, match="label_selector = 'at_least_mean': expected one of"):
        settings.check_stage(c, "stage1", ("source",))
    monkeypatch.setitem(selectors.SELECTORS, "at_least_mean", names["at_least_mean"])
    settings.check_stage(c, "stage1", ("source",))
    kept = selectors.SELECTORS["at_least_mean"](np.float32([0.2, 0.9, 0.7]), 0.0)
    np.testing.assert_array_equal(kept, [False, True, True])


def test_the_backbone_of_the_example_trains_and_its_weights_can_be_written_and_read(tmp_path, monkeypatch):
    names: dict = {"__name__": "plain"}
    monkeypatch.setitem(sys.modules, "plain", types.ModuleType("plain"))
    exec(BACKBONE, names)
    added(monkeypatch, backbones.BACKBONES, BACKBONE_ROW, names)
    c = tiny_config()
    c.model.backbone, c.model.depths, c.model.width = "plain", (), 8
    c.source = tiny_stage(base.supervised("random", 2))
    result = run(c, tmp_path, "source")
    assert result["stages"][0]["last"]["step"] == 2
    weights = importlib.import_module("proda_jax.models.weights")
    read = weights.load(tmp_path / "source")
    assert read.backbone == names["PlainBackbone"]((2, 1), 8)
    weights.save(read, tmp_path / "network.npz")
    again = weights.load(tmp_path / "network.npz")
    assert jax.tree.all(jax.tree.map(np.array_equal, read.arrays, again.arrays))
