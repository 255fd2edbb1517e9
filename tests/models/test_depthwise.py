"""Depthwise convolutions in each of their ways: against PyTorch and its gradients."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from proda_jax.models import depthwise
from proda_jax.models.depthwise import DepthwiseConv
from proda_jax.models.normalisation import BatchNorm

CASES = [  # kernel, stride, dilation, size
    (3, 1, 1, (9, 12)), (3, 1, 6, (9, 14)), (3, 1, 2, (4, 5)), (3, 2, 1, (9, 12)), (5, 1, 1, (8, 11)),
    (5, 2, 1, (8, 11)), (5, 2, 1, (7, 2)), (3, 2, 2, (10, 7)),
]  # fmt: skip


def draw(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape)


def images(x) -> torch.Tensor:
    return torch.tensor(x).permute(0, 3, 1, 2)


def in_pytorch(x, kernel, stride: int, dilation: int, padding: str) -> list[np.ndarray]:
    """Result and gradients of images and kernel in PyTorch, whose padding is that of TensorFlow's documentation."""
    given, weight = images(x).requires_grad_(), torch.tensor(kernel).permute(3, 2, 0, 1).requires_grad_()
    reach, beside = dilation * (len(kernel) - 1), []
    for size in x.shape[2:0:-1]:  # columns first
        total = max((size - 1) // stride * stride + reach + 1 - size, 0)
        beside += [reach // 2, reach // 2] if padding == "symmetric" else [total // 2, total - total // 2]
    padded = torch.nn.functional.pad(given, beside)
    result = torch.nn.functional.conv2d(padded, weight, stride=stride, dilation=dilation, groups=x.shape[-1])
    result.backward(images(draw(2, *result.permute(0, 2, 3, 1).shape)))
    found = [result.permute(0, 2, 3, 1), given.grad.permute(0, 2, 3, 1), weight.grad.permute(2, 3, 1, 0)]
    return [array.detach().numpy() for array in found]


@pytest.mark.parametrize("padding", depthwise.PADDINGS)
@pytest.mark.parametrize(("side", "stride", "dilation", "size"), CASES)
def test_results_and_gradients_are_those_of_pytorch(side, stride, dilation, size, padding):
    x, kernel = draw(0, 2, *size, 5), draw(1, side, side, 1, 5)
    expected = in_pytorch(x, kernel, stride, dilation, padding)
    around = depthwise.explicit_padding(size, side, stride, dilation, padding)
    of = dict(stride=stride, dilation=dilation)
    for way in (partial(depthwise.depthwise, padding=padding, **of),
                partial(depthwise.grouped_convolution, padding=around, **of)):  # fmt: skip
        with jax.enable_x64(True):
            dy = draw(2, *expected[0].shape)
            found = jax.jit(lambda x, kernel, dy, way=way: (way(x, kernel), *jax.vjp(way, x, kernel)[1](dy)))(
                x, kernel, dy
            )
        for actual, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-10)


def test_the_layer_scales_its_kernels_in_front_of_a_normalisation_and_sums_bfloat16_in_float32():
    x, layer = draw(0, 2, 6, 7, 8).astype(np.float32), partial(DepthwiseConv, 8, kernel=5, initialisation="pytorch")
    variables = layer().init(jax.random.key(0), x)
    plain = layer().apply(variables, x)
    assert variables["params"]["kernel"].shape == (5, 5, 1, 8) and plain.shape == x.shape
    np.testing.assert_allclose(layer().apply(variables, x, jnp.arange(8.0)), plain * jnp.arange(8.0), atol=1e-5)
    rounded, kernel = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in (x, variables["params"]["kernel"]))
    wanted = depthwise.depthwise(rounded, kernel)
    found = layer(dtype=jnp.bfloat16).apply(variables, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-6)

    def normalised(layer):
        norm = BatchNorm(use_running_statistics=True)
        return norm.init_with_output(jax.random.key(1), x, conv=layer.bind(variables))[0]

    np.testing.assert_allclose(normalised(layer()), plain / np.sqrt(1 + 1e-5), atol=1e-5)


def test_groups_are_for_accelerators_alone():
    def step(x, kernel):
        return jax.value_and_grad(lambda *given: jnp.sum(jnp.sin(depthwise.depthwise(*given))), (0, 1))(x, kernel)

    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 6, 7, 8), (3, 3, 1, 8))]
    for platform, grouped in {"cpu": False, "cuda": True, "tpu": True}.items():
        text = jax.export.export(jax.jit(step), platforms=(platform,))(*given).mlir_module()
        assert bool(re.search("stablehlo.convolution", text)) == grouped


def test_what_cannot_be_says_what_was_expected():
    x = jnp.zeros((1, 4, 4, 8))
    with pytest.raises(ValueError, match="padding 'valid', expected one of symmetric, same"):
        depthwise.depthwise(x, jnp.zeros((3, 3, 1, 8)), padding="valid")
    for shape in ((2, 2, 1, 8), (3, 3, 1, 4), (3, 5, 1, 8)):
        with pytest.raises(ValueError, match=re.escape(f"kernel of shape {shape}, expected an odd side")):
            depthwise.depthwise(x, jnp.zeros(shape))
