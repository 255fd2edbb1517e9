"""Losses agree with PyTorch and NumPy, leave out what does not count, and add up over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proda_jax.adaptation import losses
from proda_jax.data.label_spaces import IGNORE

B, H, W, K = 4, 6, 5, 7
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.standard_normal((B, H, W, K)).astype(np.float32)
OTHER = 3 * RNG.standard_normal((B, H, W, K)).astype(np.float32)
# nearly everything ignored in the first half of the batch, nearly nothing in the second
IGNORED = RNG.random((B, H, W)) < np.array([0.9, 0.8, 0.1, 0.0])[:, None, None]
LABELS = np.where(IGNORED, IGNORE, RNG.integers(0, K, (B, H, W)))
BIG_LABELS = np.where(np.repeat(np.repeat(IGNORED, 3, 1), 3, 2), IGNORE, RNG.integers(0, K, (B, 3 * H, 3 * W)))
SEEN = np.array([1, 1, 0, 1, 1, 0, 1], bool)
SOFT = np.asarray(jax.nn.softmax(OTHER))


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.moveaxis(array, -1, 1))


def agrees_with_torch(loss, expected, *inputs, **settings) -> None:
    """`loss` of LOGITS against `expected` of the same as a PyTorch tensor, in value and gradient."""
    value, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, *inputs, **settings)))(LOGITS)
    logits = to_torch(LOGITS).requires_grad_()
    truth = expected(logits)
    truth.backward()
    np.testing.assert_allclose(value, truth.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.moveaxis(logits.grad.numpy(), 1, -1), rtol=1e-4, atol=1e-7)


def test_cross_entropy_is_pytorchs_mean_over_valid_pixels():
    labels = torch.tensor(LABELS)
    agrees_with_torch(losses.cross_entropy, lambda x: F.cross_entropy(x, labels, ignore_index=IGNORE), LABELS)


def test_upsampled_cross_entropy_is_pytorchs_at_label_size():
    def expected(x):
        big = F.interpolate(x, size=BIG_LABELS.shape[1:], mode="bilinear", align_corners=True)
        return F.cross_entropy(big, torch.tensor(BIG_LABELS), ignore_index=IGNORE)

    agrees_with_torch(losses.upsampled_cross_entropy, expected, BIG_LABELS)


def test_upsampled_cross_entropy_keeps_no_logits_at_label_size_for_the_backward_pass():
    kept = jax.tree.leaves(jax.vjp(lambda x: losses.upsampled_cross_entropy(x, BIG_LABELS), LOGITS)[1])
    assert kept
    assert max(leaf.size for leaf in kept) < BIG_LABELS.size * K


def test_soft_cross_entropy_is_pytorchs_over_the_pixels_of_the_mask():
    def expected(x):
        return F.cross_entropy(x, to_torch(SOFT), reduction="none")[torch.tensor(~IGNORED)].mean()

    agrees_with_torch(losses.soft_cross_entropy, expected, SOFT, ~IGNORED)


def test_reverse_cross_entropy_of_a_pixel_is_its_wrong_probability_times_the_clamp():
    right = np.asarray(jax.nn.softmax(LOGITS))[~IGNORED][np.arange((~IGNORED).sum()), LABELS[~IGNORED]]
    expected = -np.log(1e-4) * np.mean(1 - right)
    np.testing.assert_allclose(masked("reverse_cross_entropy")(LOGITS, LABELS)[0], expected, rtol=1e-5)


def test_symmetric_cross_entropy_follows_its_two_weights():
    ce, rce = (masked(name)(LOGITS, LABELS)[0] for name in ("cross_entropy", "reverse_cross_entropy"))
    both = jax.jit(losses.symmetric_cross_entropy)(LOGITS, LABELS, alpha=0.3, beta=2.0)
    np.testing.assert_allclose(both, 0.3 * ce + 2.0 * rce, rtol=1e-6)


def test_paper_reduction_sums_over_pixels_and_averages_over_images():
    total = F.cross_entropy(to_torch(LOGITS), torch.tensor(LABELS), ignore_index=IGNORE, reduction="sum").item()
    np.testing.assert_allclose(masked("cross_entropy sum")(LOGITS, LABELS)[0], total / B, rtol=1e-5)
    minus_log_p = -np.asarray(jax.nn.log_softmax(LOGITS))
    expected = minus_log_p.sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(losses.class_balance(LOGITS, "mrkld", reduction="sum"), expected, rtol=1e-5)


def test_class_balance_is_least_for_flat_predictions_and_negative_entropy_is_its_alternative():
    flat = np.zeros_like(LOGITS)
    np.testing.assert_allclose(losses.class_balance(flat, "mrkld"), np.log(K), rtol=2e-5)
    np.testing.assert_allclose(losses.class_balance(flat, "mrent"), -np.log(K), rtol=2e-5)
    for kind in ("mrkld", "mrent"):
        assert losses.class_balance(LOGITS, kind) > losses.class_balance(flat, kind)


def test_consistency_is_the_divergence_of_the_teachers_assignment_from_the_students():
    def expected(x):
        log_student = F.log_softmax(-x / 0.5, dim=1)
        log_teacher = F.log_softmax(-to_torch(OTHER) / 0.5, dim=1)
        terms = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
        return terms.mean(dim=1)[torch.tensor(~IGNORED)].mean()

    agrees_with_torch(losses.assignment_consistency, expected, OTHER, ~IGNORED, temperature=0.5)
    mean, whole = (losses.assignment_consistency(LOGITS, OTHER, ~IGNORED, over_classes=c) for c in ("mean", "sum"))
    np.testing.assert_allclose(whole, K * mean, rtol=1e-5)


consistency = jax.jit(jax.value_and_grad(losses.assignment_consistency))


def test_consistency_of_seen_classes_is_as_if_the_unseen_did_not_exist():
    with_all, gradient = consistency(LOGITS, OTHER, ~IGNORED, seen=SEEN)
    only_seen, _ = consistency(LOGITS[..., SEEN], OTHER[..., SEEN], ~IGNORED)
    np.testing.assert_allclose(with_all, only_seen * SEEN.sum() / K, rtol=1e-5)
    assert not np.any(np.asarray(gradient)[..., ~SEEN])
    assert np.any(np.asarray(gradient)[..., SEEN])


def test_consistency_without_any_prototype_is_zero():
    value, gradient = consistency(LOGITS, OTHER, ~IGNORED, seen=np.zeros(K, bool))
    assert value == 0 and not np.any(gradient)


def test_distillation_is_the_divergence_of_the_teacher_from_the_student():
    def expected(x):
        terms = F.kl_div(F.log_softmax(x, 1), F.softmax(to_torch(OTHER), 1), reduction="none")
        return terms.sum(dim=1)[torch.tensor(~IGNORED)].mean()

    agrees_with_torch(losses.distillation, expected, OTHER, ~IGNORED, form="equation12_per_pixel")
    agrees_with_torch(losses.distillation, lambda x: expected(x) / K, OTHER, ~IGNORED, form="equation12")


def test_released_distillation_compares_probabilities_with_log_probabilities():
    def expected(x):
        terms = F.kl_div(F.softmax(x, 1), F.softmax(to_torch(OTHER), 1), reduction="none")
        return terms.mean(dim=1)[torch.tensor(~IGNORED)].mean()

    agrees_with_torch(losses.distillation, expected, OTHER, ~IGNORED, form="released")


@pytest.mark.parametrize("loss", [losses.assignment_consistency, losses.distillation])
def test_teacher_gets_no_gradient(loss):
    assert not np.any(jax.grad(loss, argnums=1)(LOGITS, OTHER, ~IGNORED))


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_adversarial_losses_are_pytorchs(target):
    wanted = torch.full((B, K, H, W), target)
    agrees_with_torch(losses.gan_loss, lambda x: F.mse_loss(x, wanted), target, "ls")
    agrees_with_torch(losses.gan_loss, lambda x: F.binary_cross_entropy_with_logits(x, wanted), target, "vanilla")


MASKED = {
    "cross_entropy": lambda x, labels: losses.cross_entropy(x, labels),
    "cross_entropy sum": lambda x, labels: losses.cross_entropy(x, labels, reduction="sum"),
    "upsampled_cross_entropy": lambda x, labels: losses.upsampled_cross_entropy(x, labels),
    "reverse_cross_entropy": lambda x, labels: losses.reverse_cross_entropy(x, labels),
    "soft_cross_entropy": lambda x, labels: losses.soft_cross_entropy(x, SOFT, labels != IGNORE),
    "assignment_consistency": lambda x, labels: losses.assignment_consistency(x, OTHER, labels != IGNORE),
    "distillation": lambda x, labels: losses.distillation(x, OTHER, labels != IGNORE),
    "distillation released": lambda x, labels: losses.distillation(x, OTHER, labels != IGNORE, form="released"),
}


@functools.cache
def masked(name: str):
    """Compiled once: (logits, labels) -> value and gradient."""
    return jax.jit(jax.value_and_grad(MASKED[name]))


@pytest.mark.parametrize("name", MASKED)
def test_loss_is_zero_rather_than_nan_where_every_pixel_is_ignored(name):
    value, gradient = masked(name)(LOGITS, np.full_like(LABELS, IGNORE))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", sorted(MASKED.keys() - {"upsampled_cross_entropy"}))
def test_ignored_pixels_change_neither_loss_nor_gradient(name):
    changed = np.where(IGNORED[..., None], RNG.standard_normal(LOGITS.shape), LOGITS).astype(np.float32)
    value, gradient = masked(name)(LOGITS, LABELS)
    other_value, other_gradient = masked(name)(changed, LABELS)
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-5, atol=1e-8)
    assert not np.any(np.asarray(gradient)[IGNORED])


@pytest.mark.parametrize("large", [1e4, -1e4])
@pytest.mark.parametrize("name", MASKED)
def test_extreme_logits_give_finite_gradients(name, large):
    logits = LOGITS + np.where(np.arange(K) == 2, large, 0).astype(np.float32)
    value, gradient = masked(name)(logits, LABELS)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


COUNTED = {  # losses over the pixels that are not ignored
    "cross_entropy": lambda x, y, z, t: losses.cross_entropy(x, y, total=t),
    "upsampled_cross_entropy": lambda x, y, z, t: losses.upsampled_cross_entropy(x, y, total=t),
    "soft_cross_entropy": lambda x, y, z, t: losses.soft_cross_entropy(x, jax.nn.softmax(z), y != IGNORE, total=t),
    "symmetric_cross_entropy": lambda x, y, z, t: losses.symmetric_cross_entropy(x, y, alpha=0.1, beta=1.0, total=t),
    "assignment_consistency": lambda x, y, z, t: losses.assignment_consistency(x, z, y != IGNORE, seen=SEEN, total=t),
    "mrkld over labels": lambda x, y, z, t: losses.class_balance(x, "mrkld", mask=y != IGNORE, total=t),
    "distillation": lambda x, y, z, t: losses.distillation(x, z, y != IGNORE, total=t),
    "distillation released": lambda x, y, z, t: losses.distillation(x, z, y != IGNORE, form="released", total=t),
}
OF_ALL = {  # over all pixels
    "mrkld": lambda x, y, z, t: losses.class_balance(x, "mrkld", total=t),
    "mrent": lambda x, y, z, t: losses.class_balance(x, "mrent", total=t),
}
OF_SCORES = {
    "gan ls": lambda x, y, z, t: losses.gan_loss(x, 1.0, "ls", total=t),
    "gan vanilla": lambda x, y, z, t: losses.gan_loss(x, 1.0, "vanilla", total=t),
}
OF_IMAGES = {
    "cross_entropy sum": lambda x, y, z, t: losses.cross_entropy(x, y, reduction="sum", total=t),
    "mrkld sum": lambda x, y, z, t: losses.class_balance(x, "mrkld", reduction="sum", total=t),
}
TOTALS = {
    name: (loss, total)
    for group, total in (
        (COUNTED, lambda x, y: losses.count(y != IGNORE)),
        (OF_ALL, lambda x, y: y.size),
        (OF_SCORES, lambda x, y: x.size),
        (OF_IMAGES, lambda x, y: losses.count(y != IGNORE, "sum")),
    )
    for name, loss in group.items()
}


@pytest.mark.parametrize("name", TOTALS)
def test_shares_add_up_to_the_loss_of_the_whole_batch(name):
    (loss, count), params = TOTALS[name], (np.float32([1.1] * K), np.linspace(-1, 1, K, dtype=np.float32))

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(params, x, y, z, total=None):
        return loss(x * params[0] + params[1], y, z, total)

    total = jnp.int32(count(LOGITS, LABELS))
    parts = (slice(0, 1), slice(1, None))
    halves = [value_and_gradient(params, *(a[part] for a in (LOGITS, LABELS, OTHER)), total) for part in parts]
    actual = jax.tree.map(lambda one, other: one + other, *halves)
    expected = value_and_gradient(params, LOGITS, LABELS, OTHER)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.any(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (lambda: losses.cross_entropy(LOGITS, LABELS, reduction="max"), "'max'"),
        (lambda: losses.class_balance(LOGITS, "other"), "'other'"),
        (lambda: losses.distillation(LOGITS, OTHER, ~IGNORED, form="equation13"), "'equation13'"),
        (lambda: losses.gan_loss(jnp.zeros((1, 2, 2, 1)), 0.0, "hinge"), "'hinge'"),
    ],
)
def test_unknown_variant_is_named_with_what_was_expected(call, wrong):
    with pytest.raises(ValueError, match=f"expected .*{wrong}"):
        call()
