"""What the report's figures are computed from, piece by piece."""

import json

import numpy as np
from fake_workdir import fake_config, fake_workdir

from proda_jax.configs import base
from proda_jax.report import charts, label_quality, matrices, page, pictures
from proda_jax.report.run import read


def test_drift_begins_where_a_class_is_first_seen():
    vectors = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    series = [(0, vectors[0], np.array([True, False])), (5, vectors[1], np.array([True, True])),
              (9, vectors[2], np.array([True, True]))]  # fmt: skip
    moved = matrices.drift(series)
    assert np.isnan(moved[0, 1])
    expected = [[0, np.linalg.norm(vectors[1, 0] - vectors[0, 0]), np.linalg.norm(vectors[2, 0] - vectors[0, 0])],
                [0, np.linalg.norm(vectors[2, 1] - vectors[1, 1])]]  # fmt: skip
    np.testing.assert_allclose(moved[:, 0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(moved[1:, 1], expected[1], rtol=1e-6)


def test_confusion_is_a_share_of_the_true_class():
    shares = matrices.by_truth(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(shares[0], [0.75, 0.25])
    assert np.isnan(shares[1]).all()


def test_a_running_mean_is_the_mean_of_what_is_finite_around():
    values = np.array([1.0, np.nan, 3.0, 5.0, 100.0])
    found = charts.running_mean(values, 3)
    np.testing.assert_allclose(found, [1.0, 2.0, 4.0, 36.0, 52.5])


def test_self_training_is_a_stair_that_ends_with_its_networks_labels():
    def quality(learnt_from: float, network: float) -> list:
        return [(10, {"learnt_from": {"miou": learnt_from}, "fixed": {}, "network": {"miou": network}})]

    corners = label_quality.rounds([(20, quality(50, 55)), (30, quality(54, 60))])
    assert [(step, scores["miou"]) for step, scores in corners] == [(0, 50), (20, 50), (20, 54), (50, 54), (50, 60)]


def test_steps_that_are_shown_are_the_first_the_last_and_some_between():
    assert pictures.spread([0, 50]) == [0, 1]
    steps = [0, *range(1000, 63000, 1000)]
    shown = [steps[i] for i in pictures.spread(steps)]
    assert shown[0] == 0 and shown[-1] == 62000 and len(shown) == 4 and 1000 < shown[1] < 10000 < shown[2] < 40000


def test_the_gap_that_is_closed_is_named_where_there_is_an_oracle(tmp_path):
    config = fake_config(("source", "stage1", "oracle"))
    config.oracle = base.supervised("random", 150, target_labels=True)
    fake_workdir(tmp_path, config, images=1, size=(48, 96))
    low, ours, high = (json.loads((tmp_path / s / "result.json").read_text())["last"]["miou"] for s in config.stages)
    assert page.gap_closed(read(tmp_path)) == [("gap closed to oracle", f"{100 * (ours - low) / (high - low):.0f} %")]
