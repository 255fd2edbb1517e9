"""Confusion matrices against counting one pixel at a time; scores against their definitions."""

import jax
import numpy as np
import pytest

from proda_jax.data import metrics
from proda_jax.data.label_spaces import IGNORE

K = 5
RNG = np.random.default_rng(0)
LABELS = np.where(RNG.random((2, 9, 7)) < 0.2, IGNORE, RNG.integers(0, K, (2, 9, 7))).astype(np.uint8)
PREDICTIONS = np.where(RNG.random(LABELS.shape) < 0.5, LABELS % K, RNG.integers(0, K, LABELS.shape)).astype(np.int32)

confusion_matrix = jax.jit(metrics.confusion_matrix, static_argnums=2)


def counted(predictions, labels):
    confusion = np.zeros((K, K), int)
    for truth, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth < K:
            confusion[truth, prediction] += 1
    return confusion


def test_confusion_matrix_counts_each_labelled_pixel_once():
    confusion = confusion_matrix(PREDICTIONS, LABELS, K)
    np.testing.assert_array_equal(confusion, counted(PREDICTIONS, LABELS))
    assert confusion.dtype == np.int32


def test_label_255_counts_nowhere_either():
    labels = np.where(LABELS == IGNORE, 255, LABELS).astype(np.uint8)
    np.testing.assert_array_equal(confusion_matrix(PREDICTIONS, labels, K), counted(PREDICTIONS, LABELS))


def test_confusion_matrices_of_batches_add_up():
    parts = [np.asarray(confusion_matrix(p, y, K)) for p, y in zip(PREDICTIONS, LABELS, strict=True)]
    np.testing.assert_array_equal(sum(parts), counted(PREDICTIONS, LABELS))


def test_scores_are_intersection_over_union_of_pixel_sets():
    result = metrics.scores(counted(PREDICTIONS, LABELS))
    valid = LABELS != IGNORE
    truth, prediction = LABELS[valid], PREDICTIONS[valid]
    iou = [np.sum((truth == k) & (prediction == k)) / np.sum((truth == k) | (prediction == k)) for k in range(K)]
    np.testing.assert_allclose(result["iou"], iou)
    np.testing.assert_allclose(result["miou"], np.mean(iou))
    np.testing.assert_allclose(result["pixel_accuracy"], np.mean(truth == prediction))
    recalls = [np.mean(prediction[truth == k] == k) for k in range(K)]
    np.testing.assert_allclose(result["class_accuracy"], np.mean(recalls))


def test_class_in_neither_truth_nor_prediction_is_left_out_of_the_mean():
    result = metrics.scores(np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]]))
    np.testing.assert_allclose(result["iou"], [8 / 10, 10 / 12, np.nan])
    np.testing.assert_allclose(result["miou"], (8 / 10 + 10 / 12) / 2)
    np.testing.assert_allclose(result["class_accuracy"], (0.8 + 1) / 2)


def test_class_predicted_but_absent_from_the_truth_has_iou_zero():
    result = metrics.scores(np.array([[8, 2], [0, 0]]))
    np.testing.assert_allclose(result["iou"], [0.8, 0.0])
    np.testing.assert_allclose(result["class_accuracy"], 0.8)


def test_subset_averages_the_ious_that_its_classes_have_among_all():
    confusion = counted(PREDICTIONS, LABELS)
    everything, subset = metrics.scores(confusion), metrics.scores(confusion, subset=(0, 1, 4))
    np.testing.assert_allclose(subset["iou"], everything["iou"][[0, 1, 4]])
    np.testing.assert_allclose(subset["miou"], everything["iou"][[0, 1, 4]].mean())
    inside = np.isin(LABELS, (0, 1, 4))
    np.testing.assert_allclose(subset["pixel_accuracy"], np.mean(LABELS[inside] == PREDICTIONS[inside]))


@pytest.mark.filterwarnings("error")
def test_nothing_evaluated_gives_nan_without_a_warning():
    assert np.isnan(metrics.scores(np.zeros((K, K)))["miou"])
