"""What every stage promises, whatever it learns from: a row of `contracts.STAGES` has all of these tests."""

import contextlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import (
    BATCH,
    STAGES,
    abstract_step,
    assert_same,
    floats,
    make_batch,
    moved,
    one_batch,
    run,
    setup_of,
    stage_config,
    stage_in,
    trail_of,
    walk,
)  # fmt: skip

from benchmarks import hlo
from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.kinds import KINDS
from proda_jax.adaptation.state import DiscriminatorState
from proda_jax.data.label_spaces import IGNORE
from proda_jax.inference.loading import load
from proda_jax.models import weights
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.run.experiment import card_of
from proda_jax.system.checkpoints import Checkpoints

STEPS = 3
FITS = (
    "source_ce", "target_ce", "target_fit", "mixed_ce", "masked_ce", "consistency", "distillation", "contrast",
    "anchor_ce", "source_distance", "rectified_ce",
)  # fmt: skip
PARTS = ("params", "opt_state", "ema_params", "prototypes", "discriminator")
RUNNING = 0.9  # share of the running statistics that a step keeps


def in_parts(name: str) -> dict:
    """Settings of steps that compute a device's share in two micro-batches, where that gives the same."""
    return {"micro_batches": 2} if STAGES[name].splits else {}


# The ordinary suite compiles one program of these rows: labels alone; a discriminator; prototypes and a momentum
# encoder; a teacher with mixed and masked images. Steps of the other kinds are compared with released ones by
# test_golden.py and test_golden_comparators.py, test_pretrain.py and test_translation_runs.py train some; here they are
# slow, as other rows and combinations are. One row is compiled for two devices and in bfloat16.
ORDINARY = ("oracle", "warmup", "denoise", "mix")
IN_FULL = ("denoise",)


def rows(ordinary: Iterable[str]) -> list:
    return [pytest.param(name, marks=[] if name in ordinary else pytest.mark.slow) for name in STAGES]


each_stage = pytest.mark.parametrize("name", rows(ORDINARY))
each_in_full = pytest.mark.parametrize("name", rows(IN_FULL))


def test_every_kind_of_stage_has_a_row():
    assert {row.section().kind for row in STAGES.values()} == set(KINDS)


@each_stage
def test_a_step_moves_every_part_of_the_state_by_finite_amounts(name):
    trail = trail_of(name, 1, STEPS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trail))
    assert all(metrics["gradient_norm"] > 0.01 for _, metrics in trail[1:])
    assert [int(state.step) for state, _ in trail] == list(range(STEPS + 1))
    for part, changes in moved(trail)[0].items():
        frozen = part == "batch_stats" and stage_config(name).under_test.batch_norm == "frozen"
        assert any(np.any(change) for change in jax.tree.leaves(changes)) == (changes is not None and not frozen), part


@each_stage
def test_the_same_batch_gives_other_losses_at_another_step_as_its_views_and_dropout_are_drawn_anew(name):
    later = run(name, 1, one_batch(), change=lambda state: state.replace(step=state.step + 1))[1][1]
    first = trail_of(name, 1)[1][1]
    compared = [key for key in FITS if key in first] or ["adversarial"]  # of a stage that learns from nothing else
    assert all(abs(later[key] / first[key] - 1) > 1e-4 for key in compared), (first, later)
    # a discriminator that has learnt nothing says nearly the same of all views; one program, the same of the same ones
    assert first.get("adversarial", 0) == 0 or later["adversarial"] != first["adversarial"]


def after_no_label(name: str, count: int, **settings) -> tuple:
    """State and metrics after two steps on a batch without any label."""
    def equal_prototypes(state):  # all equally near, so that flat soft labels stay flat: no label is confident
        if state.prototypes is None:
            return state
        vectors = np.zeros_like(state.prototypes.vectors)
        return state.replace(prototypes=state.prototypes.replace(vectors=vectors))

    if kinds.learns_prototypes(stage_config(name).under_test):
        settings["under_test.prototype_momentum"] = 1.0  # or what was learnt in the first step weighs in the second
    batch = make_batch(source_labels=False, target_labels=False)
    return run(name, count, batch, 2, change=equal_prototypes, **settings)[-1]


def assert_finite_without_labels(state, metrics: dict) -> None:
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    assert all(metrics[key] == 0 for key in ("source_ce", "target_ce", "labelled", "target_fit") if key in metrics)


@each_stage
def test_a_batch_without_any_label_leaves_a_finite_state(name):
    assert_finite_without_labels(*after_no_label(name, 1))


@each_in_full
def test_a_batch_without_any_label_leaves_a_finite_state_on_two_devices_in_micro_batches(name):
    assert_finite_without_labels(*after_no_label(name, 2, **in_parts(name)))


@each_in_full
def test_two_devices_with_two_micro_batches_each_train_like_one_with_the_whole_batch(name):
    """However unevenly labels are spread. Where the batch is no sum of its parts, two devices with one batch each."""
    settings = in_parts(name)
    one, several = trail_of(name, 1, STEPS, twice=True), trail_of(name, 2, STEPS, twice=True, **settings)
    assert_alike(several, one)
    start, once = (state.batch_stats for state, _ in one[:2])
    if not start:  # it normalises each image by itself
        return
    for leaf, tolerance in (("mean", 1e-5), ("var", 0.02)):  # an unbiased variance depends on how many there are
        before, after, found = (statistics(tree, leaf) for tree in (start, once, several[1][0].batch_stats))
        # a second micro-batch moves them as the first did, by one to three passes, each of which keeps a share
        again = [RUNNING**passes * (after - before) for passes in (1, 2, 3)] if settings else [0.0]
        error = min(np.abs(after + more - found).max() for more in again)
        assert error <= tolerance * np.abs(after).max(), leaf


def statistics(tree, leaf: str) -> np.ndarray:
    """All running 'mean's or 'var's."""
    return np.concatenate([array for path, array in jax.tree.leaves_with_path(tree) if path[-1].key == leaf])


def assert_alike(actual: list, expected: list) -> None:
    """Two trails are the same but for running statistics."""
    first, wanted = moved(actual)[0], moved(expected)[0]
    for part in PARTS:
        assert_same(first.get(part), wanted.get(part), rough(part))
    for (state, metrics), (wanted, wanted_metrics) in zip(actual[1:], expected[1:], strict=True):
        judged = wanted.discriminator is not None
        assert_same(metrics, wanted_metrics, 1e-4 if judged else 1e-5)
        for part in PARTS:
            tolerance = rough("discriminator" if judged else part) if part == "opt_state" else 1e-4 if judged else 1e-6
            assert_same(*(parameters(getattr(of, part)) for of in (state, wanted)), tolerance)
        critics = (of.discriminator and of.discriminator.opt_state for of in (state, wanted))
        assert_same(*critics, rough("discriminator"))


def rough(part: str) -> float:
    """How far gradients may be apart: what discriminators see is float32, and leaky ReLUs have a kink."""
    return 1e-3 if part == "discriminator" else 1e-4


def parameters(part):
    """Those of a discriminator, whose optimizer's state is as rough as the network's; other parts as they are."""
    return part.params if isinstance(part, DiscriminatorState) else part


def test_examples_that_go_to_different_places_have_different_numbers_of_labels():
    label = one_batch(twice=True)["source"]["label"]
    labelled = np.mean(label != IGNORE, axis=(1, 2))
    assert len(labelled) == BATCH and np.all(labelled > 0) and np.all(np.diff(np.sort(labelled)) > 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "micro_batches"), [(1, 2), (2, 1), (4, 1)])
@each_stage
def test_devices_and_micro_batches_each_by_itself_train_like_one_for_twenty_steps(name, count, micro_batches):
    if micro_batches > 1 and not STAGES[name].splits:
        pytest.skip("its batch is no sum of its parts")
    number = 1 if name == "perturbed" else 20  # signs jump, and discriminators are float32
    one = trail_of(name, 1, number, twice=True)
    assert_alike(trail_of(name, count, number, twice=True, micro_batches=micro_batches), one)


@each_stage
def test_a_checkpoint_goes_on_to_the_bit_and_holds_the_network(name, tmp_path):
    config = stage_config(name, **{"model.dtype": "float32"})
    with jax.enable_x64(True):
        (_, _), (saved, _), (expected, _) = walk(name, 1, one_batch(), 2)
        model = setup_of(config, None).model
        card = card_of(config, "under_test", model).as_json()
        with contextlib.closing(Checkpoints(tmp_path / "under_test" / "checkpoints")) as checkpoints:
            checkpoints.save(saved, None, card)
            restored = checkpoints.restore(stage_in(name, 1)[1])
        *_, (actual, _) = walk(name, 1, one_batch(), 1, change=lambda _: restored)
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            if jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
                got, wanted = jax.random.key_data(got), jax.random.key_data(wanted)
            np.testing.assert_array_equal(got, wanted)
    network = jax.tree.map(np.float32, saved.variables)  # of the type that networks have in use
    with contextlib.closing(Checkpoints(tmp_path / "network" / "checkpoints")) as checkpoints:
        checkpoints.save_network(jax.tree.map(jnp.asarray, network), None, card)
    if not KINDS[stage_config(name).under_test.kind].segments:
        with pytest.raises(ValueError, match="is (pretraining|translation), whose network labels nothing"):
            load(tmp_path / "network")
        return
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(load(tmp_path / "network").network[1]), network)
    read = weights.load(tmp_path / "network").arrays
    assert read.keys() == to_torch(network).keys()
    for key, array in to_torch(network).items():
        np.testing.assert_array_equal(read[key], array, err_msg=key)


@each_in_full
def test_convolutions_of_a_bfloat16_step_are_bfloat16_and_its_state_is_float32(name):
    step, *given = abstract_step(name, "bfloat16")
    traced = step.trace(*given)
    types = hlo.convolution_types(traced.lower().as_text())
    assert set(types) == {"bf16"} and types["bf16"] >= 8
    assert floats(traced.out_info) == {np.dtype("float32")}
