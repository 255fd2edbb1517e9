"""A run of adversarial stages: a second head comes and goes, networks are averaged, and the network teaches itself."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLASSES, block_source, tiny_config, tiny_stage, tiny_variables

from proda_jax.adaptation import patch_modes
from proda_jax.configs import advent, base, fada
from proda_jax.inference.loading import load
from proda_jax.models.resizing import resize_align_corners
from proda_jax.run import evaluate, settings
from proda_jax.run.experiment import Experiment, card_of
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources
from proda_jax.system.checkpoints import Checkpoints


def test_modes_of_patches_are_found_once_in_the_sources_labels(tmp_path):
    c = tiny_config()
    c.stages = ("x",)
    c.x = tiny_stage(base.warmup("random", 1), patch_modes=4, patch_size=(16, 16))
    settings.check(c)
    source = block_source(3, 0)
    run = Experiment(c, tmp_path, Sources(c, tmp_path, {"source": source}), devices_used=1)
    modes = run.prepared.patch_modes("x")
    every = patch_modes.patches_of(iter(source.labels), CLASSES, (16, 16), 1000, 0)
    owner = np.argmin(((every[:, None] - modes) ** 2).sum(-1), -1)
    np.testing.assert_allclose(modes, [every[owner == k].mean(0) for k in range(4)], atol=1e-5)
    run.sources.labelled = None  # nothing is looked at again
    np.testing.assert_array_equal(run.prepared.patch_modes("x"), modes)
    c.x.patch_size = (16, 24)
    with pytest.raises(ValueError, match=r"config.x.patch_size = \(16, 24\): expected"):
        settings.check(c)


def experiment_in(workdir) -> Experiment:
    c = tiny_config()
    c.snapshots.images = 0
    c.stages = ("source", "advent", "self_distillation")
    c.model.auxiliary_head = "lower"
    c.source = tiny_stage(base.supervised("random", 1))
    c.advent = tiny_stage(advent.advent("source", 2), auxiliary_ce_weight=0.1, auxiliary_adversarial_weight=0.01)
    c.self_distillation = tiny_stage(fada.self_distillation("advent", "advent", 2))
    for i, name in enumerate(c.stages):
        settings.check_stage(c, name, c.stages[:i])
    given = {"source": block_source(4, 0), "target": block_source(4, 1, labelled=False)}
    return Experiment(c, workdir, Sources(c, workdir, given | {"validation": block_source(2, 2)}), devices_used=1)


def check_networks(run: Experiment, workdir) -> None:
    """Which of them have a second head, what one that was opened says, and the score of the average of two."""
    variables = {name: jax.device_get(run.networks.variables(name)) for name in run.config.stages}
    heads = {name: "auxiliary_head" in own["params"] for name, own in variables.items()}
    assert heads == {"source": False, "advent": True, "self_distillation": False}
    validation = run.sources.open("validation")
    images, labels = validation.images, validation.labels
    model = run.networks.model("advent").clone(axis_name=None)
    expected = jax.jit(lambda v, x: evaluate.predict(model, v, x))(variables["advent"], images[:1])[0]
    np.testing.assert_array_equal(load(workdir, stage="advent")(images[0]), expected)

    both, scores = ("source", "advent"), run.evaluate("source+advent")
    models = [run.networks.model(name).clone(axis_name=None) for name in both]
    logits = [jax.jit(functools.partial(model.apply, train=False))(variables[name], images / np.float32(255)).logits
              for model, name in zip(models, both, strict=True)]  # fmt: skip
    mean = resize_align_corners((logits[0] + logits[1]) / 2, labels.shape[1:])
    right = 100 * np.mean((np.argmax(mean, -1) == labels)[labels < CLASSES])
    assert scores["pixel_accuracy"] == pytest.approx(float(right), abs=0.1) and scores["stage"] == "source + advent"
    with pytest.raises(ValueError, match="has no checkpoints; stages with some"):
        run.evaluate("source+minent")


def test_a_second_head_is_its_stages_own_and_networks_are_averaged(tmp_path):
    """Of networks that were not trained."""
    run = experiment_in(tmp_path)
    for seed, name in enumerate(run.config.stages):
        model = run.networks.model(name)
        network = jax.tree.map(jnp.asarray, tiny_variables(model.clone(axis_name=None), seed))
        with contextlib.closing(Checkpoints(tmp_path / name / "checkpoints")) as checkpoints:
            checkpoints.save_network(network, None, card_of(run.config, name, model).as_json())
    check_networks(run, tmp_path)


@pytest.mark.slow  # the steps: test_golden_comparators.py, test_stages.py
def test_two_heads_an_average_and_self_distillation(tmp_path):
    run = experiment_in(tmp_path)
    run.run()
    lines = Metrics(tmp_path / "advent" / "metrics.jsonl", 2).entries
    assert all(line["auxiliary_adversarial"] > 0 and line["auxiliary_ce"] > 0 for line in lines)
    lines = Metrics(tmp_path / "self_distillation" / "metrics.jsonl", 2).entries
    assert all("source_ce" not in line and line["target_fit"] > 0 for line in lines)
    check_networks(run, tmp_path)
