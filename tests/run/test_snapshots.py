"""What a run keeps to look at, against the same computed with NumPy from the parts that steps are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny import CLASSES, IMAGE, block_source, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation import prototypes
from proda_jax.adaptation.stages import build, prepare
from proda_jax.configs import base
from proda_jax.data import metrics
from proda_jax.data.label_spaces import IGNORE, label_space
from proda_jax.run import snapshots
from proda_jax.system import devices

SPACE = label_space("camvid11")


@pytest.fixture(scope="module")
def config():
    c = tiny_config()
    c.warmup = tiny_stage(base.supervised("random", 4))
    c.stage1 = tiny_stage(base.denoise("warmup", 4))
    c.snapshots.images, c.snapshots.held_out, c.snapshots.features = 2, 5, 3
    return c


@pytest.fixture(scope="module")
def taken(config, tmp_path_factory):
    """A snapshot of stage 1's last state, with what it was made from."""
    folder, mesh = epath.Path(tmp_path_factory.mktemp("stage1")), devices.make_mesh(1)
    model = tiny_model(config, devices.AXIS)
    networks = [tiny_variables(model, seed) for seed in (1, 2, 3)]  # student, momentum encoder, teacher
    setup = build.setup(config, "stage1", model=model, teacher=None, steps_per_epoch=1)
    generator = np.random.default_rng(4)
    start = prototypes.Prototypes(
        jnp.asarray(generator.normal(size=(CLASSES, 32)), jnp.float32), jnp.arange(CLASSES, dtype=jnp.float32)
    )
    state = jax.jit(functools.partial(build.create_state, setup))(jax.random.key(0), networks[0], start)
    state = state.replace(step=jnp.int32(4), ema_params=networks[1]["params"])
    looked = snapshots.HeldOutImages(block_source(12, 5), config.snapshots, 2, tiny_model(config), labels=True)
    make = functools.partial(prepare.soft_labels, model, stride=4)
    soft = devices.map_step(make, mesh, "rb", "b")
    taker = snapshots.Snapshots(looked, folder, model, mesh, config.stage1, SPACE, soft, networks[2])
    entry, panels = taker.take(devices.replicate(state, mesh), np.eye(CLASSES, dtype=int))
    soft = jax.jit(functools.partial(prepare.soft_labels, tiny_model(config), stride=4))
    return {
        "looked": looked, "entry": entry, "panels": panels, "state": state, "arrays": dict(np.load(taker.path(4))),
        "soft": np.asarray(soft(networks[2], looked.images.images), np.float64),
        "model": tiny_model(config), "config": config,
    }  # fmt: skip


def test_images_are_evenly_spread_and_labelled(taken):
    names = [f"{i:06d}" for i in (1, 3, 6, 8, 10)]
    assert list(taken["looked"].images.names) == names
    assert list(snapshots.spread(100, 4)) == [12, 37, 62, 87]
    assert list(snapshots.spread(3, 8)) == [0, 1, 2]


@functools.partial(jax.jit, static_argnums=0)
def evaluated(model, variables, images):
    return model.apply(variables, images, train=False)


def output_of(taken, params):
    variables = {"params": params, "batch_stats": taken["state"].batch_stats}
    return evaluated(taken["model"], variables, taken["looked"].images.images / np.float32(255))


def bilinear(values, size):
    """Corners aligned, in NumPy."""
    for axis, wanted in ((1, size[0]), (2, size[1])):
        at = np.linspace(0, values.shape[axis] - 1, wanted)
        low = np.minimum(at.astype(int), values.shape[axis] - 2)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        values = values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share
    return values


def test_rectified_labels_follow_equation_3(taken):
    """Labels of the samples: argmax of soft label times softmax over negative distances to the seen prototypes."""
    soft, state, arrays = taken["soft"], taken["state"], taken["arrays"]
    features = bilinear(np.asarray(output_of(taken, state.ema_params).features, np.float64), soft.shape[1:3])
    distances = np.linalg.norm(features[..., None, :] - np.asarray(state.prototypes.vectors), axis=-1)
    closeness = np.exp(-distances) * (np.arange(CLASSES) > 0)  # class 0 has no prototype
    weights = closeness / closeness.sum(-1, keepdims=True)
    samples = taken["looked"].samples
    expected, fixed = (soft * weights).argmax(-1)[samples], soft.argmax(-1)[samples]
    assert np.mean(arrays["rectified"] == expected) > 0.999
    assert np.mean(arrays["fixed"] == fixed) > 0.999
    assert np.mean(expected != fixed) > 0.05  # otherwise the first line says little
    of_fixed = np.take_along_axis(weights[samples], fixed[..., None], -1)[..., 0]
    assert np.mean(np.abs(arrays["weight"] - of_fixed) < 2e-3) > 0.99
    np.testing.assert_allclose(arrays["confidence"], soft.max(-1)[samples], atol=2e-3)


def test_quality_is_measured_against_the_truth_of_held_out_images(taken):
    soft, looked = taken["soft"], taken["looked"]
    rows, columns = (np.rint(np.linspace(0, n - 1, m)).astype(int) for n, m in zip(IMAGE, soft.shape[1:3], strict=True))
    truth = looked.images.labels[:, rows][:, :, columns]
    own = bilinear(np.asarray(output_of(taken, taken["state"].params).logits, np.float64), soft.shape[1:3]).argmax(-1)
    for name, labels in (("fixed", soft.argmax(-1)), ("network", own)):
        counted = truth != IGNORE
        matrix = np.zeros((CLASSES, CLASSES))
        np.add.at(matrix, (truth[counted], labels[counted]), 1)
        found = taken["entry"]["pseudo_labels"][name]
        assert found["pixel_accuracy"] == pytest.approx(100 * np.trace(matrix) / matrix.sum(), abs=0.2)
        assert found["miou"] == pytest.approx(100 * metrics.scores(matrix)["miou"], abs=0.2)
    learnt_from = taken["entry"]["pseudo_labels"]["learnt_from"]
    np.testing.assert_allclose(taken["arrays"]["quality"][0], list(learnt_from.values()))


def test_features_are_those_of_the_network_at_pixels_of_each_class(taken):
    arrays, looked = taken["arrays"], taken["looked"]
    features = np.asarray(output_of(taken, taken["state"].params).features)
    flat = features.reshape(-1, features.shape[-1])
    np.testing.assert_allclose(arrays["features"], flat[arrays["feature_pixel"]], atol=0.02)
    truth = snapshots.at_corners(looked.images.labels, features.shape[1:3]).ravel()
    np.testing.assert_array_equal(arrays["feature_class"], truth[arrays["feature_pixel"]])
    assert np.bincount(arrays["feature_class"], minlength=CLASSES).tolist() == [3] * 10 + [0]  # class 10 never occurs


def test_predictions_and_panels_are_of_the_samples(taken):
    arrays, panels, looked = taken["arrays"], taken["panels"], taken["looked"]
    logits = np.asarray(output_of(taken, taken["state"].params).logits)[looked.samples]
    assert np.mean(arrays["prediction"] == bilinear(logits, (48, 96)).argmax(-1)) > 0.999
    np.testing.assert_array_equal(panels["input"], looked.images.images[looked.samples])
    np.testing.assert_array_equal(panels["prediction"], SPACE.colors[arrays["prediction"]])
    assert set(panels) == {"input", "soft_label", "rectified_label", "prediction", "weight"}
    assert all(panel.dtype == np.uint8 and panel.ndim == 4 for panel in panels.values())


def test_wide_images_are_kept_smaller():
    assert snapshots.reduced(np.zeros((2, 1052, 1914, 3))).shape == (2, 526, 957, 3)
    assert snapshots.reduced(np.zeros((2, 512, 1024))).shape == (2, 512, 1024)
