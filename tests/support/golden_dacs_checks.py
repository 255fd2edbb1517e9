"""ClassMix, confidence weights, feature distance, rare classes and masks agree with the released codes."""

import functools

import jax
import numpy as np
import pytest
from comparators import B, K, agree, dacs_draws, dacs_labels, golden, nchw, nhwc, same, thinned

from proda_jax.adaptation import confidence, losses
from proda_jax.adaptation import feature_distance as fd
from proda_jax.adaptation.state import average, rising_momentum
from proda_jax.adaptation.views import block_mask, class_mix
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.rare_classes import class_probabilities
from proda_jax.models import interpolation
from proda_jax.models.resizing import resize_align_corners

THRESHOLD = 0.968


@functools.cache
def teacher(g, resize) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo labels and confidence of the teacher at full size, [B, H, W]."""
    logits = nhwc(5 * g.normal("dacs_teacher", (B, K, *g.grid)))
    probabilities = np.asarray(jax.jit(lambda z: jax.nn.softmax(resize(z, g.size), axis=-1))(logits))
    return probabilities.argmax(-1), probabilities.max(-1)


@functools.cache
def mixing(g, *, over_batch: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source labels, chosen classes [B, K + 1], and where they are pasted."""
    labels = dacs_labels(g)
    present = np.asarray(jax.jit(class_mix.classes_present, static_argnums=1)(labels, K))
    if over_batch:
        present = np.broadcast_to(present.any(0), present.shape)
    chosen = np.asarray(jax.jit(class_mix.choose_half)(present, dacs_draws(g, present)))
    return labels, chosen, np.asarray(jax.jit(class_mix.paste_mask)(labels, chosen))


def compare_chosen(g, chosen: np.ndarray) -> None:
    for b in range(B):
        found = [255 if k == K else k for k in np.flatnonzero(chosen[b])]
        assert sorted(found) == sorted(g[f"chosen_classes{b}"].tolist())


def everywhere(g) -> np.ndarray:
    return np.ones((B, *g.size), bool)


def share_of_batch(g, sure: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    @jax.jit
    def share(sure, threshold):
        counts = confidence.count_confident(sure, everywhere(g), threshold)
        return confidence.share_weight(sure, everywhere(g), threshold, over_batch=counts)

    return np.asarray(share(sure, threshold))


def test_class_mix_of_dacs():
    g = golden("dacs")
    labels, chosen, mask = mixing(g, over_batch=False)
    compare_chosen(g, chosen)
    same(mask, g["mask"].astype(bool))
    pseudo, _ = teacher(g, resize_align_corners)
    same(class_mix.paste(mask, labels, pseudo), g["mixed_labels"])
    images = (nhwc(g.normal(f"dacs_img_{domain}", (B, 3, *g.size))) for domain in ("src", "trg"))
    agree(nchw(class_mix.paste(mask, *images))[:, :, ::4, ::4], g["mixed_images"], 0.0)


weighted = jax.jit(jax.value_and_grad(losses.weighted_cross_entropy), static_argnames="resize")


@pytest.mark.parametrize("weighting", ["threshold_uniform", "threshold", "none"])
def test_mixed_loss_of_dacs(weighting):
    g = golden("dacs")
    labels, _, mask = mixing(g, over_batch=False)
    pseudo, sure = teacher(g, resize_align_corners)
    weights = np.ones_like(sure)
    if weighting == "threshold_uniform":
        weights = share_of_batch(g, sure)
        agree(weights[0, 0, 0], g["unlabeled_weight"])
    if weighting == "threshold":
        weights = confidence.pixel_weight(sure, THRESHOLD)
    weights = class_mix.paste(mask, np.ones_like(sure), weights)
    if weighting != "none":
        agree(weights, g[{"threshold_uniform": "uniform_pixel_weight"}.get(weighting, "threshold_pixel_weight")])
    mixed = class_mix.paste(mask, labels, pseudo)
    loss, gradient = weighted(g.logits("trg_main"), mixed, weights)
    agree(loss, g[f"{weighting}_loss"])
    agree(thinned(gradient), g[f"{weighting}_grad"])


test_mixed_loss_of_dacs.cases = [("threshold_uniform",), ("threshold",), ("none",)]


def test_mean_teacher_of_dacs():
    g = golden("dacs")
    for step in (0, 9, 500):
        moved = average(g.normal("ema_a", (2, 3)), g.normal("ema_b", (2, 3)), rising_momentum(step, 0.99))
        agree(moved, g[f"ema_iter{step}"])


def test_rare_class_probabilities_of_daformer():
    g = golden("daformer")
    counts = np.floor(1e6 * g.uniform("rcs_counts", (40, K)).astype(np.float64) ** 3 * np.exp(-0.35 * np.arange(K)))
    pixels = np.where(g.uniform("rcs_present", (40, K)) < 0.7, counts, 0).sum(0)
    order = np.argsort(pixels, kind="stable")
    np.testing.assert_array_equal(order, g["rcs_classes"])
    for temperature in ("0.01", "0.1"):
        agree(class_probabilities(pixels, float(temperature))[order], g[f"rcs_prob_T{temperature}"])


def test_feature_distance_of_daformer():
    g = golden("daformer")
    pixels = tuple(32 * n for n in g.cells)

    def repeated(cells: np.ndarray) -> np.ndarray:
        return cells.repeat(32, axis=1).repeat(32, axis=2)

    noisy = g.uniform("fd_u", (B, *pixels)) < repeated(0.5 * g.uniform("fd_p", (B, *g.cells)))
    coarse = repeated(g.integers("fd_coarse", (B, *g.cells), 0, K))
    labels = np.where(noisy, g.integers("fd_noise", (B, *pixels), 0, K), coarse)
    labels[g.uniform("fd_ignore", (B, *pixels)) < 0.05] = IGNORE
    found = jax.jit(fd.dominant_label, static_argnums=(1, 2))(labels, g.cells, K)
    same(found, g["fdist_label"])
    mask = jax.jit(fd.is_any_of, static_argnums=1)(found, (6, 7, *range(11, 19)))
    same(mask, g["fdist_mask"].astype(bool))
    features, frozen = (nhwc(g.normal(name, (B, 32, *g.cells))) for name in ("fd_feat", "fd_feat_imnet"))

    def loss(features, mask):
        return 0.005 * losses.share_of_mean(fd.feature_distance(features, frozen), mask)

    step = jax.jit(jax.value_and_grad(loss))
    value, gradient = step(features, mask)
    agree(value, g["fdist_loss"])
    agree(thinned(gradient), g["fdist_grad"])
    agree(step(features, np.ones(mask.shape, bool))[0], g["fdist_all_loss"])


def test_class_mix_of_daformer():
    g = golden("daformer")
    labels, chosen, mask = mixing(g, over_batch=True)
    compare_chosen(g, chosen)
    same(mask, g["mask"].astype(bool))
    pseudo, sure = teacher(g, interpolation.resize)
    same(pseudo, g["pseudo_label"])
    mixed = class_mix.paste(mask, labels, pseudo)
    for top, bottom in ((0, 0), (3, 5)):
        outside = jax.jit(confidence.outside_margins, static_argnums=(0, 1))(g.size, (top, bottom, 0, 0))
        weights = share_of_batch(g, sure) * np.asarray(outside)
        agree(weights[..., 0], g[f"pseudo_weight_{top}_{bottom}"])
        weights = class_mix.paste(mask, np.ones_like(sure), weights)
        value, gradient = weighted(g.logits("trg_main"), mixed, weights, resize=interpolation.resize)
        agree(value, g[f"mix_loss_{top}_{bottom}"])
        if top == 0:
            agree(nchw(gradient), g["mix_grad_0_0"])


def test_masks_of_mic():
    g = golden("mic")
    large = tuple(32 * n for n in g.cells)
    for tag, size, block, ratio in (("b8", g.size, 8, 0.7), ("b5", g.size, 5, 0.5), ("b64", large, 64, 0.7)):
        grid = block_mask.block_grid(size, block)
        assert (B, 1, *grid) == tuple(g[f"{tag}_grid"])
        visible = block_mask.block_mask(g.uniform(f"mic_rand_{tag}", (B, 1, *grid))[:, 0], size, ratio)
        same(visible, g[f"{tag}_mask"].astype(bool))
        hidden = nchw(block_mask.hide(nhwc(g.normal(f"mic_img_{tag}", (B, 3, *size))), visible, 0.0))
        every = 8 if tag == "b64" else 4
        agree(hidden[:, :, ::every, ::every], g[f"{tag}_masked_image"], 0.0)


def test_confidence_of_mic():
    g = golden("mic")
    _, sure = teacher(g, interpolation.resize)
    for threshold in ("0.968", "0.5"):
        agree(share_of_batch(g, sure, float(threshold))[0, 0, 0], g[f"pseudo_weight_{threshold}"])
