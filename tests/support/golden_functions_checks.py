"""Losses, prototype rules, resizing, SGD and scores agree with the authors' released implementation."""

import golden_inputs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from proda_jax.adaptation import losses, optim, prototypes
from proda_jax.data import metrics
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models import resizing

B, K, C, H, W = 2, 19, 256, 16, 24
FUNCTIONS = golden_inputs.load("functions")


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def agree(actual, expected) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-4, atol=1e-5)


def agree_in_gradient(actual, expected) -> None:
    """Gradients of means are far smaller than 1e-5, so the tolerance is set by their own size too."""
    agree(actual, expected)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def softmax(values: np.ndarray) -> np.ndarray:
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def logits():
    return 3 * nhwc(golden_inputs.normal("logits", (B, K, H, W)))


@pytest.fixture(scope="module")
def labels():
    ignored = golden_inputs.uniform("ignore", (B, H, W)) < 0.2
    return np.where(ignored, IGNORE, golden_inputs.integers("labels", (B, H, W), 0, K))


@pytest.fixture(scope="module")
def features():
    return nhwc(golden_inputs.normal("feat", (B, C, H, W)))


@pytest.fixture(scope="module")
def vectors():
    return 0.7 * golden_inputs.normal("proto", (K, C))


@pytest.fixture(scope="module")
def soft():
    return softmax(2 * nhwc(golden_inputs.normal("soft_logits", (B, K, H, W))))


LOSSES_OF_LOGITS = {
    "ce": losses.cross_entropy,
    "rce": losses.reverse_cross_entropy,
    "reg_mrkld": lambda logits, _: losses.class_balance(logits, "mrkld"),
    "reg_mrent": lambda logits, _: losses.class_balance(logits, "mrent"),
}


@pytest.mark.parametrize("key", LOSSES_OF_LOGITS)
def test_loss_of_logits_has_the_released_value_and_gradient(key, logits, labels):
    value, gradient = jax.value_and_grad(LOSSES_OF_LOGITS[key])(logits, labels)
    agree(value, FUNCTIONS[key])
    agree_in_gradient(gradient, nhwc(FUNCTIONS[f"{key}_grad"]))


def test_symmetric_cross_entropy_weighs_the_released_terms(logits, labels):
    value, gradient = jax.value_and_grad(losses.symmetric_cross_entropy)(logits, labels, alpha=0.1, beta=1.0)
    agree(value, 0.1 * FUNCTIONS["ce"] + FUNCTIONS["rce"])
    agree_in_gradient(gradient, nhwc(0.1 * FUNCTIONS["ce_grad"] + FUNCTIONS["rce_grad"]))


@pytest.mark.parametrize(("key", "form"), [("kd_released", "released"), ("kd_equation12_mean", "equation12")])
def test_distillation_has_the_released_value_and_gradient(key, form):
    student, teacher = (2 * nhwc(golden_inputs.normal(f"{who}_logits", (B, K, H, W))) for who in ("student", "teacher"))
    everywhere = np.ones((B, H, W), bool)
    value, gradient = jax.value_and_grad(losses.distillation)(student, teacher, everywhere, form=form)
    agree(value, FUNCTIONS[key])
    agree_in_gradient(gradient, nhwc(FUNCTIONS[f"{key}_grad"]))


def test_distances_are_the_released_ones(features, vectors):
    agree(prototypes.distances(features, vectors), nhwc(FUNCTIONS["distance"]))


@pytest.mark.parametrize("inverse", [0.5, 1.0, 2.0])
def test_assignment_weights_are_the_released_ones(inverse, features, vectors):
    weights = prototypes.assignment_weights(prototypes.distances(features, vectors), 1 / inverse)
    agree(weights, nhwc(FUNCTIONS[f"weight_invtau{inverse}"]))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_rectified_labels_are_the_released_ones(threshold, features, vectors, soft):
    weights = prototypes.assignment_weights(prototypes.distances(features, vectors))
    labels, confidence = prototypes.rectify(soft, weights, threshold)
    np.testing.assert_array_equal(labels, FUNCTIONS[f"rectified_thr{threshold}"])
    agree(confidence, FUNCTIONS["rectified_conf"])


def test_consistency_has_the_released_value_and_gradient(features, vectors):
    valid = golden_inputs.uniform("valid", (B, 1, H, W))[:, 0] > 0.25
    np.testing.assert_array_equal(valid, FUNCTIONS["consistency_valid"])
    teacher = prototypes.distances(features, vectors)

    def loss(strong):
        return losses.assignment_consistency(prototypes.distances(strong, vectors), teacher, valid, temperature=1.0)

    value, gradient = jax.value_and_grad(loss)(nhwc(golden_inputs.normal("strong_feat", (B, C, H, W))))
    agree(value, FUNCTIONS["consistency"])
    agree_in_gradient(gradient, nhwc(FUNCTIONS["consistency_grad"]))


def means_of(suffix: str) -> tuple[jax.Array, jax.Array]:
    features = nhwc(golden_inputs.normal(f"feat{suffix}", (B, C, H, W)))
    assigned = golden_inputs.normal(f"ema_logits{suffix}", (B, K, H, W)).argmax(axis=1)
    return prototypes.class_means(features, assigned, K, min_pixels=10)


def test_class_means_are_the_released_vectors():
    means, pixels = means_of("")
    images, classes = np.nonzero(pixels)
    np.testing.assert_array_equal(classes, FUNCTIONS["batch_proto_ids"])
    agree(np.asarray(means)[images, classes], FUNCTIONS["batch_proto_vectors"])


@pytest.mark.parametrize("unseen", ["replace", "released"])
def test_prototypes_move_as_released(unseen, vectors):
    start = prototypes.Prototypes(vectors, np.ones(K, np.float32))
    moved = prototypes.update_in_turn(start, *means_of(""), rate=1e-4, unseen=unseen)
    agree(moved.vectors, FUNCTIONS["proto_after_update"])
    # the step is 1e-4 of the distance, below the tolerance above: compare the steps themselves
    expected = FUNCTIONS["proto_after_update"].astype(np.float64) - vectors
    np.testing.assert_allclose(np.asarray(moved.vectors) - vectors, expected, atol=3e-3 * np.abs(expected).max())


def test_prototypes_start_as_released():
    running = prototypes.empty(K, C)
    for batch in range(3):
        running = prototypes.accumulate(running, *means_of(str(batch)), by="vectors")
    agree(running.vectors, FUNCTIONS["proto_init"])
    np.testing.assert_array_equal(running.counts, FUNCTIONS["proto_init_num"])


@pytest.mark.parametrize("size", [(16, 24), (64, 96), (5, 7)])
def test_bilinear_resizing_is_the_released_one(size):
    resized = resizing.resize_align_corners(nhwc(golden_inputs.normal("resize_in", (1, 3, 9, 13))), size)
    agree(resized, nhwc(FUNCTIONS[f"bilinear_align_corners_{size[0]}x{size[1]}"]))


def test_quarter_size_maps_are_the_released_ones():
    labels = golden_inputs.integers("resize_label", (1, 1, 64, 96), 0, K)[:, 0]
    np.testing.assert_array_equal(resizing.resize_nearest(labels, (16, 24)), FUNCTIONS["nearest_quarter"][:, 0])
    soft = softmax(nhwc(golden_inputs.normal("resize_soft", (1, K, 64, 96))))
    agree(resizing.resize_align_corners(soft, (16, 24)), nhwc(FUNCTIONS["soft_quarter"]))


def test_ten_steps_of_sgd_end_where_the_released_optimizer_ends():
    rates = {"backbone": optim.poly(6e-4, 10), "head": optim.poly(6e-3, 10)}
    each = {group: optim.sgd(rate) for group, rate in rates.items()}
    optimizer = optim.partitioned(each, lambda path: "backbone" if path == ("p1",) else "head")
    shapes = {"p1": (5, 4), "p2": (3,)}
    params = {key: jnp.asarray(golden_inputs.normal(key, shape)) for key, shape in shapes.items()}
    state = optimizer.init(params)
    for i in range(10):
        np.testing.assert_allclose([rate(i) for rate in rates.values()], FUNCTIONS["sgd_lr"][i], rtol=1e-5)
        gradients = {key: golden_inputs.normal(f"g{key[1]}_{i}", shape) for key, shape in shapes.items()}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for key in params:
            np.testing.assert_allclose(params[key], FUNCTIONS[f"sgd_{key}"][i], rtol=1e-6, atol=1e-6)


def test_scores_are_the_released_ones(logits, labels):
    confusion = metrics.confusion_matrix(jnp.argmax(logits, axis=-1), labels, K)
    np.testing.assert_array_equal(confusion, FUNCTIONS["confusion"])
    result = metrics.scores(confusion)
    np.testing.assert_allclose(result["iou"], FUNCTIONS["iou"])
    np.testing.assert_allclose(result["miou"], FUNCTIONS["miou"])
