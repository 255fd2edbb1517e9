"""Training steps of every kind: what each changes or leaves alone. What all have in common: tests/contracts."""

import jax
import jax.numpy as jnp
import numpy as np
from contracts import (
    BATCH,
    PROTOTYPES,
    assert_same,
    make_batch,
    moved,
    one_batch,
    run,
    setup_of,
    stage_config,
    stage_in,
    trail_of,
)  # fmt: skip

from proda_jax.adaptation.stages import denoise
from proda_jax.models.weights.torch_names import INPUT_CONVENTION, to_torch


def test_some_pixels_have_a_label_and_some_have_none():
    """Otherwise what is said of pseudo labels says little."""
    assert 0.2 < trail_of("denoise", 1)[1][1]["labelled"] < 0.9


def test_an_examples_views_depend_on_its_place_in_the_global_batch_and_not_on_the_others():
    with jax.enable_x64(True):
        setup = setup_of(stage_config("denoise"), None)
        _, state, _, _ = stage_in("denoise", 1)
        draw = jax.jit(lambda s, b: denoise.draw_inputs(s, b, setup))
        batch = one_batch()
        whole = draw(state, batch)
        alone = draw(state, jax.tree.map(lambda x: x[[3] * BATCH], batch))  # beside itself
        for together, single in zip(jax.tree.leaves(whole), jax.tree.leaves(alone), strict=True):
            if jnp.issubdtype(together.dtype, jax.dtypes.prng_key):
                together, single = jax.random.key_data(together), jax.random.key_data(single)
            np.testing.assert_allclose(np.asarray(together)[3:], np.asarray(single)[:1], rtol=1e-6, atol=1e-6)
        # and examples do not share theirs
        assert len({tuple(key) for key in np.asarray(jax.random.key_data(whole.weak_keys)).tolist()}) == BATCH


# What a step changes


def test_momentum_encoder_moves_by_its_formula():
    (before, _), (after, _) = trail_of("denoise", 1)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.ema_params, after.params)
    assert_same(after.ema_params, expected, 1e-6)


def test_frozen_batch_normalisation_keeps_its_parameters_and_statistics():
    for trail, frozen in ((trail_of("mix", 1), True), (trail_of("denoise", 1), False)):
        params, stats = (to_torch({name: getattr(trail[-1][0], name)}) for name in ("params", "batch_stats"))
        old_params, old_stats = (to_torch({name: getattr(trail[0][0], name)}) for name in ("params", "batch_stats"))
        for name in INPUT_CONVENTION:  # belongs to the weights: nothing trains it
            np.testing.assert_array_equal(stats.pop(name), old_stats[name])
        norms = [name for name in params if f"{name.rpartition('.')[0]}.running_mean" in stats]
        others = [name for name in params if name not in norms]
        assert len(norms) == len(stats) and len(others) > 20
        for name in norms:
            assert np.array_equal(params[name], old_params[name]) == frozen, name
        for name in stats:
            assert np.array_equal(stats[name], old_stats[name]) == frozen, name
        for name in others:
            assert not np.array_equal(params[name], old_params[name]), name


def test_a_frozen_backbone_stays_as_it_is_with_its_statistics_and_has_no_optimizer_state():
    (before, _), (after, _) = trail_of("supervised", 1, **{"under_test.freeze_backbone": True})
    for part in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, *(getattr(state, part)["backbone"] for state in (before, after)))
    assert all(np.any(old != new) for old, new in zip(*map(jax.tree.leaves, (before.params["head"],
                                                                             after.params["head"])), strict=True))
    momentum = [leaf.shape for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
    assert sorted(momentum) == sorted(leaf.shape for leaf in jax.tree.leaves(after.params["head"]))


def test_the_oracle_learns_from_source_and_target_labels():
    """Its gradient is the sum of the gradients from each: what SGD adds beside them is its weight decay."""
    decay = 0.01 * 2e-4
    moves = {}
    for source, target in ((True, True), (True, False), (False, True)):
        trail = run("oracle", 1, make_batch(source_labels=source, target_labels=target))
        moves[source, target] = moved(trail)[0]["params"]
        assert (trail[1][1]["source_ce"] > 0) == source
        assert (trail[1][1]["target_ce"] > 0) == target
    params = trail[0][0].params
    alone = jax.tree.map(lambda a, b, p: a + b + decay * p, moves[True, False], moves[False, True], params)
    assert_same(moves[True, True], alone, 1e-4)


def test_prototypes_of_no_class_leave_a_finite_state_and_fill_from_the_batch():
    def none_seen(state):
        return state.replace(prototypes=jax.tree.map(np.zeros_like, PROTOTYPES))

    state, metrics = run("denoise", 1, one_batch(), change=none_seen)[-1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    assert state.prototypes.counts.max() > 0
