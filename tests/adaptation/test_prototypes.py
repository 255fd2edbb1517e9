"""Prototype rules against NumPy loops, PyTorch's resizing and finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proda_jax.adaptation import prototypes
from proda_jax.data.label_spaces import IGNORE

B, H, W, K, C = 3, 8, 10, 5, 6
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((B, H, W, C)).astype(np.float32)
VECTORS = RNG.standard_normal((K, C)).astype(np.float32)
ASSIGNED = np.where(RNG.random((B, H, W)) < 0.2, IGNORE, RNG.integers(0, K, (B, H, W)))
ASSIGNED[0][ASSIGNED[0] == 3] = IGNORE  # a class that one image lacks


distances, rectify = jax.jit(prototypes.distances), jax.jit(prototypes.rectify)
assignment_weights = jax.jit(prototypes.assignment_weights)
log_assignment_weights = jax.jit(prototypes.log_assignment_weights)
class_means = jax.jit(prototypes.class_means, static_argnums=2, static_argnames=("min_pixels", "size"))
accumulate = jax.jit(prototypes.accumulate, static_argnames=("by", "count_limit"))
update_in_turn, update_by_batch = (
    jax.jit(update, static_argnames="unseen") for update in (prototypes.update_in_turn, prototypes.update_by_batch)
)


def largest_tensor(function, *inputs) -> int:
    """Elements of the largest array in the traced program."""
    shapes = re.findall(r"[a-z]+\d+\[([\d,]+)\]", str(jax.make_jaxpr(function)(*inputs)))
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def naive_means(features, assigned, min_pixels):
    means, pixels = np.zeros((len(features), K, C)), np.zeros((len(features), K))
    for image in range(len(features)):
        for k in range(K):
            members = features[image][assigned[image] == k]
            if len(members) >= max(min_pixels, 1):
                means[image, k], pixels[image, k] = members.mean(axis=0, dtype=np.float64), len(members)
    return means, pixels


def test_distances_are_euclidean():
    expected = np.linalg.norm(FEATURES[..., None, :].astype(np.float64) - VECTORS, axis=-1)
    np.testing.assert_allclose(distances(FEATURES, VECTORS), expected, rtol=1e-5, atol=1e-5)


def test_distance_gradient_is_the_finite_difference():
    features, weights = FEATURES[0, :2, :2], RNG.standard_normal((2, 2, K))

    def exact(features, vectors):
        return (np.linalg.norm(features[..., None, :] - vectors, axis=-1) * weights).sum()

    def difference(values, of):
        result, step = np.zeros(values.shape), 1e-6
        for index in np.ndindex(values.shape):
            moved = np.zeros(values.shape)
            moved[index] = step
            result[index] = (of(values + moved) - of(values - moved)) / (2 * step)
        return result

    total = jax.grad(lambda f, v: jnp.sum(distances(f, v) * weights), argnums=(0, 1))
    gradients = jax.jit(total)(features, VECTORS)
    f, v = features.astype(np.float64), VECTORS.astype(np.float64)
    np.testing.assert_allclose(gradients[0], difference(f, lambda x: exact(x, v)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], difference(v, lambda x: exact(f, x)), rtol=1e-4, atol=1e-5)


@jax.jit
def distances_and_gradients(features, vectors):
    distances, pullback = jax.vjp(prototypes.distances, features, vectors)
    return distances, pullback(jnp.ones((K, K)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_feature_on_its_prototype_has_a_finite_gradient(scale):
    vectors = scale * np.random.default_rng(1).standard_normal((K, 256)).astype(np.float32)
    distances, gradients = distances_and_gradients(vectors, vectors)
    # rounding of squares of size |v|^2 is all that may be left
    assert np.all(np.diag(distances) <= np.sqrt(1e-5) * np.linalg.norm(vectors, axis=-1))
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.abs(gradient).max() < 2 * K


def test_distances_form_no_tensor_of_classes_times_channels_a_pixel():
    assert largest_tensor(prototypes.distances, FEATURES, VECTORS) <= FEATURES.size


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_assignment_is_the_softmax_over_negative_distances(temperature):
    distances = RNG.random((B, K)).astype(np.float32) * 10
    powers = np.exp(-distances.astype(np.float64) / temperature)
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(assignment_weights(distances, temperature), expected, rtol=1e-5)
    np.testing.assert_allclose(
        log_assignment_weights(distances, temperature), np.log(expected), rtol=1e-5, atol=1e-5
    )


def test_unseen_prototype_gets_no_weight_even_where_it_is_nearest():
    distances = np.float32([[9.0, 8.0, 0.0]])
    weights = assignment_weights(distances, 1.0, np.array([True, True, False]))
    np.testing.assert_allclose(weights[:, :2], assignment_weights(distances[:, :2]), rtol=1e-6)
    assert weights[0, 2] == 0


def test_rectified_label_follows_the_nearest_prototype_when_the_soft_label_is_flat():
    flat = np.full((B, H, W, K), 1 / K, np.float32)
    distances = np.linalg.norm(FEATURES[..., None, :] - VECTORS, axis=-1)
    labels, _ = rectify(flat, assignment_weights(distances))
    np.testing.assert_array_equal(labels, distances.argmin(axis=-1))


def test_rectified_label_follows_the_soft_label_when_all_prototypes_are_equally_near():
    soft = RNG.dirichlet(np.ones(K), (B, H, W)).astype(np.float32)
    labels, confidence = rectify(soft, np.full(soft.shape, 1 / K, np.float32), threshold=0.5)
    expected = np.where(soft.max(axis=-1) < 0.5, IGNORE, soft.argmax(axis=-1))
    assert {IGNORE} < set(np.unique(expected))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(confidence, soft.max(axis=-1), rtol=1e-5)


def test_a_pixel_whose_products_are_all_zero_has_no_label():
    """A soft label kept as float16 can be one class alone, and that class without a prototype."""
    weights = assignment_weights(np.float32([[1.0, 2.0, 3.0]]), 1.0, np.array([True, True, False]))
    labels, confidence = rectify(np.float32([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), weights)
    assert labels.tolist() == [IGNORE, 1] and confidence.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("min_pixels", [1, 12])
def test_class_means_are_those_of_a_loop_over_images_and_classes(min_pixels):
    means, pixels = class_means(FEATURES, ASSIGNED, K, min_pixels=min_pixels)
    expected_means, expected_pixels = naive_means(FEATURES, ASSIGNED, min_pixels)
    assert np.any(expected_pixels == 0) and np.any(expected_pixels > 0)
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_allclose(means, expected_means, atol=1e-5)


def test_class_with_exactly_the_least_number_of_pixels_counts():
    assigned = np.full((1, H, W), IGNORE)
    assigned[0, 0, :10] = 2
    assert class_means(FEATURES[:1], assigned, K, min_pixels=10)[1][0, 2] == 10
    assert class_means(FEATURES[:1], assigned, K, min_pixels=11)[1][0, 2] == 0


@pytest.mark.parametrize("size", [(16, 25), (5, 4)])
def test_means_through_the_adjoint_are_means_of_resized_features(size):
    assigned = np.where(RNG.random((B, *size)) < 0.2, IGNORE, RNG.integers(0, K, (B, *size)))
    resized = F.interpolate(torch.tensor(np.moveaxis(FEATURES, -1, 1)), size=size, mode="bilinear", align_corners=True)
    expected_means, expected_pixels = naive_means(np.moveaxis(resized.numpy(), 1, -1), assigned, 4)
    means, pixels = class_means(FEATURES, assigned, K, min_pixels=4, size=size)
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_allclose(means, expected_means, atol=1e-5)


def test_means_through_the_adjoint_never_form_resized_features():
    channels, size = 64, (4 * H, 4 * W)
    features, assigned = np.zeros((1, H, W, channels), np.float32), np.zeros((1, *size), np.int32)
    largest = largest_tensor(lambda f, a: prototypes.class_means(f, a, K, min_pixels=1, size=size), features, assigned)
    assert largest <= max(K * size[0] * size[1], H * W * channels)


def test_classes_on_another_grid_than_the_features_ask_for_the_size():
    with pytest.raises(ValueError, match="pass `size`"):
        class_means(FEATURES, ASSIGNED[:, ::2], K, min_pixels=1)


def start(counts=(4, 0, 2, 0, 1)) -> prototypes.Prototypes:
    counts = np.float32(counts)
    return prototypes.Prototypes(VECTORS * (counts > 0)[:, None], counts)


@pytest.mark.smoke("adaptation")
@pytest.mark.parametrize("unseen", ["replace", "released"])
def test_update_in_turn_is_a_loop_over_images_and_classes(unseen):
    means, pixels = naive_means(FEATURES, ASSIGNED, 12)
    vectors, counts = np.array(start().vectors, np.float64), np.array(start().counts)
    for image in range(B):
        for k in range(K):
            if pixels[image, k] == 0:
                continue
            first = counts[k] == 0 and unseen == "replace"
            vectors[k] = means[image, k] if first else 0.7 * vectors[k] + 0.3 * means[image, k]
            counts[k] += 1
    moved = update_in_turn(start(), np.float32(means), np.float32(pixels), rate=0.3, unseen=unseen)
    np.testing.assert_allclose(moved.vectors, vectors, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved.counts, counts)


@pytest.mark.parametrize("unseen", ["replace", "released"])
def test_update_by_batch_moves_once_towards_the_mean_over_all_pixels_of_the_batch(unseen):
    means, pixels = naive_means(FEATURES, ASSIGNED, 1)
    vectors, counts = np.array(start().vectors, np.float64), np.array(start().counts)
    for k in range(K):
        mean = FEATURES[ASSIGNED == k].mean(axis=0)
        first = counts[k] == 0 and unseen == "replace"
        vectors[k] = mean if first else 0.7 * vectors[k] + 0.3 * mean
    moved = update_by_batch(start(), np.float32(means), np.float32(pixels), rate=0.3, unseen=unseen)
    np.testing.assert_allclose(moved.vectors, vectors, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved.counts, counts + 1)


@pytest.mark.parametrize("update", [update_in_turn, update_by_batch])
def test_class_without_pixels_keeps_its_prototype_and_stays_unseen(update):
    means, pixels = np.ones((B, K, C), np.float32), np.zeros((B, K), np.float32)
    pixels[:, 0] = 9
    moved = update(start(), means, pixels, rate=0.3)
    np.testing.assert_array_equal(moved.vectors[1:], start().vectors[1:])
    np.testing.assert_array_equal(moved.seen, start().seen)
    assert np.all(moved.vectors[0] != start().vectors[0])


def test_initialising_by_pixels_is_the_mean_over_all_pixels_of_all_batches():
    running = prototypes.empty(K, C)
    for image in range(B):
        means = class_means(FEATURES[image : image + 1], ASSIGNED[image : image + 1], K, min_pixels=1)
        running = accumulate(running, *means, by="pixels")
    expected = np.stack([FEATURES[ASSIGNED == k].mean(axis=0) for k in range(K)])
    np.testing.assert_allclose(running.vectors, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(running.counts, [(ASSIGNED == k).sum() for k in range(K)])


def test_initialising_by_vectors_is_the_mean_over_the_images_that_have_the_class():
    means, pixels = naive_means(FEATURES, ASSIGNED, 12)
    running = accumulate(prototypes.empty(K, C), np.float32(means), np.float32(pixels), by="vectors")
    present = pixels > 0
    np.testing.assert_array_equal(running.counts, present.sum(axis=0))
    for k in range(K):
        expected = means[present[:, k], k].mean(axis=0) if present[:, k].any() else np.zeros(C)
        np.testing.assert_allclose(running.vectors[k], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(running.seen, present.any(axis=0))


def test_running_mean_of_vectors_forgets_once_its_count_has_reached_the_limit():
    values = RNG.standard_normal(6).astype(np.float32)
    means, pixels = np.broadcast_to(values[:, None, None], (6, K, C)), np.ones((6, K), np.float32)
    running = accumulate(prototypes.empty(K, C), means, pixels, by="vectors", count_limit=3)
    expected = values[:3].mean()
    for value in values[3:]:
        expected = (3 * expected + value) / 4
    np.testing.assert_allclose(running.vectors, np.full((K, C), expected), rtol=1e-5)
    np.testing.assert_array_equal(running.counts, 3)


def test_unknown_rules_are_named():
    means, pixels = naive_means(FEATURES, ASSIGNED, 1)
    with pytest.raises(ValueError, match="'median'"):
        accumulate(prototypes.empty(K, C), means, pixels, by="median")
    with pytest.raises(ValueError, match="'forget'"):
        update_by_batch(start(), means, pixels, rate=0.1, unseen="forget")
