"""Schedules against their formulas, optimizers against those of torch.optim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from proda_jax.adaptation import optim
from proda_jax.configs import base
from proda_jax.models.backbones import backbone

RNG = np.random.default_rng(0)
SHAPES = {"stem": (3, 4), "block": (5,), "head": (2, 3)}
PARAMS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
STEPS = 8
GRADIENTS = [{name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
             for _ in range(STEPS)]


def run(optimizer):
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradients in GRADIENTS:
        updates, state = step(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def run_torch(name, rate, times, momentum=0.9, weight_decay=0.05):
    """The parameter after `times` steps of PyTorch's SGD with each gradient."""
    parameter = torch.tensor(PARAMS[name], requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    for i, gradients in enumerate(GRADIENTS):
        optimizer.param_groups[0]["lr"] = rate(i)
        parameter.grad = torch.tensor(gradients[name])
        for _ in range(times):
            optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("step", [0, 1, 450, 899, 900, 2000])
def test_poly_rate_is_its_formula_and_ends_at_zero(step):
    np.testing.assert_allclose(optim.poly(0.1, 900)(step), 0.1 * max(1 - step / 900, 0) ** 0.9, rtol=1e-4)


def test_rate_per_epoch_is_constant_within_an_epoch():
    schedule = optim.per_epoch(1e-4, 0.9, steps_per_epoch=10)
    np.testing.assert_allclose([schedule(i) for i in (0, 9, 10, 25)], [1e-4, 1e-4, 0.9e-4, 0.81e-4], rtol=1e-6)


def test_schedules_can_be_traced():
    for schedule in (optim.poly(0.1, 90), optim.per_epoch(0.1, 0.9, 10)):
        np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(30)), schedule(30), rtol=1e-6)


def test_each_group_moves_as_under_pytorch_at_its_own_rate_and_number_of_steps():
    rates = {"stem": lambda i: 0.01 * 0.8**i, "block": lambda i: 0.01 * 0.8**i, "head": lambda i: 0.1 * 0.9**i}
    times = {"stem": 4, "block": 3, "head": 1}
    each = {name: optim.sgd(rate, weight_decay=0.05, times=times[name]) for name, rate in rates.items()}
    optimizer = optim.partitioned(each, lambda path: path[0])
    params = run(optimizer)
    for name in times:
        np.testing.assert_allclose(params[name], run_torch(name, rates[name], times[name]), rtol=1e-5, atol=1e-6)


def test_momentum_and_decay_are_settings():
    optimizer = optim.sgd(lambda i: 0.05, momentum=0.0, weight_decay=0.0)
    params = run(optimizer)
    for name in SHAPES:
        expected = run_torch(name, lambda i: 0.05, 1, momentum=0.0, weight_decay=0.0)
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_do_not_move_and_keep_no_momentum():
    rest = {"all": optim.sgd(lambda i: 0.1)}
    optimizer = optim.partitioned(rest, lambda path: "frozen" if path[0] == "stem" else "all")
    params = run(optimizer)
    np.testing.assert_array_equal(params["stem"], PARAMS["stem"])
    assert np.all(params["head"] != PARAMS["head"])
    shapes = [leaf.shape for leaf in jax.tree.leaves(optimizer.init(PARAMS))]
    assert SHAPES["head"] in shapes and SHAPES["stem"] not in shapes


def test_group_is_asked_for_by_the_names_along_the_path():
    paths = []
    optimizer = optim.partitioned({"all": optim.sgd(lambda i: 0.1)}, lambda path: paths.append(path) or "all")
    optimizer.init({"layer1": {"conv": {"kernel": np.zeros(2)}}, "head": [np.zeros(2)]})
    assert {("layer1", "conv", "kernel"), ("head", "0")} == set(paths)


def test_parameter_of_an_unknown_group_is_named():
    optimizer = optim.partitioned({"head": optim.sgd(lambda i: 0.1)}, lambda path: "tail")
    with pytest.raises(ValueError, match=r"layer1/kernel is in group 'tail'.*head"):
        optimizer.init({"layer1": {"kernel": np.zeros(2)}})


def stage_settings(**settings):
    stage = base.supervised("random", 10)
    stage.update(schedule="constant", backbone_rate=0.01, head_rate=0.1, momentum=0.0, weight_decay=0.05, **settings)
    return stage


TREE = {  # a backbone of two groups of blocks, and a head
    "backbone": {
        "conv1": {"kernel": RNG.standard_normal((3, 2)), "pos_embed": RNG.standard_normal((1, 3, 2))},
        "layer1_0": {"conv1": {"kernel": RNG.standard_normal((2, 2))}, "bn1": {"scale": RNG.standard_normal(2)}},
        "layer1_1": {"conv1": {"kernel": RNG.standard_normal((2, 2))}},
        "layer2_0": {"downsample_conv": {"kernel": RNG.standard_normal((2, 2))}},
    },
    "head": {"classifier": {"kernel": RNG.standard_normal((2, 3)), "bias": RNG.standard_normal(3)}},
}
BACKBONE = backbone("resnet50", depths=(2, 1), width=8)


def at(tree, path):
    return functools.reduce(lambda branch, key: branch[key], path, tree)


def moved(stage, gradients, steps=1):
    """Parameters of `TREE` after steps with the same gradients."""
    params = jax.tree.map(jnp.float32, TREE)
    optimizer = optim.network_optimizer(stage, BACKBONE, steps_per_epoch=1)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params


def test_adamw_is_pytorchs_at_both_rates():
    gradients = jax.tree.map(lambda leaf: jnp.float32(np.cos(leaf)), TREE)
    params = moved(stage_settings(optimizer="adamw", adam_betas=(0.8, 0.95)), gradients, steps=5)
    for rate, where in ((0.01, ("backbone", "layer1_0", "bn1", "scale")), (0.1, ("head", "classifier", "kernel"))):
        leaf, gradient, found = (at(tree, where) for tree in (TREE, gradients, params))
        parameter = torch.tensor(np.float32(leaf), requires_grad=True)
        optimizer = torch.optim.AdamW([parameter], lr=rate, betas=(0.8, 0.95), weight_decay=0.05)
        parameter.grad = torch.tensor(np.array(gradient))
        for _ in range(5):
            optimizer.step()
        np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay_where_the_stage_says_so(name):
    nothing = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.float32, TREE))
    for decay_vectors in (True, False):
        params = moved(stage_settings(optimizer=name, decay_vectors=decay_vectors), nothing)
        assert (params["backbone"]["conv1"]["kernel"] != np.float32(TREE["backbone"]["conv1"]["kernel"])).all()
        for vector in (("backbone", "layer1_0", "bn1", "scale"), ("head", "classifier", "bias"),
                       ("backbone", "conv1", "pos_embed")):  # fmt: skip
            here, there = at(params, vector), at(TREE, vector)
            assert (np.asarray(here) != np.float32(there)).all() == decay_vectors


def test_lower_layers_learn_at_less_of_the_rate():
    gradients = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), TREE)
    stage = stage_settings(layer_decay=0.5)
    stage.weight_decay = 0.0
    before, after = jax.tree.map(np.float32, TREE), moved(stage, gradients)
    steps = jax.tree.map(lambda a, b: float(np.mean(b - a)), after, before)
    expected = {"conv1": 0.01 / 8, "layer1_0": 0.01 / 4, "layer1_1": 0.01 / 2, "layer2_0": 0.01}
    for name, rate in expected.items():
        np.testing.assert_allclose(jax.tree.leaves(steps["backbone"][name]), rate, rtol=1e-3)
    np.testing.assert_allclose(jax.tree.leaves(steps["head"]), 0.1, rtol=1e-4)


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (5, 0.1 + 0.9 * 0.5), (10, 1.0), (60, 1.0)])
def test_rates_warm_up_and_fall_linearly(step, share):
    stage = stage_settings()
    stage.update(schedule="linear", schedule_steps=100, schedule_warmup=10, schedule_warmup_start=0.1)
    rate = optim.schedule(stage, 0.2, steps_per_epoch=1)(step)
    np.testing.assert_allclose(rate, 0.2 * (1 - step / 100) * share, rtol=1e-5)
