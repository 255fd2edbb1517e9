"""Numbers that go bad, and data without anything to learn from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from survival import At, checkpoint_of, config_of, run
from tiny import tiny_stage

from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import LearntPrototypes, Sampled, TrainState
from proda_jax.configs import base


@pytest.mark.parametrize("bad", ["loss", "gradient_norm", "batch_stats"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
    def train_step(state, batch, teacher, *, setup):
        new = state.replace(step=state.step + 1, params={"w": state.params["w"] + jnp.nan_to_num(batch, posinf=7.0)})
        values = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(1), "batch_stats": jnp.float32(1), bad: batch}
        return new.replace(batch_stats={"mean": values.pop("batch_stats")}), values

    step = jax.jit(lambda state, batch: steps.unless_not_finite(train_step)(state, batch, None, setup=None))
    stats = {"mean": jnp.float32(0)}
    state = TrainState(
        jnp.int32(0), jax.random.key(0), {"w": jnp.float32(0)}, stats, (), skipped=jnp.zeros(2, jnp.int32)
    )
    expected = [(1, 0, 0), (1, 1, 1), (1, 2, 2), (3, 2, 0), (3, 3, 1)]
    for number, (batch, (value, total, in_row)) in enumerate(
        zip((1.0, np.nan, np.inf, 2.0, -np.inf), expected, strict=True), start=1
    ):
        state, metrics = step(state, jnp.float32(batch))
        assert (int(state.step), float(state.params["w"])) == (number, value)
        assert np.isfinite(state.batch_stats["mean"])
        assert state.skipped.tolist() == [total, in_row] and int(metrics["skipped"]) == total


def test_whatever_a_step_changes_is_left_as_it_was_but_its_number():
    """Of every field of the state, whichever there will be; but what no step changes."""
    fields = {field.name: jnp.float32(0) for field in dataclasses.fields(TrainState)}
    fields |= {"step": jnp.int32(0), "key": jax.random.key(0), "skipped": jnp.zeros(2, jnp.int32)}
    fields |= {"learnt_prototypes": LearntPrototypes(*[jnp.zeros(2)] * 3, Sampled(*[jnp.zeros(2)] * 3))}
    state = TrainState(**fields)

    def train_step(state, batch, teacher, *, setup):
        changed = {name: jax.tree.map(lambda x: x + 1, value) for name, value in vars(state).items()
                   if name not in ("key", "skipped", "foundation", "recomputed")}  # fmt: skip
        return state.replace(**changed), {"loss": batch}

    step = steps.unless_not_finite(train_step)
    left_out, _ = step(state, jnp.float32(np.nan), None, setup=None)
    assert int(left_out.step) == 1 and left_out.skipped.tolist() == [1, 1]
    for kept, before in zip(*(jax.tree.leaves(of.replace(step=0, key=0, skipped=0)) for of in (left_out, state)),
                            strict=True):  # fmt: skip
        assert np.all(kept == before)
    taken, _ = step(state, jnp.float32(0), None, setup=None)
    assert np.all(taken.learnt_prototypes.queue.features == 1) and taken.contrast == 1


@pytest.mark.parametrize("field", ["contrast", "learnt_prototypes"])
def test_what_features_are_contrasted_with_is_looked_at(field):
    zeros = jnp.zeros(2)
    state = TrainState(jnp.int32(0), jax.random.key(0), zeros, zeros, (), skipped=jnp.zeros(2, jnp.int32),
                       contrast=zeros, learnt_prototypes=LearntPrototypes(zeros, (), zeros))  # fmt: skip

    def train_step(state, batch, teacher, *, setup):
        bad = jax.tree.map(lambda x: x * np.nan, getattr(state, field))
        return state.replace(**{field: bad}), {"loss": batch}

    after, _ = steps.unless_not_finite(train_step)(state, jnp.float32(0), None, setup=None)
    assert after.skipped.tolist() == [1, 1]


def test_whether_a_step_is_finite_is_found_out_once_and_not_for_each_array():
    """Read off the compiled step."""

    def train_step(state, batch, teacher, *, setup):
        params = jax.tree.map(lambda w: w + batch, state.params)
        stats = jax.tree.map(lambda v: v * batch, state.batch_stats)
        return state.replace(step=state.step + 1, params=params, batch_stats=stats), {"loss": batch}

    step = jax.jit(lambda state, batch: steps.unless_not_finite(train_step)(state, batch, None, setup=None))
    params = {f"w{i}": jnp.zeros((64, i + 1)) for i in range(40)}
    stats = {f"mean{i}": jnp.zeros(i + 1) for i in range(40)}
    state = TrainState(jnp.int32(0), jax.random.key(0), params, stats, (), skipped=jnp.zeros(2, jnp.int32))
    compiled = step.lower(state, jnp.float32(1)).compile().as_text()
    assert compiled.count(" is-finite(") == 1


def test_training_that_goes_astray_stops_with_a_diagnosis_and_keeps_a_finite_network(tmp_path):
    config = config_of(**{"source.backbone_rate": 1e30, "source.head_rate": 1e30, "source.steps": 20, "max_skipped": 3})
    with pytest.raises(FloatingPointError, match=r"the last 3 steps up to step \d+ were left out.*source_ce.*rate"):
        run(tmp_path, config)
    step, bits = checkpoint_of(tmp_path / "source")
    assert step >= 3
    for path, value in bits.items():
        if "params" in path or "batch_stats" in path:
            assert np.isfinite(np.frombuffer(value, np.float32)).all(), path


def test_a_source_without_any_label_that_counts_trains_on_without_harm(tmp_path):
    config, sources = config_of(), At(config_of())
    sources.open("source").labels[:] = 250
    results = run(tmp_path, config, sources)
    assert [stage["steps"] for stage in results["stages"]] == [4, 4]


@pytest.mark.slow  # its step: test_stages.py
def test_a_target_without_a_confident_pixel_trains_on(tmp_path):
    config = config_of()
    config.stages = ("source", "stage2")
    config.stage2 = tiny_stage(base.distill("source", "source", 2), label_threshold=1.0)
    results = run(tmp_path, config)
    assert [stage["steps"] for stage in results["stages"]] == [4, 2]
    for path in (tmp_path / "source" / "hard_labels_1_flipped").glob("*.npz"):
        with np.load(path) as arrays:
            assert (arrays["label"] == 250).all()
