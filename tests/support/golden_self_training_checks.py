"""Selection and objectives of CBST, CRST and FDA agree with the released codes; objectives go through our steps."""

import jax
import jax.numpy as jnp
import numpy as np
import own_logits
import pytest
from comparators import B, K, agree, golden, nchw, same, thinned
from own_logits import SOURCE, TARGET
from tiny import tiny_config

from proda_jax.adaptation import class_thresholds as ct
from proda_jax.adaptation import losses
from proda_jax.adaptation.stages import denoise, distill, supervised
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE

PORTIONS = (0.2, 0.5)

balanced_labels, regularised_labels = jax.jit(ct.balanced_labels), jax.jit(ct.regularised_labels)


def confidences(p: np.ndarray, every: int) -> list[np.ndarray]:
    """Of the pixels of each class, image after image."""
    images = [ct.by_class(image.max(-1), image.argmax(-1), p.shape[-1], every) for image in p]
    return [np.concatenate(parts) for parts in zip(*images, strict=True)]


def same_classes(actual: np.ndarray, expected: np.ndarray, pixels) -> None:
    """But for the order of classes with as many pixels."""
    pixels = np.asarray(pixels)
    np.testing.assert_array_equal(pixels[actual], pixels[expected])
    assert set(actual) == set(expected) or len(set(pixels)) < len(pixels)


def test_selection_of_crst():
    g = golden("crst")
    for classes, every in ((K, 1), (K, 4), (16, 4)):
        p, tag = g.probabilities(classes), f"K{classes}_ds{every}"
        pixels = np.bincount(p.argmax(-1).ravel(), minlength=classes)
        np.testing.assert_array_equal(pixels, g[f"K{classes}_pred_num"])
        rare, mined = ct.rare_classes(pixels, 3, 0.01)
        same_classes(rare, g[f"{tag}_rare"], pixels)
        same_classes(mined, g[f"{tag}_mine"], pixels)
        for portion in PORTIONS if classes == K else PORTIONS[:1]:
            thresholds = ct.top_portion(confidences(p, every), portion)
            agree(thresholds, g[f"{tag}_p{portion}_thresh"])
            labels = balanced_labels(p, thresholds)
            same(labels, g[f"{tag}_p{portion}_hard_labels"])
            if every == 4:
                soft = np.asarray(regularised_labels(p, thresholds, 0.25))
                labels = np.where(soft.sum(-1) > 0, soft.argmax(-1), IGNORE)
                same(labels, g[f"{tag}_p{portion}_lrent_labels"])
                if portion == 0.2:  # stored of all pixels, with a label or without
                    whole = (p / thresholds) ** 4
                    whole /= whole.sum(-1, keepdims=True)
                    agree(nchw(whole)[:, :, ::4, ::4], g[f"{tag}_p{portion}_lrent_soft"])
                    np.testing.assert_allclose(soft, np.where(soft.sum(-1, keepdims=True) > 0, whole, 0), atol=1e-5)


def test_selection_of_cbst():
    g = golden("cbst")
    prior = np.moveaxis(g.uniform("cbst_prior", (K, *g.size)), 0, -1)
    for tag in ("cb_priorFalse", "cb_priorTrue", "global_priorFalse"):
        p = g.probabilities() * (prior if "True" in tag else np.float32(1))
        found = [np.append(np.float32(0), own) for own in confidences(p, 4)]  # the code's lists begin so
        pixels = [len(own) for own in found]
        if tag.startswith("global"):
            found = [np.append(np.float32(0), np.concatenate(found))]
            pixels = [len(found[0])] * K
        np.testing.assert_array_equal(pixels, g[f"{tag}_size"])
        rare, mined = ct.rare_classes(pixels, 3, 0.01)
        same_classes(rare, g[f"{tag}_mine_id"], pixels)
        assert sorted(mined) == g[f"{tag}_mine_priority"].tolist()
        for portion in PORTIONS:
            if tag.startswith("global"):
                thresholds = ct.top_portion_of_all([found[0], *[np.zeros(0, np.float32)] * (K - 1)], portion)
            else:
                thresholds = ct.top_portion(found, portion)
            agree(thresholds, g[f"{tag}_p{portion}_thresh"])
            same(balanced_labels(p, thresholds), g[f"{tag}_p{portion}_labels"])


def views_at(size: tuple[int, int]):
    """Target losses at every pixel of crops of this size."""
    views = tiny_config().views
    views.crop_size, views.target_stride = size, 1
    return views


def common(g, classes: int, name: str) -> dict:
    """What the steps of both stages are given; the first image is the source's, the second the target's."""
    return {
        "source_image": own_logits.image(SOURCE, 1, g.size),
        "source_label": jnp.asarray(g.labels("labels", g.size, classes)[:1]),
        name: own_logits.image(TARGET, 1, g.size),
    }


def crst_stage(stage, regulariser: float):
    stage.mean_over, stage.regulariser_over, stage.regulariser_weight = "both", "labels", regulariser
    return stage


def compare_step(g, update, setup, classes: int, tag: str, gradient_of: str | None) -> None:
    """Loss, and gradient by both images' logits, of a step whose objective is `tag`."""
    z = g.logits("trg_main", classes)
    params = {"source": {"logits": z[:1]}, "target": {"logits": z[1:]}}
    gradient, metrics = own_logits.gradient_of(update, setup, params)
    regulariser = setup.stage.regulariser_weight * metrics.get("regulariser", 0.0)
    agree(metrics["source_ce"] + metrics["target_fit"] + regulariser, g[f"K{classes}_{tag}_loss"])
    if gradient_of:
        both = np.concatenate([gradient["source"]["logits"], gradient["target"]["logits"]])
        agree(thinned(both), g[f"K{classes}_{gradient_of}_grad"])


@pytest.mark.parametrize("classes", [K, 16])
@pytest.mark.parametrize("tag", ["cbst", "mrkld"])
def test_hard_labels_of_crst_in_our_step(tag, classes):
    g = golden("crst")
    p = g.probabilities(classes)
    labels = np.asarray(balanced_labels(p, ct.top_portion(confidences(p, 4), 0.2)))[1:]
    stage = crst_stage(base.distill("", "random", 1), 0.01 if tag == "mrkld" else 0.0)  # the released 0.1, twice
    stage.distillation_weight = 0.0
    inputs = distill.Inputs(**common(g, classes, "target_image"), hard_label=labels, valid=jnp.ones(labels.shape, bool))
    setup = own_logits.setup_of(stage, views_at(g.size), classes)
    step = jax.jit(lambda state: distill.update(state, inputs, None, setup=setup))
    compare_step(g, step, setup, classes, tag, "mrkld" if tag == "mrkld" else None)


@pytest.mark.parametrize("classes", [K, 16])
@pytest.mark.parametrize("tag", ["lrent", "lrent_mrkld"])
def test_soft_labels_of_crst_in_our_step(tag, classes):
    g = golden("crst")
    p = g.probabilities(classes)
    soft = np.asarray(regularised_labels(p, ct.top_portion(confidences(p, 4), 0.2), 0.25))[1:]
    stage = crst_stage(base.self_training("random", 1), 0.01 if tag == "lrent_mrkld" else 0.0)
    stage.hard_labels, stage.label_selector = False, "class_balanced"
    inputs = denoise.Inputs(
        **common(g, classes, "target_weak"), target_full=None, target_strong=None, weak_view=None, strong_view=None,
        soft_label=soft, inside=jnp.ones(soft.shape[:3], bool),
    )  # fmt: skip
    setup = own_logits.setup_of(stage, views_at(g.size), classes)
    step = jax.jit(lambda state: denoise.update(state, inputs, setup=setup))
    compare_step(g, step, setup, classes, tag, "lrent" if tag == "lrent" else None)


test_hard_labels_of_crst_in_our_step.cases = [(t, n) for t in ("cbst", "mrkld") for n in (K, 16)]
test_soft_labels_of_crst_in_our_step.cases = [(t, n) for t in ("lrent", "lrent_mrkld") for n in (K, 16)]
assert B == 2  # one image of either domain


def test_step_of_fda():
    """The step of supervised training, with the entropy of target images; at the size of the logits."""
    g = golden("fda")
    stage = base.supervised("random", 1)
    stage.regulariser_weight = 0.005
    views = views_at(g.grid)
    views.scale, views.flip, views.base_width = (1.0, 1.0), False, g.grid[1]
    setup = own_logits.setup_of(stage, views, K)
    params = {domain: {"logits": g.logits(name)} for domain, name in (("source", "src_main"), ("target", "trg_main"))}
    label = g.labels("labels", g.grid).astype(np.uint8)
    batch = {
        "source": {"image": np.zeros((B, *g.grid, 3), np.uint8), "label": label},
        "target": {"image": np.full((B, *g.grid, 3), 255, np.uint8)},
        "slot": jnp.arange(B),
    }
    step = jax.jit(lambda state: supervised.train_step(state, batch, None, setup=setup))
    gradient, metrics = own_logits.gradient_of(step, setup, params)
    agree(metrics["regulariser"], g["entropy_ita2"])
    agree(thinned(gradient["target"]["logits"]), np.float32(0.005) * g["entropy_ita2_grad"])
    expected = jax.jit(jax.grad(losses.cross_entropy))(params["source"]["logits"], label)
    agree(gradient["source"]["logits"], np.asarray(expected))
