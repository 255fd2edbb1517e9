"""Anchors, labels and the whole objective of CAG-UDA agree with the released code; it goes through our stage's step."""

import jax
import jax.numpy as jnp
import numpy as np
import own_logits
from comparators import B, K, agree, golden, nchw, nhwc, same
from own_logits import SOURCE, TARGET
from tiny import tiny_config

from proda_jax.adaptation import class_anchors, prototypes
from proda_jax.adaptation.stages import anchors as stages
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE

CHANNELS = 32


def large_labels(g) -> np.ndarray:
    size = (B, 2 * g.h, 2 * g.w)
    return np.where(g.uniform("cag_labels_ignore", size) < 0.05, IGNORE, g.skewed("cag_labels", size, 6))


def output(g, name: str, classes: np.ndarray, gain: float) -> dict[str, jax.Array]:
    """Features and logits [B, H, W, ...] around the centres of these classes."""
    classes = np.where(classes == IGNORE, 0, classes)
    noise = nhwc(g.normal(f"cag_feat_{name}", (B, CHANNELS, *g.size)))
    logits = 2 * nhwc(g.normal(f"cag_logit_{name}", (B, K, *g.size))) + gain * np.eye(K)[classes]
    return {
        "features": jnp.asarray(g.normal("cag_centres", (K, CHANNELS))[classes] + noise),
        "logits": jnp.asarray(np.float32(logits)),
    }


def ids(pixels) -> np.ndarray:
    """Classes of the vectors that there are, image after image."""
    return np.concatenate([np.flatnonzero(row) for row in np.asarray(pixels)])


def given_anchors(g) -> np.ndarray:
    return g.normal("cag_centres", (K, CHANNELS)) + np.float32(0.3) * g.normal("cag_anchor_noise", (K, CHANNELS))


def test_anchors_of_cag():
    g = golden("cag")
    labels = large_labels(g)[:, ::2, ::2]
    source = output(g, "src", labels, 6)
    vectors = jax.jit(class_anchors.class_vectors, static_argnames=("min_pixels", "gradient"))
    means, pixels = vectors(source["features"], source["logits"], labels, min_pixels=10)
    np.testing.assert_array_equal(ids(pixels), g["anchor_ids"])
    agree(np.concatenate([mean[row > 0] for mean, row in zip(np.asarray(means), np.asarray(pixels), strict=True)]),
          g["anchor_vectors"])  # fmt: skip
    found = jax.jit(prototypes.accumulate)(prototypes.empty(K, CHANNELS), means, pixels)
    agree(found.vectors, g["anchors"])
    np.testing.assert_array_equal(found.counts, g["anchor_num"])
    far = given_anchors(g)
    far[0] += 12
    terms = np.asarray(jax.jit(class_anchors.anchor_distances)(means, far))
    agree(np.mean(terms[np.asarray(pixels) > 0]), g["distance_src_far"])


def test_step_of_cag():
    g, size = golden("cag"), (2 * golden("cag").h, 2 * golden("cag").w)
    labels = large_labels(g)
    hidden = g.skewed("cag_trg_hidden", (B, *g.size), 3)
    predicted = output(g, "pred", hidden, 8)
    params = {"source": output(g, "src", labels[:, ::2, ::2], 6), "target": output(g, "trg", hidden, 6)}
    stage, views = base.anchors("source", 1), tiny_config().views
    stage.anchor_gradient, views.crop_size = "released", size
    setup = own_logits.setup_of(stage, views, K)
    inputs = stages.Inputs(
        own_logits.image(SOURCE, B, size), jnp.asarray(labels), own_logits.image(TARGET, B, size),
        jnp.ones((B, *size), bool),
    )  # fmt: skip
    anchors = prototypes.Prototypes(jnp.asarray(given_anchors(g)), jnp.ones(K))
    frozen = {"params": {"source": predicted, "target": predicted}, "batch_stats": {}}
    seen = {}

    @jax.jit
    def update(state):
        return stages.label(state, inputs, frozen, setup), *stages.update(state, inputs, frozen, setup=setup)

    def step(state):
        seen["labels"], new, metrics = update(state)
        np.testing.assert_array_equal(new.prototypes.vectors, anchors.vectors)  # which stay where they are
        return new, metrics

    gradient, metrics = own_logits.gradient_of(step, setup, params, prototypes=anchors)
    # ignored pixels are 250 there as here
    same(np.where(seen["labels"].confident == IGNORE, 255, seen["labels"].confident), to_255(g["label_prob"]))
    same(seen["labels"].anchor, to_255(g["label_anchor"]))
    np.testing.assert_array_equal(ids(seen["labels"].pixels), g["src_ids"])
    np.testing.assert_array_equal(ids(seen["labels"].target_pixels), g["trg_ids"])
    agree(metrics["source_distance"], g["distance_src"])
    agree(metrics["target_distance"], g["distance_trg"])
    weighted = 0.7 * (metrics["source_distance"] + metrics["target_distance"])
    agree(weighted, g["loss_distance_weighted"])
    pseudo = 0.5 * (metrics["anchor_ce"] + metrics["confident_ce"])
    agree(pseudo, g["loss_pseudo"])
    agree(metrics["source_ce"] + pseudo + weighted, g["loss"])
    for name, domain in (("S", "source"), ("T", "target")):
        for letter, kind in (("z", "logits"), ("f", "features")):
            agree(nchw(gradient[domain][kind])[:, :, ::4, ::4], g[f"{letter}{name}_grad"])


def to_255(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == IGNORE, 255, labels)


def test_the_gradient_of_a_class_vector_is_that_of_a_mean_unless_it_is_the_released_one():
    features, logits = np.ones((1, 4, 4, 3), np.float32), np.broadcast_to(np.float32([1.0, 0.0]), (1, 4, 4, 2))
    labels = np.where(np.arange(16).reshape(1, 4, 4) < 4, 0, IGNORE)

    def total(features, kind):
        return class_anchors.class_vectors(features, logits, labels, min_pixels=1, gradient=kind)[0].sum()

    for kind, share in (("mean", 1 / 4), ("released", 2 / 16)):
        gradient = np.asarray(jax.jit(jax.grad(total), static_argnums=1)(features, kind))
        np.testing.assert_allclose(gradient[0, :, :, 0].ravel(), np.where(np.arange(16) < 4, share, 0.0), rtol=1e-6)


