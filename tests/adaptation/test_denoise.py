"""Stage 1: pseudo labels against NumPy, and the settings that change which terms there are."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLASSES, CROP, IMAGE, blocks, tiny_config, tiny_model, tiny_stage, tiny_variables
from view_examples import identity_strong_view, identity_weak_view

from proda_jax.adaptation import views
from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import build, denoise
from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.stages.kinds import uses_momentum_encoder
from proda_jax.adaptation.stages.learnt_prototypes import Contrasted
from proda_jax.adaptation.state import Sampled
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.heads import Output

CHANNELS = 32
GRID = (7, 13)  # of the network's output on a whole image
PROTOTYPES = Prototypes(
    np.random.default_rng(0).normal(size=(CLASSES, CHANNELS)).astype(np.float32), np.ones(CLASSES, np.float32)
)


def setup_of(config, **settings) -> steps.Setup:
    """What the steps of stage 1 need with some of its settings changed, on one device."""
    config.under_test = tiny_stage(base.denoise("random", 10), **settings)
    return build.setup(config, "under_test", model=tiny_model(config), teacher=None, steps_per_epoch=10)


# Pseudo labels, against NumPy


def softmax(values: np.ndarray) -> np.ndarray:
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def random_guidance(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Soft labels, distances, predictions [2, 4, 6, classes] and the mask of the image [2, 4, 6]."""
    generator = np.random.default_rng(seed)
    soft, predicted = (softmax(2 * generator.normal(size=(2, 4, 6, CLASSES))).astype(np.float32) for _ in range(2))
    distances = generator.uniform(0, 6, soft.shape).astype(np.float32)
    return soft, distances, predicted, generator.uniform(size=(2, 4, 6)) < 0.8


@pytest.mark.parametrize("seen", [(True,) * CLASSES, (False, True) * 5 + (True,), (False,) * CLASSES])
def test_reported_distances_are_means_over_the_image_and_the_classes_seen(seen):
    _, distances, _, inside = random_guidance()
    seen = np.array(seen)
    targets = denoise.Targets(None, None, inside, jnp.asarray(distances))
    current = Prototypes(jnp.zeros((CLASSES, 4)), jnp.asarray(seen, jnp.float32))
    totals = denoise.Totals(0, 0, 0, shown=inside.sum(), labelled=0)
    actual = denoise.distance_metrics(current, targets, totals)
    known = distances[inside][:, seen]
    expected = (known.min(-1).mean(), known.mean()) if seen.any() else (0.0, 0.0)
    np.testing.assert_allclose([actual["nearest_prototype"], actual["mean_prototype"]], expected, rtol=1e-5)


def call_pseudo_labels(stage, soft, distances, predicted, inside, counts):
    inputs = denoise.Inputs(*[None] * 5, soft_label=soft, inside=inside, weak_view=None, strong_view=None)
    guidance = denoise.Guidance(distances, predicted, None, None)
    state = type("State", (), {"prototypes": Prototypes(np.zeros((CLASSES, 4), np.float32), jnp.asarray(counts))})
    setup = type("Setup", (), {"stage": stage})
    return denoise.pseudo_labels(state, inputs, guidance, setup)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@pytest.mark.parametrize("weighting", ["prototypes", "network", "none"])
@pytest.mark.parametrize("label_source", ["fixed", "moving"])
def test_pseudo_labels_are_the_argmax_of_what_figure_4_weighs(label_source, weighting, threshold):
    stage = base.denoise("random", 1)
    stage.label_source, stage.weighting = label_source, weighting
    stage.label_threshold, stage.temperature = threshold, 0.7
    soft, distances, predicted, inside = random_guidance()
    labels, products = call_pseudo_labels(stage, soft, distances, predicted, inside, np.ones(CLASSES))
    weighed = soft if label_source == "fixed" else predicted
    weights = {"prototypes": softmax(-distances / 0.7), "network": predicted, "none": np.ones_like(soft)}[weighting]
    expected = weighed * weights / (weighed * weights).sum(-1, keepdims=True)
    labelled = inside & (expected.max(-1) >= threshold)
    assert (threshold == 0) == np.array_equal(labelled, inside)
    np.testing.assert_array_equal(labels, np.where(labelled, expected.argmax(-1), IGNORE))
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stored_soft_labels_interpolate_as_the_logits_they_were_made_from(stride):
    config = tiny_config()
    config.views.target_stride = stride
    setup = setup_of(config, soft_label_interpolation="logits")
    logits = np.random.default_rng(0).normal(size=(4, *GRID, CLASSES)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    view = views.draw_weak_view(keys, IMAGE, CROP, base_width=96, scale=(0.75, 1.25), flip=True)
    target = {"soft_label": softmax(logits).astype(np.float16), "image": np.zeros((4, *IMAGE, 3), np.uint8)}
    actual = denoise.soft_label_view(setup, target, view)
    assert actual.shape == (4, CROP[0] // stride, CROP[1] // stride, CLASSES)
    expected = softmax(np.asarray(views.weak_soft_label(logits, view, IMAGE, CROP, actual.shape[1:3])))
    np.testing.assert_allclose(actual, expected, rtol=2e-3)  # float16 has 11 bits


def test_a_class_without_prototype_is_no_rectified_label_however_sure_the_soft_label_is():
    stage = base.denoise("random", 1)
    soft, distances, predicted, inside = random_guidance()
    soft[..., 3], distances[..., 3] = 50.0, 0.0  # as the empty prototype at the origin may be the nearest
    soft /= soft.sum(-1, keepdims=True)
    counts = np.ones(CLASSES, np.float32)
    labels, _ = call_pseudo_labels(stage, soft, distances, predicted, inside, counts)
    assert np.all(np.asarray(labels)[inside] == 3)
    counts[3] = 0
    labels, _ = call_pseudo_labels(stage, soft, distances, predicted, inside, counts)
    assert np.all(np.asarray(labels) != 3)
    expected = np.delete(soft, 3, -1) * softmax(-np.delete(distances, 3, -1))
    expected = np.delete(np.arange(CLASSES), 3)[expected.argmax(-1)]
    np.testing.assert_array_equal(labels, np.where(inside, expected, IGNORE))


# The settings of stage 1 that change which terms there are


def stage_1(**settings) -> tuple[Any, Any, Any]:
    """(step, state, inputs) of stage 1 with other settings, on drawn views that show the images as they are."""
    setup = setup_of(tiny_config(), **settings)
    start = PROTOTYPES if uses_momentum_encoder(setup.stage) else None
    create = jax.jit(functools.partial(build.create_state, setup))
    state = create(build.stage_key(0, "under_test"), tiny_variables(setup.model, 0), start)
    image, label = (x[:2, : CROP[0], : CROP[1]] for x in blocks(2, 3))
    soft = np.random.default_rng(1).dirichlet(np.full(CLASSES, 0.3), (2, CROP[0] // 4, CROP[1] // 4))
    inputs = denoise.Inputs(
        source_image=image / np.float32(255),
        source_label=label,
        target_full=blocks(2, 4)[0] / np.float32(255),
        target_weak=image / np.float32(255),
        target_strong=image / np.float32(255),
        soft_label=soft.astype(np.float32),
        inside=np.ones((2, CROP[0] // 4, CROP[1] // 4), bool),
        weak_view=identity_weak_view(2, IMAGE),
        strong_view=identity_strong_view(2),
    )
    return functools.partial(denoise.update, setup=setup), state, inputs


@pytest.mark.slow  # each by itself: above, test_losses.py and test_prototypes.py
def test_figure_4s_alternatives_and_the_papers_forms_train():
    step, before, inputs = stage_1(
        label_source="moving",
        weighting="network",
        hard_labels=False,
        prototype_update="batch",
        ema_view="crop",
        ema_mode="eval",
        regulariser="mrent",
        reduction="sum",
    )
    after, metrics = jax.jit(step)(before, inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.prototypes, metrics)))
    # once a batch: each class found anywhere counts one more, and moves by a tenth of the way
    grown = np.asarray(after.prototypes.counts) - np.asarray(before.prototypes.counts)
    assert set(grown) == {0.0, 1.0} or set(grown) == {1.0}
    still = np.all(np.asarray(after.prototypes.vectors) == np.asarray(before.prototypes.vectors), axis=1)
    np.testing.assert_array_equal(still, grown == 0)
    assert metrics["regulariser"] < 0  # negative entropy


def test_conventional_self_training_needs_no_momentum_encoder():
    settings = base.self_training("random", 10, threshold=0.5)
    chosen = {k: settings[k] for k in ("weighting", "label_threshold", "ce_weight", "rce_weight", "consistency_weight",
                                       "regulariser_weight")}  # fmt: skip
    step, before, inputs = stage_1(**chosen)
    after, metrics = jax.eval_shape(step, before, inputs)
    assert before.ema_params is None and before.prototypes is None
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert set(metrics) == {"source_ce", "target_fit", "labelled", "rectified", "gradient_norm"}


def test_what_is_pasted_has_true_labels_and_only_the_trained_network_sees_it():
    step, state, inputs = stage_1(cutmix_share=0.5, batch_norm="frozen")
    setup = step.keywords["setup"]
    box = np.zeros((2, *CROP), bool)
    box[1, : CROP[0] // 2, 8:-8] = True
    pasted = inputs.replace(box=box, source_image=1 - inputs.target_weak)
    guidance = denoise.Guidance(*np.random.default_rng(0).dirichlet(np.ones(CLASSES), (2, *inputs.inside.shape)))
    find = jax.jit(lambda inputs: denoise.learning_targets(state, inputs, guidance, setup))
    plain, mixed = find(inputs), find(pasted)
    within = box[:, ::4, ::4]
    true = np.asarray(inputs.source_label)[:, ::4, ::4]
    np.testing.assert_array_equal(mixed.labels, np.where(within, true, plain.labels))
    np.testing.assert_array_equal(mixed.products[within], np.eye(256, CLASSES)[true[within]])
    np.testing.assert_array_equal(mixed.shown, ~within)
    jax.tree.map(np.testing.assert_array_equal, mixed.strong_distances, plain.strong_distances)
    totals = jax.jit(lambda inputs, targets: denoise.count_totals(inputs, targets, setup))(pasted, mixed)
    assert totals.shown == totals.labelled == np.sum(~within)
    seen = denoise.weak_pass(state, pasted, mixed, totals, setup).images
    np.testing.assert_array_equal(seen, np.where(box[..., None], pasted.source_image, inputs.target_weak))


def test_the_contrast_with_the_queue_is_a_term_of_the_weak_view():
    random, (height, width) = np.random.default_rng(2), (5, 9)
    queue = Sampled(*(random.normal(size=(40, n)).astype(np.float32) for n in (CHANNELS, CLASSES)), np.ones(40, bool))
    output = Output(*(random.normal(size=(2, height, width, n)).astype(np.float32) for n in (CHANNELS, CLASSES)))

    def loss_of(weight: float):
        step, state, inputs = stage_1(queue_contrast_weight=weight, self_label_pixels=12, temperature=0.08)
        setup = step.keywords["setup"]
        state = state.replace(learnt_prototypes=SimpleNamespace(queue=queue))
        labels = np.random.default_rng(3).integers(0, CLASSES, inputs.inside.shape)
        contrasted = Contrasted(np.arange(24).reshape(2, 12), labels.reshape(2, -1)[:, :12])
        targets = denoise.Targets(labels, np.asarray(inputs.soft_label), inputs.inside, contrasted=contrasted)
        totals = denoise.Totals(0, labels.size, labels.size, labels.size, labels.size, contrasted=24)
        return jax.jit(denoise.weak_pass(state, inputs, targets, totals, setup).loss)(output)

    (once, metrics), (thrice, _) = loss_of(1.0), loss_of(3.0)
    assert metrics["queue_contrast"] > 0.1
    np.testing.assert_allclose(thrice - once, 2 * metrics["queue_contrast"], rtol=1e-4)
