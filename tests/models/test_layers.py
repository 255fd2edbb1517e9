"""Layers whose backward pass is written out: against differentiation of their formulas, and PyTorch."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P

from proda_jax.models import convolution, convolution_on_cpu, moments, normalisation
from proda_jax.system import devices


def draw(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, np.float32)


def formula(x, scale, bias, rectify, clamped, ceiling, epsilon):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    var = jnp.maximum(var, epsilon) if clamped else var + epsilon
    result = (x - mean) / jnp.sqrt(var) * scale + bias
    return jnp.clip(result, 0, ceiling) if rectify else result


def assert_same_gradient(ours, plain, weights, x, *parameters):
    """Of the sine of what a function makes of images x and parameters, on one device and two; `ours` takes an axis."""

    def gradient(function):
        def loss(weights, x, *parameters):
            return jnp.sum(jnp.sin(function(x, *parameters)) * weights)

        return jax.jit(jax.grad(loss, tuple(range(1, 2 + len(parameters)))))

    def shared(*given):
        dx, *others = gradient(partial(ours, devices.AXIS))(*given)
        return dx, *jax.lax.psum(others, devices.AXIS)

    split, whole = P(devices.AXIS), [P()] * len(parameters)
    mapped = jax.jit(jax.shard_map(shared, mesh=devices.make_mesh(2), in_specs=(split, split, *whole),
                                   out_specs=(split, *whole), check_vma=False))  # fmt: skip
    wanted = gradient(plain)(weights, x, *parameters)
    for way in (gradient(partial(ours, None)), mapped):
        for actual, expected in zip(way(weights, x, *parameters), wanted, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize(
    ("rectify", "ceiling", "epsilon"), [(False, np.inf, 1e-5), (True, np.inf, 1e-5), (True, 1.0, 1e-3)]
)
def test_normalisation_has_the_gradient_of_its_formula_on_one_and_two_devices(rectify, ceiling, epsilon, clamped):
    x, weights = 3 * draw(0, 4, 5, 6, 7) + 2, draw(1, 4, 5, 6, 7)
    x[..., 0] *= 1e-4  # a channel whose variance is below epsilon

    def ours(axis_name, x, scale, bias):
        return normalisation.normalise(x, scale, bias, axis_name, rectify, clamped, ceiling, epsilon)[0]

    plain = partial(formula, rectify=rectify, clamped=clamped, ceiling=ceiling, epsilon=epsilon)
    assert_same_gradient(ours, plain, weights, x, draw(3, 7), draw(4, 7))


def test_moments_ahead_have_the_gradient_of_those_behind_on_one_and_two_devices():
    x = 2 * draw(0, 4, 5, 6, 3) + np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)  # images differ, so devices do

    def ours(axis_name, x, kernel):
        return jnp.broadcast_to(jnp.stack(moments.moments_ahead(x, kernel, axis_name)[:2]), (len(x), 2, 8))

    def plain(x, kernel):
        result = jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0], precision=jax.lax.Precision.HIGHEST)
        return jnp.broadcast_to(jnp.stack([result.mean((0, 1, 2)), result.var((0, 1, 2))]), (len(x), 2, 8))

    assert_same_gradient(ours, plain, draw(1, 4, 2, 8), x, draw(2, 1, 1, 3, 8))


def test_moments_ahead_of_bfloat16_are_those_of_the_exact_result():
    x = np.maximum(3 * draw(0, 4, 9, 11, 16) + 2, 0).astype(jnp.bfloat16)
    kernel = draw(1, 1, 1, 16, 64)
    mean, var, positions = jax.jit(moments.moments_ahead, static_argnums=2)(x, kernel, None)
    exact = np.asarray(x, np.float64) @ np.asarray(kernel[0, 0], np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=5e-3)
    assert positions == 4 * 9 * 11


def test_moments_of_bfloat16_are_those_of_its_values():
    x = (3 * draw(0, 4, 9, 11, 16) + 2).astype(jnp.bfloat16)
    mean, var, positions = jax.jit(moments.batch_moments, static_argnums=1)(x, None)
    values = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, values.var((0, 1, 2)), rtol=1e-4)
    assert positions == 4 * 9 * 11


def test_variances_ahead_are_not_negative_where_inputs_cancel():
    factors = jnp.linspace(1.0, 7.0, 16)
    kernel = draw(1, 16, 64)
    kernel -= factors[:, None] * (factors @ kernel) / (factors @ factors)  # all outputs are zero but for rounding
    x = 1e3 * draw(0, 2, 5, 6, 1) * factors
    _, var, _ = moments.moments_ahead(x, kernel[None, None], None)
    assert 0 <= var.min() and var.max() < 1e-5 * x.var()


def test_sums_of_channels_are_the_same_in_one_reduction_and_in_two_and_one_is_made_for_a_gpu():
    arrays = draw(0, 4, 9, 11, 16), draw(1, 4, 9, 11, 16)
    expected = [np.asarray(array, np.float64).sum((0, 1, 2)) for array in arrays]
    for way in (moments.one_reduction, moments.two_reductions, moments.channel_sums):
        np.testing.assert_allclose(way(*arrays), expected, rtol=1e-4, atol=1e-3)
    for platform, reductions in {"cuda": 1, "cpu": 2, "tpu": 2}.items():
        text = jax.export.export(jax.jit(moments.channel_sums), platforms=(platform,))(*arrays).mlir_module()
        assert text.count("stablehlo.reduce(") == reductions


def test_a_bias_beside_bfloat16_is_rounded_with_the_sum_or_for_gpus_before_it():
    x, bias = draw(0, 2, 3, 4, 5).astype(jnp.bfloat16), draw(1, 5)
    rounded = bias.astype(jnp.bfloat16)
    for way, added in ((convolution.add_bias, bias), (convolution.add_rounded_bias, rounded)):
        expected = (np.asarray(x, np.float32) + np.asarray(added, np.float32)).astype(jnp.bfloat16)
        np.testing.assert_array_equal(way(x, bias), expected)


@pytest.mark.parametrize(("size", "dilation"), [((9, 17), 2), ((8, 12), 4), ((5, 7), 6)])
def test_gradient_of_a_dilated_kernel_is_the_same_taken_apart_and_in_pytorch(size, dilation):
    x, dy = draw(0, 2, *size, 3), draw(1, 2, *size, 4)
    weight = torch.zeros(4, 3, 3, 3, requires_grad=True)
    to_torch = [torch.tensor(np.asarray(a)).permute(0, 3, 1, 2) for a in (x, dy)]
    torch.nn.functional.conv2d(to_torch[0], weight, padding=dilation, dilation=dilation).backward(to_torch[1])
    expected = weight.grad.permute(2, 3, 1, 0).numpy()
    for way in (convolution.kernel_gradient, convolution.kernel_gradient_apart):
        shape = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
        actual = jax.jit(partial(way, shape=shape, dilation=dilation))(x, dy)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "dilation"), [((9, 17), 2), ((33, 20), 12), ((5, 50), 24)])
def test_a_dilated_convolution_is_the_same_taken_apart_and_in_pytorch(size, dilation):
    x, kernel, dy = draw(0, 2, *size, 3), draw(1, 3, 3, 3, 4), draw(2, 2, *size, 4)
    given = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).requires_grad_()
    weight = torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1).requires_grad_()
    result = torch.nn.functional.conv2d(given, weight, padding=dilation, dilation=dilation)
    result.backward(torch.tensor(np.asarray(dy)).permute(0, 3, 1, 2))
    expected = (result.detach().permute(0, 2, 3, 1), given.grad.permute(0, 2, 3, 1), weight.grad.permute(2, 3, 1, 0))
    for way in (convolution.convolve_apart, convolution.dilated_convolution):
        result, backward = jax.vjp(jax.jit(partial(way, dilation=dilation)), x, kernel)
        for actual, wanted in zip((result, *backward(dy)), expected, strict=True):
            np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "side", "stride", "dilation"),
    [((9, 17), 3, 1, 2), ((6, 7), 3, 1, 4), ((5, 9), 3, 1, 6), ((8, 11), 5, 1, 1), ((9, 12), 3, 2, 1),
     ((8, 9), 4, 2, 1), ((7, 5), 4, 1, 1), ((10, 9), 7, 2, 1)],
)  # fmt: skip
def test_a_convolution_is_the_same_as_products_and_in_pytorch(size, side, stride, dilation):
    pad = dilation * ((side - 1) // 2)
    given = torch.randn(2, 3, *size, generator=torch.manual_seed(0)).requires_grad_()
    weight = torch.randn(4, 3, side, side, generator=torch.manual_seed(1)).requires_grad_()
    result = torch.nn.functional.conv2d(given, weight, None, stride, pad, dilation)
    dy = torch.randn(result.shape, generator=torch.manual_seed(2))
    result.backward(dy)
    x, dy, expected, dx = (jnp.array(a.detach().permute(0, 2, 3, 1).numpy()) for a in (given, dy, result, given.grad))
    kernel, dkernel = (jnp.array(a.detach().permute(2, 3, 1, 0).numpy()) for a in (weight, weight.grad))
    gradient = jax.jit(convolution_on_cpu.gradient_by_taps, static_argnums=(3, 4))
    for actual, wanted in zip(gradient(x, kernel, dy, stride, dilation), (dx, dkernel), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)
    if stride == 1 and side % 2:
        actual = jax.jit(convolution_on_cpu.convolve_by_rows, static_argnums=2)(x, kernel, dilation)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_products_are_summed_in_float32():
    x, kernel, dy = (draw(i, *shape).astype(jnp.bfloat16)
                     for i, shape in enumerate(((1, 6, 7, 16), (3, 3, 16, 8), (1, 6, 7, 8))))  # fmt: skip
    exact = [a.astype(jnp.float32) for a in (x, kernel, dy)]
    for way, of, rest in ((convolution_on_cpu.convolve_by_rows, 2, (2,)),
                          (convolution_on_cpu.gradient_by_taps, 3, (1, 2))):  # fmt: skip
        found, expected = (jax.tree.leaves(way(*given[:of], *rest)) for given in ((x, kernel, dy), exact))
        for actual, wanted in zip(found, expected, strict=True):
            assert actual.dtype == jnp.bfloat16
            np.testing.assert_allclose(actual.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-3)


def test_many_channels_or_a_far_dilation_are_products_on_a_cpu_alone():
    for channels, dilation in ((16, 2), (16, 32), (192, 2)):
        text = {platform: operations(partial(convolution.convolve, stride=1, dilation=dilation), (1, 40, 40, channels),
                                     (3, 3, channels, channels), platform=platform)
                for platform in ("cpu", "tpu")}  # fmt: skip
        by_products = channels**2 * dilation**2 >= convolution_on_cpu.LEAST
        assert ("stablehlo.convolution" in text["cpu"]) != by_products
        assert "stablehlo.convolution" in text["tpu"]


def operations(function, *shapes: tuple[int, ...], platform: str) -> str:
    """What a function and its gradients are made of on a platform that need not be there."""
    def loss(*arguments):
        return jnp.sum(jnp.sin(function(*arguments)))

    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    step = jax.jit(jax.value_and_grad(loss, tuple(range(len(shapes)))))
    return jax.export.export(step, platforms=(platform,))(*given).mlir_module()


def test_far_dilations_are_gone_from_what_is_made_for_a_gpu():
    convolve = partial(convolution.convolve, stride=1, dilation=convolution.FAR_DILATION)
    dilations = {
        platform: set(re.findall(r"rhs_dilate = \[[^]]*\]", operations(convolve, (2, 30, 30, 8), (3, 3, 8, 8),
                                                                       platform=platform)))
        for platform in ("cpu", "cuda")
    }  # fmt: skip
    assert f"rhs_dilate = [{convolution.FAR_DILATION}, {convolution.FAR_DILATION}]" in dilations["cpu"]
    assert not any(str(convolution.FAR_DILATION) in found for found in dilations["cuda"])


def test_a_1x1_convolution_is_a_matrix_product_on_a_cpu_and_a_convolution_on_a_gpu():
    shapes = ((2, 5, 7, 8), (1, 1, 8, 4))
    for platform, there, not_there in (("cpu", "dot_general", "convolution"), ("cuda", "convolution", "dot_general")):
        text = operations(convolution.pointwise, *shapes, platform=platform)
        assert f"stablehlo.{there}" in text and f"stablehlo.{not_there}" not in text
    x, kernel, dy = draw(0, 2, 5, 7, 8), draw(1, 1, 1, 8, 4), draw(2, 2, 5, 7, 4)
    result, backward = jax.vjp(jax.jit(convolution.pointwise), x, kernel)
    dx, d_kernel = backward(dy)
    weights = np.asarray(kernel[0, 0])
    expected = (np.dot(x, weights), np.dot(dy, weights.T), np.einsum("bhwi,bhwo->io", x, dy))
    for actual, wanted in zip((result, dx, d_kernel[0, 0]), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_no_convolution_for_a_gpu_has_a_dilated_window_as_large_as_the_image():
    def window_strides(platform: str) -> set[str]:
        convolve = partial(convolution.convolve, stride=1, dilation=2)
        text = operations(convolve, (2, 16, 24, 8), (3, 3, 8, 8), platform=platform)
        return set(re.findall(r"stride = \[[^]]*\]", text))

    assert window_strides("cpu") == {"stride = [2, 2]"} | window_strides("cuda")
    assert not any("2" in stride for stride in window_strides("cuda"))
