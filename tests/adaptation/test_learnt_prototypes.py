"""Prototypes that are learnt by self-labelling (CPSL): a step of theirs by NumPy, and what it means in a stage."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLASSES, tiny_config, tiny_stage

from proda_jax.adaptation import optim, prototypes
from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import kinds, learnt_prototypes
from proda_jax.adaptation.state import Sampled
from proda_jax.configs import base
from proda_jax.models.heads import Output
from proda_jax.run import settings

CHANNELS, PIXELS, QUEUE = 6, 5, 7
RATE, DECAY = 0.5, 0.01


def stage_of(kind=base.mix, **changes):
    weighting = {"weighting": "prototypes"}
    return tiny_stage(
        kind("source", 10), prototype_distance="cosine", temperature=0.08, self_label_weight=0.3,
        self_label_pixels=PIXELS, self_label_queue=QUEUE, prototype_momentum=0.75, momentum=0.9, weight_decay=DECAY,
        schedule="constant", **weighting | changes,
    )  # fmt: skip


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sinkhorn(scores, shares):
    q = np.exp(scores / 0.05)
    for _ in range(3):
        q = q / q.sum(0) * shares
        q = q / q.sum(1, keepdims=True)
    return q


def loss_by_hand(vectors, sampled, held, shares):
    """Mean over the positions that count, and its gradient, which only goes through the softmax."""
    g, total = unit(vectors), 0.0
    slope = np.zeros_like(vectors)
    number = sampled.counted.sum()
    for features, outputs, counted in zip(sampled.features, sampled.outputs, sampled.counted, strict=True):
        f, o = features[counted], outputs[counted]
        p = np.exp(f @ g.T / 0.08)
        p /= p.sum(1, keepdims=True)
        for own, before in ((f @ g.T, held.features @ g.T), (o, held.outputs)):
            q = sinkhorn(np.concatenate([before, own]), shares)[len(before) :]
            total -= np.sum(q * np.log(p)) / number
            towards = (p - q).T @ f / 0.08 / number  # gradient of the unit vectors
            slope += (towards - g * np.sum(towards * g, 1, keepdims=True)) / np.linalg.norm(vectors, axis=1)[:, None]
    return total, slope


@pytest.fixture
def begun():
    """A setup, a state before the first step, and what is sampled in two steps."""
    r = np.random.default_rng(0)
    stage = stage_of()
    stage.head_rate = RATE
    optimizer = optim.plain_optimizer(stage, RATE, 10)
    setup = SimpleNamespace(stage=stage, axis_name=None, prototype_optimizer=optimizer)
    counts = np.ones(CLASSES, np.float32)
    counts[-1] = 0
    start = Prototypes(r.normal(size=(CLASSES, CHANNELS)).astype(np.float32), counts)
    shares = r.dirichlet(np.full(CLASSES, 3.0))
    begin = jax.jit(learnt_prototypes.begin, static_argnums=(2, 3))
    learnt = begin(start, shares, QUEUE, setup.prototype_optimizer)
    steps = [Sampled(*(unit(r.normal(size=(2, PIXELS, n))).astype(np.float32) for n in (CHANNELS, CLASSES)),
                     r.random((2, PIXELS)) < 0.7) for _ in range(2)]  # fmt: skip
    return setup, SimpleNamespace(learnt_prototypes=learnt, prototypes=start), shares, steps


def test_two_steps_descend_the_loss_with_a_queue_and_an_average_follows(begun):
    setup, state, shares, steps = begun
    vectors = np.asarray(state.learnt_prototypes.vectors, np.float64)
    np.testing.assert_allclose(vectors[-1], state.prototypes.vectors[:-1].mean(0), rtol=1e-5)  # of an unseen class
    averaged, velocity = np.asarray(state.prototypes.vectors, np.float64), 0.0
    held = Sampled(np.zeros((0, CHANNELS)), np.zeros((0, CLASSES)), None)
    move = jax.jit(lambda state, sampled: learnt_prototypes.move(SimpleNamespace(**state), sampled, setup))
    for i, sampled in enumerate(steps):
        learnt, moved, metrics = move(vars(state), sampled)
        loss, slope = loss_by_hand(vectors, sampled, held, shares)
        velocity = 0.9 * velocity + 0.3 * slope + DECAY * vectors
        vectors = vectors - RATE * velocity
        averaged = np.where(np.arange(CLASSES)[:, None] == CLASSES - 1 if i == 0 else False, vectors,
                            0.75 * averaged + 0.25 * vectors)  # fmt: skip
        np.testing.assert_allclose(metrics["self_labelling"], loss, rtol=1e-4)
        np.testing.assert_allclose(learnt.vectors, vectors, atol=2e-5)
        np.testing.assert_allclose(moved.vectors, averaged, atol=2e-5)
        assert np.all(np.asarray(moved.counts) > 0)
        state = SimpleNamespace(learnt_prototypes=learnt, prototypes=moved)
        last = [x.reshape(-1, *x.shape[2:])[-QUEUE:] for x in (sampled.features, sampled.outputs, sampled.counted)]
        jax.tree.map(np.testing.assert_array_equal, learnt.queue, Sampled(*last))
        held = Sampled(last[0][last[2]], last[1][last[2]], None)


def test_other_positions_are_sampled_of_each_image_and_step_and_none_twice():
    numbers = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1).repeat(2, 0) + 1
    output = Output(np.concatenate([numbers, np.ones_like(numbers)], -1), np.ones((2, 4, 6, CLASSES), np.float32))
    shown = numbers[..., 0] > 12

    @jax.jit
    def sampled(step):
        state = SimpleNamespace(key=jax.random.key(0), step=step)
        return learnt_prototypes.sample(state, output, shown, jnp.arange(2), 9)

    def places(step):
        found = jax.device_get(sampled(step))
        where = np.asarray(found.features[..., 0] / found.features[..., 1]).round().astype(int)
        np.testing.assert_array_equal(found.counted, where > 12)
        np.testing.assert_allclose(np.linalg.norm(found.outputs, axis=-1), 1, rtol=1e-5)
        return where

    first, later = places(0), places(1)
    assert all(len(set(row)) == 9 for row in (*first, *later))
    assert len({tuple(row) for row in (*first, *later)}) == 4


def test_weights_by_cosines_are_the_softmax_of_cosine_over_temperature():
    r = np.random.default_rng(1)
    features, vectors = r.normal(size=(2, 3, CHANNELS)), r.normal(size=(CLASSES, CHANNELS))

    @jax.jit
    def weights(features, vectors):
        return prototypes.assignment_weights(prototypes.DISTANCES["cosine"](features, vectors), 0.08)

    logits = unit(features) @ unit(vectors).T / 0.08
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(weights(np.float32(features), np.float32(vectors)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [base.mix, base.denoise])
@pytest.mark.parametrize(("changes", "said"), [
    ({"self_label_weight": 0.0}, "config.x.self_label_pixels = 5: expected 256, as it acts beside self_label_weight"),
    ({"prototype_distance": "euclidean"}, "config.x.prototype_distance = 'euclidean': expected 'cosine'"),
    ({"prototype_update": "batch"}, "config.x.prototype_update = 'batch': expected 'in_turn', as it acts beside"),
    ({"self_label_weight": -1.0}, "config.x.self_label_weight = -1.0: expected zero or more"),
])  # fmt: skip
def test_settings_that_would_be_idle_are_refused(kind, changes, said):
    c = tiny_config()
    c.source, c.stages = tiny_stage(base.supervised("random", 1)), ("source", "x")
    c.x = stage_of(kind)
    c.x.prototype_min_pixels = kind("source", 1).prototype_min_pixels
    settings.check(c)
    assert kinds.learns_prototypes(c.x)
    c.x.update(changes)
    with pytest.raises(ValueError, match=said):
        settings.check(c)


def test_a_contrast_needs_a_queue():
    c = tiny_config()
    c.source, c.stages = tiny_stage(base.supervised("random", 1)), ("source", "x")
    c.x = stage_of(base.denoise, queue_contrast_weight=0.001)
    c.x.prototype_min_pixels = base.denoise("source", 1).prototype_min_pixels
    settings.check(c)
    c.x.self_label_queue = 0
    with pytest.raises(ValueError, match="config.x.queue_contrast_weight = 0.001: expected 0.0, as it acts beside"):
        settings.check(c)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_prototypes_decay_where_vectors_do_not(kind):
    stage = stage_of(optimizer=kind, decay_vectors=False)
    optimizer, vectors = optim.plain_optimizer(stage, RATE, 10), np.ones((CLASSES, CHANNELS), np.float32)

    @jax.jit
    def moved(vectors):
        return optimizer.update(jnp.zeros_like(vectors), optimizer.init(vectors), vectors)[0]

    np.testing.assert_allclose(moved(vectors), -RATE * DECAY * vectors, rtol=1e-5)
