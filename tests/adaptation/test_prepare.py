"""Pseudo labels as stages 1 to 3 start from them, against PyTorch on the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny import CLASSES, block_source, blocks, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.stages import prepare
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.system import devices

IMAGES = blocks(2, 5)[0]
SCALES = (0.75, 1.0, 1.25)

soft_labels = jax.jit(prepare.soft_labels, static_argnums=0, static_argnames=("stride", "scales", "flip"))
hard_labels = jax.jit(prepare.hard_labels, static_argnums=0, static_argnames="scales")


def network():
    model = tiny_model(tiny_config())
    return model, tiny_variables(model, 0)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(model, variables, images):
    """The network's output on images in [0, 1]."""
    return model.apply(variables, images, train=False)


def torch_resize(values: np.ndarray, size: tuple[int, int], *, align_corners: bool) -> np.ndarray:
    planes = torch.from_numpy(np.moveaxis(np.array(values, np.float32), -1, 1))
    resized = torch.nn.functional.interpolate(
        planes, size, mode="bilinear", align_corners=align_corners, antialias=not align_corners
    )
    return np.moveaxis(resized.numpy(), 1, -1)


@functools.cache
def expected_logits(scale: float, mirrored: bool) -> np.ndarray:
    """Class scores of `IMAGES` at a scale, mirrored or not."""
    image = IMAGES.astype(np.float32) / 255.0
    image = torch_resize(image, (round(48 * scale), round(96 * scale)), align_corners=False)
    return np.asarray(evaluated(*network(), image[:, :, ::-1] if mirrored else image).logits)


def expected_probabilities(scales: tuple[float, ...], *, flip: bool, size: tuple[int, int]) -> np.ndarray:
    """One prediction after another, resized by PyTorch and mirrored by NumPy."""
    predictions = []
    for scale in scales:
        for mirrored in (False, True)[: 1 + flip]:
            logits = np.exp(torch_resize(expected_logits(scale, mirrored), size, align_corners=True))
            probabilities = logits / logits.sum(-1, keepdims=True)
            predictions.append(probabilities[:, :, ::-1] if mirrored else probabilities)
    return np.mean(predictions, axis=0)


# every two of the choices together; each is a program of its own
GRIDS = {8: (7, 13), 4: (13, 25)}
SOFT = [((1.0,), False, 8), ((1.0,), True, 4), (SCALES, False, 4), (SCALES, True, 8)]
OTHERS = [((1.0,), True, 8), ((1.0,), False, 4), (SCALES, True, 4), (SCALES, False, 8)]


@pytest.mark.parametrize(
    ("scales", "flip", "stride"), SOFT + [pytest.param(*row, marks=pytest.mark.slow) for row in OTHERS]
)
def test_soft_labels_are_the_mean_prediction_on_their_grid(scales, flip, stride):
    grid = GRIDS[stride]
    actual = soft_labels(*network(), IMAGES, stride=stride, scales=scales, flip=flip)
    expected = expected_probabilities(scales, flip=flip, size=grid)
    assert actual.dtype == jnp.float16 and actual.shape == (2, *grid, CLASSES)
    np.testing.assert_allclose(actual, expected, atol=2e-3)  # float16


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("scales", [(1.0,), SCALES])
def test_hard_labels_are_the_likeliest_classes_over_the_threshold(scales, threshold):
    actual = np.asarray(hard_labels(*network(), IMAGES, threshold, scales=scales))
    mean = expected_probabilities(scales, flip=True, size=(48, 96))
    expected = np.where(mean.max(-1) > threshold, mean.argmax(-1), IGNORE)
    assert actual.dtype == np.uint8
    second, best = np.moveaxis(np.sort(mean), -1, 0)[-2:]
    clear = (best - second > 1e-4) & (np.abs(best - threshold) > 1e-4)
    assert clear.mean() > 0.95 and (threshold == 0) == (expected != IGNORE).all()
    np.testing.assert_array_equal(actual[clear], expected[clear])


def expected_prototypes(source, kind: str, by: str, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of features, class by class and image by image, and over how many vectors or pixels."""
    model, variables = network()
    sums, counts = np.zeros((CLASSES, model.feature_channels)), np.zeros(CLASSES)
    for image, label in zip(source.images, source.labels, strict=True):
        output = evaluated(model, variables, image[None] / np.float32(255))
        features, assigned = np.asarray(output.features[0], np.float64), np.asarray(output.logits[0]).argmax(-1)
        rows, columns = (np.arange(n) * size // n for n, size in zip(assigned.shape, label.shape, strict=True))
        agree = label[rows][:, columns] == assigned
        for c in range(CLASSES):
            members = features[(assigned == c) & (agree | (kind == "target"))]
            if len(members) >= least:
                weight = len(members) if by == "pixels" else 1
                sums[c] += members.mean(0) * weight
                counts[c] += weight
    return sums / np.maximum(counts, 1)[:, None], counts


@pytest.mark.parametrize(  # every two of the choices together; each is a program of its own
    ("kind", "by", "count"), [("target", "vectors", 1), ("target", "pixels", 2), ("source", "vectors", 2),
                              ("source", "pixels", 1)]
)  # fmt: skip
def test_prototypes_start_as_mean_features_whatever_the_number_of_devices(kind, by, count):
    source = block_source(5, 7)  # the last of three batches is half padding
    stage = tiny_stage(base.denoise("warmup", 1), prototype_init=kind, prototype_init_by=by)
    stage.prototype_init_min_pixels = 3 if kind == "target" else 1
    mesh = devices.make_mesh(count)
    model, variables = network()
    actual = prepare.initial_prototypes(
        model.clone(axis_name=devices.AXIS), devices.replicate(variables, mesh), source, stage, 2, mesh
    )
    vectors, counts = expected_prototypes(source, kind, by, stage.prototype_init_min_pixels)
    np.testing.assert_array_equal(jax.device_get(actual.counts), counts)
    np.testing.assert_allclose(jax.device_get(actual.vectors), vectors, rtol=1e-4, atol=1e-5)
    assert (counts > 1).sum() >= 2 and len(set(counts)) >= 2
