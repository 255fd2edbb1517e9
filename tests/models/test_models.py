"""Networks and their layers against PyTorch on the CPU and NumPy."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tiny import CLASSES, tiny_config, tiny_model, tiny_variables

from proda_jax.adaptation import optim
from proda_jax.configs import base
from proda_jax.models.backbones.resnet import max_pool
from proda_jax.models.convolution import Conv, add_bias
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.heads.deeplab import DeepLabHead
from proda_jax.models.heads.released import channel_dropout
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.weights.torch_names import from_torch, to_torch

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def to_nchw(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def from_nchw(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def oihw(kernel) -> torch.Tensor:
    return torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1))


# Layers


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [(1, 1, 1, 0), (1, 2, 1, 0), (3, 1, 1, 1), (3, 1, 4, 4), (3, 2, 1, 1), (7, 2, 1, 3)],
)
def test_convolution_is_pytorchs_in_value_and_gradient(kernel, stride, dilation, padding):
    x, layer = normal(2, 13, 18, 5), Conv(6, kernel=kernel, stride=stride, dilation=dilation, use_bias=True)
    params = {"kernel": normal(kernel, kernel, 5, 6), "bias": normal(6)}
    theirs = oihw(params["kernel"]), torch.tensor(params["bias"]), to_nchw(x)
    weight, bias, image = (tensor.requires_grad_() for tensor in theirs)
    expected = torch.nn.functional.conv2d(image, weight, bias, stride, padding, dilation)
    seed = normal(*from_nchw(expected).shape)
    expected.backward(to_nchw(seed))
    actual, backward = jax.vjp(jax.jit(lambda p, x: layer.apply({"params": p}, x)), params, x)
    gradient, x_gradient = backward(seed)
    np.testing.assert_allclose(actual, from_nchw(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(x_gradient, from_nchw(image.grad), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(oihw(gradient["kernel"]), weight.grad, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(gradient["bias"], bias.grad, rtol=1e-4, atol=1e-3)


def batch_norms(channels: int = 4) -> tuple[dict, torch.nn.BatchNorm2d]:
    """The same layer, away from its initial values, here and in PyTorch."""
    values = {name: normal(channels) for name in ("scale", "bias", "mean")} | {"var": 1 + np.abs(normal(channels))}
    layer = torch.nn.BatchNorm2d(channels)
    state = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    layer.load_state_dict({name: torch.tensor(values[ours]) for name, ours in state.items()}, strict=False)
    variables = {
        "params": {name: values[name] for name in ("scale", "bias")},
        "batch_stats": {name: values[name] for name in ("mean", "var")},
    }
    return variables, layer


@pytest.mark.smoke("models")
def test_batch_normalisation_trains_like_pytorchs():
    variables, theirs = batch_norms()
    x = 3 * normal(2, 5, 7, 4) + 10  # far from zero, where a careless variance loses its digits
    seed, image = normal(2, 5, 7, 4), to_nchw(x).requires_grad_()
    expected = theirs(image)
    expected.backward(to_nchw(seed))

    def apply(params, x):
        return BatchNorm(use_running_statistics=False).apply(
            variables | {"params": params}, x, mutable=["batch_stats"]
        )

    actual, backward, updates = jax.vjp(jax.jit(apply), variables["params"], x, has_aux=True)
    gradient, x_gradient = backward(seed)
    np.testing.assert_allclose(actual, from_nchw(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], theirs.running_var, rtol=1e-5)
    np.testing.assert_allclose(x_gradient, from_nchw(image.grad), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradient["scale"], theirs.weight.grad, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient["bias"], theirs.bias.grad, rtol=1e-4, atol=1e-4)


def test_batch_normalisation_evaluates_like_pytorchs():
    variables, theirs = batch_norms()
    x = normal(2, 5, 7, 4)
    actual = BatchNorm(use_running_statistics=True).apply(variables, x)
    np.testing.assert_allclose(actual, from_nchw(theirs.eval()(to_nchw(x))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "running"),
    [(3, 3, 1, True), (2, 1, 1, True), (3, 3, 1, False), (3, 1, 2, False), (2, 1, 1, False), (2, 1, 2, False)],
)
def test_a_convolution_with_its_normalisation_is_pytorchs(inputs, kernel, stride, running, with_shortcut, rectify):
    x, weights = normal(2, 6, 7, inputs) + 1, normal(kernel, kernel, inputs, 8)
    variables, norm = batch_norms(8)
    image, weight = to_nchw(x).requires_grad_(), oihw(weights).requires_grad_()
    conv2d = torch.nn.functional.conv2d(image, weight, stride=stride, padding=kernel // 2)
    expected = norm.train(not running)(conv2d)
    seed, shortcut = normal(*from_nchw(expected).shape), normal(*from_nchw(expected).shape)
    beside = to_nchw(shortcut).requires_grad_()
    expected = expected + beside if with_shortcut else expected
    expected = torch.relu(expected) if rectify else expected
    expected.backward(to_nchw(seed))

    class Both(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, shortcut):
            norm = BatchNorm(use_running_statistics=running, rectify=rectify, name="norm")
            return norm(x, shortcut if with_shortcut else None, conv=Conv(8, kernel, stride, name="conv"))

    def apply(params, *given):
        stats = {"norm": variables["batch_stats"]}
        return Both().apply({"params": params, "batch_stats": stats}, *given, mutable=["batch_stats"])

    params = {"conv": {"kernel": weights}, "norm": variables["params"]}
    actual, backward, updates = jax.vjp(jax.jit(apply), params, x, shortcut, has_aux=True)
    gradient, x_gradient, shortcut_gradient = backward(seed)
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    near(actual, from_nchw(expected))
    near(updates["batch_stats"]["norm"]["mean"], norm.running_mean)
    near(updates["batch_stats"]["norm"]["var"], norm.running_var)
    near(x_gradient, from_nchw(image.grad))
    near(shortcut_gradient, from_nchw(beside.grad) if with_shortcut else np.zeros_like(shortcut))
    near(oihw(gradient["conv"]["kernel"]), weight.grad, atol=1e-3)
    near(gradient["norm"]["scale"], norm.weight.grad, atol=1e-3)
    near(gradient["norm"]["bias"], norm.bias.grad, atol=1e-3)


def test_of_a_widening_convolution_nothing_is_kept_but_what_comes_out_behind_the_rectifier():
    class Both(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, shortcut):
            norm = BatchNorm(use_running_statistics=False, rectify=True, name="norm")
            return norm(x, shortcut, conv=Conv(8, name="conv"))

    x, shortcut = normal(2, 6, 7, 2), normal(2, 6, 7, 8)
    variables = jax.jit(Both().init)(jax.random.key(0), x, shortcut)

    def apply(params, x, shortcut):
        return Both().apply({**variables, "params": params}, x, shortcut, mutable=["batch_stats"])

    result, backward, _ = jax.vjp(jax.jit(apply), variables["params"], x, shortcut, has_aux=True)
    (kept,) = {id(array): array for array in jax.tree.leaves(backward) if array.shape == result.shape}.values()
    np.testing.assert_array_equal(kept, result)


def test_a_convolution_with_a_bias_in_front_of_a_normalisation_is_refused():
    norm = BatchNorm(use_running_statistics=True)
    with pytest.raises(ValueError, match="with a bias in front of"):
        norm.apply(batch_norms()[0], normal(1, 5, 5, 3), conv=Conv(4, use_bias=True))


def test_the_gradient_of_a_bias_keeps_its_digits_beside_bfloat16():
    x, bias = jnp.zeros((4, 60, 60, 2), jnp.bfloat16), jnp.zeros(2)
    _, backward = jax.vjp(add_bias, x, bias)
    gradient = backward(jnp.full(x.shape, 1 / 128, jnp.bfloat16))[1]
    np.testing.assert_array_equal(gradient, np.full(2, 4 * 60 * 60 / 128, np.float32))


def test_clamped_batch_normalisation_divides_by_a_variance_of_at_least_epsilon():
    x = (normal(2, 5, 7, 4) * np.float32([1e-3, 1e-3, 1, 3])).astype(np.float64)  # variances below epsilon and above
    layer = BatchNorm(use_running_statistics=False, epsilon="clamped")
    variables, _ = batch_norms()
    actual, _ = layer.apply(variables, x, mutable=["batch_stats"])
    variance = x.var((0, 1, 2))
    assert variance.min() < 1e-5 < variance.max()
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(np.maximum(variance, 1e-5))
    expected = normalised * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    evaluated = (BatchNorm(use_running_statistics=True, epsilon=e).apply(variables, x) for e in ("added", "clamped"))
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("size", [(2, 3), (16, 24), (17, 24), (16, 25), (7, 9)])
def test_max_pool_rounds_like_pytorchs(size, ceil_mode):
    x = normal(2, *size, 3) - 5  # all negative: padding must not win
    expected = torch.nn.functional.max_pool2d(to_nchw(x), 3, stride=2, padding=1, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(max_pool(x, ceil_mode), from_nchw(expected))


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("size", [(2, 3), (16, 24), (17, 24), (16, 25), (7, 9)])
def test_max_pool_has_pytorchs_gradient_among_equal_values_too(size, ceil_mode):
    x = np.round(normal(2, *size, 3))  # of a few values, so that most windows have their largest more than once
    given = to_nchw(x).requires_grad_()
    expected = torch.nn.functional.max_pool2d(given, 3, stride=2, padding=1, ceil_mode=ceil_mode)
    dy = normal(*from_nchw(expected.detach()).shape)
    expected.backward(to_nchw(dy))
    _, backward = jax.vjp(jax.jit(lambda x: max_pool(x, ceil_mode)), jnp.asarray(x))
    np.testing.assert_allclose(backward(jnp.asarray(dy))[0], from_nchw(given.grad), rtol=1e-5, atol=1e-6)


# Heads


def test_the_plain_head_is_the_sum_of_all_its_dilated_convolutions():
    x, dilations = normal(2, 9, 13, 8), (2, 3, 5)
    head = DeepLabHead(6, dilations, Conv)
    params = {f"branch{i}_conv": {"kernel": normal(3, 3, 8, 6), "bias": normal(6)} for i in range(3)}
    output = head.apply({"params": params}, x, None)
    expected = sum(
        torch.nn.functional.conv2d(to_nchw(x), oihw(p["kernel"]), torch.tensor(p["bias"]), padding=d, dilation=d)
        for p, d in zip(params.values(), dilations, strict=True)
    )
    np.testing.assert_allclose(output.logits, from_nchw(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(output.features, x)


def test_dropout_drops_whole_channels_of_each_image_by_its_own_key():
    x, keys = 1 + np.abs(normal(6, 4, 5, 200)), jax.random.split(jax.random.key(0), 6)
    drop = jax.jit(lambda x, order: channel_dropout(x, keys[order], 0.25))
    dropped = np.asarray(drop(x, np.arange(6)))
    gone = np.all(dropped == 0, axis=(1, 2))
    np.testing.assert_allclose(dropped, np.where(gone[:, None, None], 0, x / 0.75), rtol=1e-6)
    assert 0.2 < gone.mean() < 0.3
    assert len({tuple(row) for row in gone}) == 6
    for order in ([3], [5, 0, 3]):  # in any company and place
        np.testing.assert_array_equal(drop(x[order], np.array(order)), dropped[order])
    np.testing.assert_array_equal(channel_dropout(x, None, 0.25), x)
    np.testing.assert_array_equal(channel_dropout(x, keys, 0.0), x)


@pytest.mark.parametrize("size", [(64, 96), (33, 50)])
def test_the_discriminator_scores_patches_at_a_sixteenth_of_the_size(size):
    model, x = Discriminator(), normal(2, *size, CLASSES)
    scores, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x))
    assert scores.shape == (2, -(-size[0] // 16), -(-size[1] // 16), 1)
    widths = (CLASSES, 64, 128, 256, 512)
    kernels = {f"conv{i}": (3, 3, widths[i - 1], widths[i]) for i in range(1, 5)} | {"classifier": (1, 1, 512, 1)}
    assert {name: layer["kernel"].shape for name, layer in variables["params"].items()} == kernels


# The whole network


def test_weights_that_do_not_fit_are_all_named():
    variables = tiny_variables(tiny_model(tiny_config()), 0)
    state = to_torch(variables)
    del state["layer2.0.downsample.0.weight"], state["layer5.bottleneck.2.bias"]
    state["layer5.head.1.weight"] = state["layer5.head.1.weight"][:7]
    with pytest.raises(ValueError) as refusal:
        from_torch(state, variables)
    message = str(refusal.value)
    for part in (
        "layer2.0.downsample.0.weight is missing",
        "layer5.bottleneck.2.bias is missing",
        "layer5.head.1.weight has shape (1, 1, 32, 7) after transposing, (1, 1, 32, 11) was expected",
    ):
        assert part in message
    assert message.count(";") == 2


# Its optimizer


def numpy_sgd(parameter: np.ndarray, gradients: list[np.ndarray], rate: float, times: int) -> np.ndarray:
    """Decay added to the gradient, momentum not dampened, `times` steps with each gradient."""
    parameter, velocity = parameter.astype(np.float64), 0.0
    for gradient in gradients:
        for _ in range(times):
            velocity = 0.9 * velocity + gradient + 2e-4 * parameter
            parameter = parameter - rate * velocity
    return parameter


def repeats_as_released(name: str) -> int:
    if name.startswith(("conv1.", "bn1.")):
        return 1
    if "downsample" in name:
        return 4
    return 3 if name.startswith("layer") and not name.startswith("layer5") else 1


@pytest.mark.parametrize(
    ("backbone_steps", "batch_norm"), [("once", "batch"), ("released", "batch"), ("once", "frozen")]
)
def test_every_parameter_moves_at_the_rate_and_as_often_as_its_group_does(backbone_steps, batch_norm):
    stage = base.supervised("random", 10)
    stage.backbone_rate, stage.head_rate, stage.schedule, stage.schedule_factor = 0.01, 0.1, "per_epoch", 1.0
    stage.backbone_steps, stage.batch_norm = backbone_steps, batch_norm
    optimizer = optim.network_optimizer(stage, tiny_model(tiny_config()).backbone, steps_per_epoch=1)
    params = tiny_variables(tiny_model(tiny_config(), extra_norm=True), 0)["params"]
    gradients = [jax.tree.map(lambda p: RNG.standard_normal(p.shape).astype(np.float32), params) for _ in range(2)]

    @jax.jit
    def train(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    moved = to_torch({"params": train(params, gradients)})
    names = flax.traverse_util.flatten_dict(params)
    by_name = [to_torch({"params": gradient}) for gradient in gradients]
    start = to_torch({"params": params})
    assert len(moved) == len(names) > 40
    for name, parameter in start.items():
        norm = name.startswith("bn") or ".bn" in name or ".downsample.1." in name
        if batch_norm == "frozen" and norm:
            np.testing.assert_array_equal(moved[name], parameter, err_msg=name)
            continue
        rate = 0.1 if name.startswith(("layer5", "bn_pretrain")) else 0.01
        times = repeats_as_released(name) if backbone_steps == "released" else 1
        expected = numpy_sgd(parameter, [gradient[name] for gradient in by_name], rate, times)
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
