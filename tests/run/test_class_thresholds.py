"""Pseudo labels by thresholds of each class: over all target images, kept, and made again where they were lost."""

import jax
import numpy as np
import pytest
from tiny import CLASSES, block_source, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation import class_thresholds as ct
from proda_jax.adaptation.averaging import averaged_probabilities
from proda_jax.adaptation.stages import prepare
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.run import networks, settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.system import devices
from proda_jax.system.files import read_json

PORTION, EVERY = 0.3, 2


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """A run whose stage 'source' is complete; 'hard' and 'soft' learn from its labels."""
    c = tiny_config()
    c.evaluate_batch_size = 2
    c.source = base.supervised("random", 1)
    c.hard, c.soft = tiny_stage(base.distill("source", "source", 1)), base.self_training("source", 1)
    c.soft.hard_labels, c.soft.soft_label_stride = False, 4
    for stage in (c.hard, c.soft):
        stage.label_selector, stage.label_portion, stage.label_every = "class_balanced", PORTION, EVERY
        stage.label_flip = True
    c.hard.label_threshold = base.distill("", "", 1).label_threshold
    c.stages = ("source", "hard", "soft")
    for i, name in enumerate(c.stages):
        settings.check_stage(c, name, c.stages[:i])

    def checkpoint(self, name, which, writable=True):
        return devices.replicate(tiny_variables(self.model(name), 0), self._mesh), 0

    monkeypatch.setattr(networks.Networks, "checkpoint", checkpoint)
    given = {role: block_source(3, seed) for seed, role in enumerate(("source", "target", "validation"))}
    made = Experiment(c, tmp_path, Sources(c, tmp_path, given), devices_used=1)
    made.workdir.finish("source", {"name": "source", "best": {"step": 1}, "last": {"step": 1}})
    return made


def probabilities(experiment, stride: int | None) -> np.ndarray:
    """Of all target images, the mean over mirror images."""
    model, images = tiny_model(experiment.config), experiment.sources.open("target").images
    size = images.shape[1:3] if stride is None else prepare.soft_label_size(model, images.shape[1:3], stride)
    predict = jax.jit(lambda variables: averaged_probabilities(model, variables, images, size, flip=True))
    return np.asarray(predict(tiny_variables(model, 0)))


def thresholds_of(p: np.ndarray) -> np.ndarray:
    """By sorting: the last of the surest pixels of each class, every second of an image counting."""
    found = []
    for k in range(CLASSES):
        own = np.concatenate([image.max(-1)[image.argmax(-1) == k][::EVERY] for image in p])
        number = int(len(own) * PORTION)
        found.append(np.sort(own)[::-1][number - 1] if number else 1.0)
    return np.array(found)


def test_hard_labels_have_the_portion_of_each_class_and_are_made_again_alike(experiment):
    p = probabilities(experiment, None)
    store = experiment.prepared.labels("hard")
    path = store.folder / "class_thresholds.json"
    kept = read_json(path, "")
    expected = thresholds_of(p)
    np.testing.assert_allclose(kept["thresholds"], expected, rtol=1e-5)
    names = experiment.sources.open("target").names
    labels = np.stack([store.read(name) for name in names])
    ratios = p / expected
    wanted = np.where(ratios.max(-1) >= 1, ratios.argmax(-1), IGNORE)
    clear = np.abs(ratios.max(-1) - 1) > 1e-4
    assert 0.1 < np.mean(wanted != IGNORE) < 0.6 and clear.mean() > 0.95
    assert np.mean((labels != wanted)[clear]) < 1e-3
    # what was interrupted, or lost, comes again as it was, by the thresholds that are there
    before, written = {name: store.path(name).read_bytes() for name in names}, path.read_bytes()
    store.path(names[1]).unlink()
    store.path(names[2]).write_bytes(b"damaged")
    experiment.prepared.checked.clear()
    experiment.prepared.labels("hard")
    assert {name: store.path(name).read_bytes() for name in names} == before
    store.path(names[0]).unlink()
    path.unlink()
    experiment.prepared.labels("hard")
    assert path.read_bytes() == written and store.path(names[0]).read_bytes() == before[names[0]]


def test_soft_labels_are_lrents_and_zero_where_there_is_none(experiment):
    p = probabilities(experiment, 4)
    store = experiment.prepared.labels("soft")
    soft = np.stack([store.read(name) for name in experiment.sources.open("target").names])
    expected = np.asarray(jax.jit(ct.regularised_labels)(p, np.float32(thresholds_of(p)), 0.25))
    assert soft.shape == expected.shape and 0.1 < np.mean(expected.sum(-1) > 0) < 0.9
    disagree = (soft.sum(-1) > 0.5) != (expected.sum(-1) > 0.5)
    assert disagree.mean() < 5e-3
    np.testing.assert_allclose(soft[~disagree], expected[~disagree], atol=2e-3)  # float16
