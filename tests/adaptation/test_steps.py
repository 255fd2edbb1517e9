"""Training steps of every kind: several devices train like one, and what each step changes or leaves alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLASSES, blocks, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.stages import build, denoise, kinds
from proda_jax.adaptation.stages import step as steps
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.weights.torch_names import INPUT_CONVENTION, to_torch
from proda_jax.system import devices

# the oracle is the supervised stage on source and target
KINDS = ("oracle", "warmup", "denoise", "distill")
REST = ("oracle", "warmup", "distill")
BATCH, CHANNELS = 4, 32
GRID = (7, 13)  # of the network's output on a whole image
PROTOTYPES = Prototypes(
    np.random.default_rng(0).normal(size=(CLASSES, CHANNELS)).astype(np.float32), np.ones(CLASSES, np.float32)
)


def config_of(kind: str, **settings):
    """Stage 'under_test' of each kind, in float64 so that the order of sums does not show."""
    c = tiny_config()
    c.model.dtype = "float64"
    c.under_test = tiny_stage(
        {
            "oracle": base.supervised("random", 10, target_labels=True),
            "warmup": base.warmup("random", 10),
            "denoise": base.denoise("random", 10),
            "distill": base.distill("random", "random", 10),
        }[kind]
    )
    c.under_test.jitter.brightness = 0.2
    if kind == "denoise":
        c.under_test.label_threshold = 0.3
        # the method's rate: at a hundred times of it, an argmax is soon another one however small the difference
        c.under_test.backbone_rate = c.under_test.head_rate = 1e-4
    if kind == "warmup":
        c.under_test.adversarial_weight = 1.0  # a wrong share of the adversarial loss has to show
    c.update_from_flattened_dict(settings)
    return c


def setup_of(config, axis_name: str | None) -> steps.Setup:
    """What the steps of stage 'under_test' need."""
    model = tiny_model(config, axis_name, extra_norm=config.under_test.get("extra_norm", False))
    return build.setup(config, "under_test", model=model, teacher=tiny_model(config, axis_name), steps_per_epoch=10)


def make_batch(*, source_labels: bool = True, target_labels: bool = True) -> dict[str, Any]:
    """A global batch whose second half, what a second device gets, is almost without labels."""
    source, target = blocks(BATCH, 1), blocks(BATCH, 2)
    for label in (source[1], target[1]):
        label[BATCH // 2 :, :-8] = IGNORE
    if not source_labels:
        source[1][:] = IGNORE
    soft = np.random.default_rng(3).dirichlet(np.full(CLASSES, 0.3), (BATCH, *GRID))
    if not target_labels:
        target[1][:] = IGNORE
        soft[:] = 1 / CLASSES
    soft[BATCH // 2 :, :-2] = 1 / CLASSES
    return {
        "source": {"image": source[0], "label": source[1]},
        "target": {
            "image": target[0],
            "label": target[1],
            "hard_label": target[1],
            "soft_label": soft.astype(np.float16),
        },
        "slot": np.arange(BATCH, dtype=np.int32),
    }


@functools.cache
def stage_in(kind: str, count: int, **settings):
    """(mapped step, first state, teacher, mesh) of a kind of stage on `count` devices."""
    mesh = devices.make_mesh(count)
    setup = setup_of(config_of(kind, **settings), devices.AXIS)
    step = kinds.of(setup.stage).module.train_step
    mapped = devices.map_step(lambda s, b, t: step(s, b, t, setup=setup), mesh, "rbr", "rr")
    create = jax.jit(functools.partial(build.create_state, setup), out_shardings=devices.replicated(mesh))
    start = PROTOTYPES if kind == "denoise" else None
    state = create(build.stage_key(0, "under_test"), tiny_variables(setup.model, 0), start)
    if start is not None:  # momentum encoder and network differ, as they do later on
        state = state.replace(ema_params=tiny_variables(setup.model, 1)["params"])
    teacher = tiny_variables(setup.teacher, 2) if kind == "distill" else None
    return mapped, state, jax.device_put(teacher, devices.replicated(mesh)), mesh


def run(kind: str, count: int, batch: dict, number: int = 1, change=lambda state: state, **settings) -> list:
    """The state before and after each of `number` steps, with the steps' metrics."""
    with jax.enable_x64(True):
        step, state, teacher, mesh = stage_in(kind, count, **settings)
        trail = [(jax.device_put(change(state), devices.replicated(mesh)), {})]  # placed alike, it compiles once
        for _ in range(number):
            trail.append(step(trail[-1][0], devices.put_batch(batch, mesh), teacher))
        return jax.device_get([(state.replace(key=None), metrics) for state, metrics in trail])


@functools.cache
def one_batch() -> dict:
    return make_batch()


@functools.cache
def trail_of(kind: str, count: int, number: int = 1) -> list:
    return run(kind, count, one_batch(), number)


def assert_same(actual, expected, tolerance: float) -> None:
    """Trees agree leaf by leaf, relative to the largest magnitude in each leaf."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, wanted), got in zip(paths, jax.tree.leaves(actual), strict=True):
        scale = np.abs(wanted).max() + 1e-12
        error = np.abs(np.asarray(got, np.float64) - wanted).max() / scale
        assert error < tolerance, (jax.tree_util.keystr(path), error)


def moved(trail: list) -> list:
    """What each step added to parameters, statistics, momentum encoder and prototypes."""
    pick = [
        (s.params, s.batch_stats, s.ema_params, s.prototypes, s.discriminator and s.discriminator.params)
        for s, _ in trail
    ]
    return [
        jax.tree.map(lambda a, b: np.float64(b) - np.float64(a), *pair) for pair in zip(pick, pick[1:], strict=False)
    ]


# Several devices


@pytest.mark.parametrize(("count", "number"), [(2, 8), pytest.param(4, 20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["warmup", "denoise", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("oracle", "distill"))]
)
def test_several_devices_train_like_one_however_unevenly_labels_are_spread(kind, count, number):
    one, several = (trail_of(kind, n, number) for n in (1, count))
    assert_same(moved(several)[0], moved(one)[0], 1e-4)
    for (state, metrics), (expected, expected_metrics) in zip(several[1:], one[1:], strict=True):
        assert_same(metrics, expected_metrics, 1e-5)
        assert_same(state.opt_state, expected.opt_state, 1e-4)
        for part in ("params", "batch_stats", "ema_params", "prototypes", "discriminator"):
            assert_same(getattr(state, part), getattr(expected, part), 1e-6)
    metrics = one[1][1]
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["gradient_norm"] > 0.01


@pytest.mark.parametrize("kind", ["denoise", *(pytest.param(kind, marks=pytest.mark.slow) for kind in REST)])
def test_micro_batches_give_the_step_of_the_whole_batch(kind):
    """Exactly so where a batch is not normalised by its own statistics: those of a micro-batch are others."""
    frozen = {"under_test.batch_norm": "frozen"} | ({"under_test.ema_mode": "eval"} if kind == "denoise" else {})
    whole, halves = (run(kind, 1, one_batch(), **frozen, micro_batches=n)[1] for n in (1, 2))
    assert_same(halves[1], whole[1], 1e-6)
    for part in ("params", "opt_state", "batch_stats", "ema_params", "prototypes", "discriminator"):
        assert_same(getattr(halves[0], part), getattr(whole[0], part), 1e-5)


def test_micro_batches_are_the_same_on_any_number_of_devices():
    """So are their statistics, which they are normalised by."""
    one, two = (run("oracle", count, one_batch(), micro_batches=2)[1] for count in (1, 2))
    assert_same(two[1], one[1], 1e-5)
    for part in ("params", "batch_stats"):
        assert_same(getattr(two[0], part), getattr(one[0], part), 1e-6)


def test_the_halves_of_the_batch_have_different_numbers_of_labels():
    label = one_batch()["source"]["label"]
    assert np.mean(label[:2] != IGNORE) > 0.9 > 0.3 > np.mean(label[2:] != IGNORE) > 0
    assert 0.2 < trail_of("denoise", 1)[1][1]["labelled"] < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_batch_gives_other_losses_at_another_step_as_its_views_and_dropout_are_drawn_anew(kind):
    (_, _), (_, first) = trail_of(kind, 1)
    later = run(kind, 1, one_batch(), change=lambda state: state.replace(step=state.step + 1))[1][1]
    fits = ("source_ce", "target_ce", "target_fit", "consistency", "distillation", "adversarial")
    compared = [name for name in fits if name in first]
    assert len(compared) >= 2 and all(abs(later[name] / first[name] - 1) > 1e-4 for name in compared), (first, later)


def test_an_examples_views_depend_on_its_place_in_the_global_batch_and_not_on_the_others():
    with jax.enable_x64(True):
        setup = setup_of(config_of("denoise"), None)
        _, state, _, _ = stage_in("denoise", 1)
        draw = jax.jit(lambda s, b: denoise.draw_inputs(s, b, setup))
        batch = one_batch()
        whole = draw(state, batch)
        alone = draw(state, jax.tree.map(lambda x: x[3:], batch))
        for together, single in zip(jax.tree.leaves(whole), jax.tree.leaves(alone), strict=True):
            if jnp.issubdtype(together.dtype, jax.dtypes.prng_key):
                together, single = jax.random.key_data(together), jax.random.key_data(single)
            np.testing.assert_allclose(np.asarray(together)[3:], np.asarray(single), rtol=1e-6, atol=1e-6)
        # and examples do not share theirs
        assert len({tuple(key) for key in np.asarray(jax.random.key_data(whole.weak_keys)).tolist()}) == BATCH


# What a step changes


def test_momentum_encoder_moves_by_its_formula():
    (before, _), (after, _) = trail_of("denoise", 1)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.ema_params, after.params)
    assert_same(after.ema_params, expected, 1e-6)


def test_frozen_batch_normalisation_keeps_its_parameters_and_statistics():
    for trail, frozen in ((trail_of("warmup", 1), True), (trail_of("distill", 1), False)):
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


def test_the_step_is_counted():
    for kind in KINDS:
        assert [int(state.step) for state, _ in trail_of(kind, 1)] == [0, 1]


def test_the_oracle_learns_from_source_and_target_labels():
    """Its gradient is the sum of the gradients from each: what SGD adds beside them is its weight decay."""
    decay = 0.01 * 2e-4
    moves = {}
    for source, target in ((True, True), (True, False), (False, True)):
        trail = run("oracle", 1, make_batch(source_labels=source, target_labels=target))
        moves[source, target] = moved(trail)[0][0]
        assert (trail[1][1]["source_ce"] > 0) == source
        assert (trail[1][1]["target_ce"] > 0) == target
    params = trail[0][0].params
    alone = jax.tree.map(lambda a, b, p: a + b + decay * p, moves[True, False], moves[False, True], params)
    assert_same(moves[True, True], alone, 1e-4)


# Nothing to learn from


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_label_leaves_a_finite_state(kind):
    def equal_prototypes(state):  # all equally near, so that flat soft labels stay flat: no label is confident
        if kind != "denoise":
            return state
        return state.replace(prototypes=state.prototypes.replace(vectors=np.zeros((CLASSES, CHANNELS), np.float32)))

    trail = run(kind, 2, make_batch(source_labels=False, target_labels=False), change=equal_prototypes)
    state, metrics = trail[-1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    assert metrics["source_ce"] == 0
    if kind in ("denoise", "distill"):
        assert metrics["labelled"] == 0 and metrics["target_fit"] == 0


def test_prototypes_of_no_class_leave_a_finite_state_and_fill_from_the_batch():
    def none_seen(state):
        return state.replace(prototypes=jax.tree.map(np.zeros_like, PROTOTYPES))

    state, metrics = run("denoise", 1, one_batch(), change=none_seen)[-1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    assert state.prototypes.counts.max() > 0
