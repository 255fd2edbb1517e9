"""Schedules against their formulas, SGD against torch.optim.SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from proda_jax.adaptation import optim

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
    optimizer = optim.sgd(rates, lambda path: path[0], weight_decay=0.05, repeats={"stem": 4, "block": 3})
    params = run(optimizer)
    for name, times in {"stem": 4, "block": 3, "head": 1}.items():
        np.testing.assert_allclose(params[name], run_torch(name, rates[name], times), rtol=1e-5, atol=1e-6)


def test_momentum_and_decay_are_settings():
    optimizer = optim.sgd({"all": lambda i: 0.05}, lambda path: "all", momentum=0.0, weight_decay=0.0)
    params = run(optimizer)
    for name in SHAPES:
        expected = run_torch(name, lambda i: 0.05, 1, momentum=0.0, weight_decay=0.0)
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_do_not_move_and_keep_no_momentum():
    optimizer = optim.sgd({"all": lambda i: 0.1}, lambda path: "frozen" if path[0] == "stem" else "all")
    params = run(optimizer)
    np.testing.assert_array_equal(params["stem"], PARAMS["stem"])
    assert np.all(params["head"] != PARAMS["head"])
    shapes = [leaf.shape for leaf in jax.tree.leaves(optimizer.init(PARAMS))]
    assert SHAPES["head"] in shapes and SHAPES["stem"] not in shapes


def test_group_is_asked_for_by_the_names_along_the_path():
    paths = []
    optimizer = optim.sgd({"all": lambda i: 0.1}, lambda path: paths.append(path) or "all")
    optimizer.init({"layer1": {"conv": {"kernel": np.zeros(2)}}, "head": [np.zeros(2)]})
    assert {("layer1", "conv", "kernel"), ("head", "0")} == set(paths)


def test_parameter_of_an_unknown_group_is_named():
    optimizer = optim.sgd({"head": lambda i: 0.1}, lambda path: "tail")
    with pytest.raises(ValueError, match=r"layer1/kernel is in group 'tail'.*head"):
        optimizer.init({"layer1": {"kernel": np.zeros(2)}})


def test_repeats_of_a_group_without_a_rate_are_an_error():
    with pytest.raises(ValueError, match="backbone"):
        optim.sgd({"head": lambda i: 0.1}, lambda path: "head", repeats={"backbone": 3})
