"""Scores at the labels' own size, against NumPy's interpolation in float64; labels are never resized."""

import functools

import jax
import numpy as np
import pytest
from survival import config_of, given
from tiny import CLASSES, block_source, tiny_config, tiny_model, tiny_variables

from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.memory import MemorySource
from proda_jax.run import evaluate, provenance
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources
from proda_jax.system import devices

SIZES = ((96, 192), (70, 130), (33, 300), (48, 96), (1, 7))  # of labels; images have 48 x 96 pixels


def source_of(sizes) -> MemorySource:
    """Images whose labels are noise of these sizes, a quarter of it ignored."""
    generator = np.random.default_rng(3)
    images = block_source(len(sizes), 0)
    own = [generator.choice([*range(CLASSES), *[IGNORE] * 4], size).astype(np.uint8) for size in sizes]
    return MemorySource(images.images, images.labels, own_labels=own)


def upsampled(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logits [h, w, classes] at a size with corners aligned, one axis after the other, float64."""
    for axis, new in enumerate(size):
        old = logits.shape[axis]
        places = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
        logits = np.apply_along_axis(lambda line, at=places, n=old: np.interp(at, np.arange(n), line), axis, logits)
    return logits


@pytest.mark.parametrize("devices_used", [1, 2])
def test_labels_of_any_size_are_scored_as_they_are(devices_used):
    source, mesh = source_of(SIZES), devices.make_mesh(devices_used)
    model = tiny_model(tiny_config(), devices.AXIS)
    variables = tiny_variables(model, 0)
    step = evaluate.confusion_step(model, mesh, evaluate.LABELS)
    found = evaluate.evaluate(
        step, devices.replicate(variables, mesh), source, 2 * devices_used, CLASSES, mesh, at=evaluate.LABELS
    )
    network = jax.jit(functools.partial(model.clone(axis_name=None).apply, train=False))
    logits = network(variables, source.images.astype(np.float32) / 255).logits
    expected, unsure = np.zeros((CLASSES, CLASSES), int), 0
    for scores, label in zip(np.asarray(logits, np.float64), source.own_labels, strict=True):
        scores = upsampled(scores, label.shape)
        best = np.sort(scores, axis=-1)
        unsure += int((best[..., -1] - best[..., -2] < 1e-5 * np.abs(scores).max()).sum())
        counts = label != IGNORE
        np.add.at(expected, (label[counts], scores.argmax(-1)[counts]), 1)
    assert found.sum() == expected.sum() == sum((label != IGNORE).sum() for label in source.own_labels)
    assert (found.sum(0) > 0).sum() > 3  # several classes are predicted
    assert np.abs(found - expected).sum() <= 2 * unsure < 20


def test_where_labels_have_the_size_of_their_images_both_are_the_same():
    source, mesh = block_source(3, 2), devices.make_mesh(1)
    model = tiny_model(tiny_config(), devices.AXIS)
    variables = devices.replicate(tiny_variables(model, 1), mesh)
    of_labels, of_images = (
        evaluate.evaluate(evaluate.confusion_step(model, mesh, at), variables, source, 2, CLASSES, mesh, at=at)
        for at in (evaluate.LABELS, evaluate.IMAGE_SIZE)
    )
    assert np.abs(of_labels - of_images).sum() <= 4 and of_labels.sum() == of_images.sum() > 10_000


def test_a_run_is_scored_at_its_labels_or_where_it_is_told(tmp_path):
    validation = source_of(SIZES[:3])
    settings = {"stages": ("source",), "snapshots.images": 0, "source.steps": 1}
    pixels = {}
    for at in ("labels", "image_size"):
        config = config_of(**settings, evaluate_at=at)
        experiment = Experiment(config, tmp_path / at, Sources(config, tmp_path, given(validation=validation)), 1)
        model = experiment.networks.model("source")
        (matrix,) = experiment.scorer(model, "")(devices.replicate(tiny_variables(model, 0), experiment.mesh))
        pixels[at] = matrix.sum()
    assert pixels["labels"] == sum((label != IGNORE).sum() for label in validation.own_labels)
    assert pixels["image_size"] == (validation.labels != IGNORE).sum()


def test_a_history_has_scores_of_one_kind(tmp_path):
    provenance.remember(tmp_path, config_of(), "source")
    with pytest.raises(ValueError, match="config.evaluate_at was 'labels' and is 'image_size' now"):
        provenance.check(tmp_path, config_of(evaluate_at="image_size"), "source")


def test_a_workdir_of_before_keeps_its_scores(tmp_path):
    config = config_of()
    with config.unlocked():
        del config.evaluate_at
    provenance.note_configuration(tmp_path, config)
    began = Experiment(config_of(), tmp_path, Sources(config, tmp_path, given=given()), devices_used=1)
    began.begin()
    assert evaluate.scored_at(began.config) == "image_size" and provenance.scores_as_before(tmp_path)
