"""Resizing agrees with PyTorch's conventions, and its adjoint is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proda_jax.models import resizing

ENLARGED, REDUCED, EQUAL = [((9, 13), (33, 57)), ((9, 13), (9, 40))], [((9, 13), (4, 5))], [((4, 4), (4, 4))]
SIZES = [*ENLARGED, *REDUCED, *EQUAL, ((5, 1), (7, 3)), ((6, 7), (1, 1))]

resize_align_corners = jax.jit(resizing.resize_align_corners, static_argnums=1)


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.moveaxis(array, -1, 1))


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_corner_aligned_resizing_is_pytorchs_in_value_and_gradient(source, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *source, 3)).astype(np.float32)
    cotangent = rng.standard_normal((2, *size, 3)).astype(np.float32)
    expected_in = to_torch(x).requires_grad_()
    expected = F.interpolate(expected_in, size=size, mode="bilinear", align_corners=True)
    expected.backward(to_torch(cotangent))

    actual, pullback = jax.vjp(lambda x: resize_align_corners(x, size), x)
    np.testing.assert_allclose(actual, np.moveaxis(expected.detach().numpy(), 1, -1), atol=1e-5)
    gradient = np.moveaxis(expected_in.grad.numpy(), 1, -1)
    np.testing.assert_allclose(pullback(cotangent)[0], gradient, rtol=1e-5, atol=1e-4)


def test_low_precision_features_are_resized_in_float32():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 6, 2)), jnp.bfloat16)
    resized = resize_align_corners(x, (11, 13))
    assert resized.dtype == jnp.float32
    np.testing.assert_array_equal(resized, resize_align_corners(x.astype(jnp.float32), (11, 13)))


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_transposed_resizing_is_the_adjoint(source, size):
    rng = np.random.default_rng(1)
    small = rng.standard_normal((2, *source, 3)).astype(np.float32)
    large = rng.standard_normal((2, *size, 3)).astype(np.float32)
    one = np.vdot(resize_align_corners(small, size), large)
    other = np.vdot(small, jax.jit(resizing.transposed_resize_align_corners, static_argnums=1)(large, source))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("source", "size"), [((64, 96), (16, 24)), ((33, 57), (16, 28)), ((5, 7), (12, 9))])
def test_nearest_resizing_is_pytorchs(source, size):
    labels = np.random.default_rng(2).integers(0, 19, (2, *source)).astype(np.uint8)
    expected = F.interpolate(torch.tensor(labels)[:, None].float(), size=size, mode="nearest")[:, 0]
    resized = jax.jit(resizing.resize_nearest, static_argnums=1)(labels, size)
    assert resized.dtype == jnp.uint8
    np.testing.assert_array_equal(resized, expected.numpy())
