"""Attention: against PyTorch's, and that no matrix of all pairs of tokens is made where there are many."""

import math
import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from proda_jax.models import attention
from proda_jax.models.backbones import backbone
from proda_jax.models.convolution import Conv

TOKENS = 74 * 74 + 5  # of DINOv2 with registers for an image of 1024 x 1024 pixels


def draw(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape)


@pytest.mark.parametrize("block", [5, 8, 13, 20])
def test_blocks_of_queries_give_the_attention_and_the_gradients_of_pytorch(block):
    given = draw(0, 2, 13, 3, 4), draw(1, 2, 9, 3, 4), draw(2, 2, 9, 3, 4)
    dy = draw(3, 2, 13, 3, 4)
    theirs = [torch.tensor(x).transpose(1, 2).requires_grad_() for x in given]
    result = torch.nn.functional.scaled_dot_product_attention(*theirs)
    result.backward(torch.tensor(dy).transpose(1, 2))
    expected = [x.detach().transpose(1, 2).numpy() for x in (result, *(x.grad for x in theirs))]
    way = partial(attention.in_blocks, block=block)
    with jax.enable_x64(True):
        found = jax.jit(lambda dy, *x: (way(*x), *jax.vjp(way, *x)[1](dy)))(dy, *given)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-10)


def test_few_pairs_are_one_block_and_many_are_blocks_of_about_one_size():
    assert attention.block_size(1024, 1024) == 1024
    for queries, keys in ((TOKENS, TOKENS), (65536, 1024), (1025, 1024)):
        block = attention.block_size(queries, keys)
        assert block % 8 == 0 and block * keys <= 1.1 * attention.PAIRS and block >= queries / 64


def largest(function, *given, platform: str) -> tuple[int, ...]:
    """The largest shape in what a function is made of on a platform that need not be there."""
    text = jax.export.export(jax.jit(function), platforms=(platform,))(*given).mlir_module()
    shapes = (tuple(map(int, shape.split("x")[:-1])) for shape in re.findall(r"tensor<((?:\d+x)+\w+)>", text))
    return max(shapes, key=math.prod)


def gradient_of_sum(function):
    return jax.grad(lambda *given: jnp.sum(jnp.sin(function(*given).astype(jnp.float32))), 0)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_pairs_of_the_tokens_of_a_large_image_are_never_all_in_memory(platform):
    given = [jax.ShapeDtypeStruct((1, TOKENS, 6, 64), jnp.bfloat16)] * 3
    assert math.prod(largest(gradient_of_sum(attention.attention), *given, platform=platform)) < TOKENS**2 / 2
    assert math.prod(largest(gradient_of_sum(attention.plain), *given, platform=platform)) == 6 * TOKENS**2  # it shows


def test_a_vision_transformer_of_a_large_image_takes_the_memory_of_blocks():
    network = backbone("dinov2_vits14_reg", (1,), 384).module(Conv, None, recompute=False, name=None)
    images = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images, None)

    def loss(variables, images):
        return jnp.sum(jnp.sin(network.apply(variables, images, None)[-1]))

    compiled = jax.jit(jax.grad(loss)).lower(variables, images).compile()
    of_pairs = 6 * TOKENS**2 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < of_pairs / 2


def test_cudnn_is_tried_where_there_is_a_gpu_and_done_without_where_it_fails(monkeypatch):
    shapes = [jax.ShapeDtypeStruct((1, 16, 2, 64), jnp.bfloat16)] * 2
    attention.cudnn_takes.cache_clear()
    assert not attention.cudnn_takes(*shapes)
    attention.cudnn_takes.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not attention.cudnn_takes(*shapes)  # asked for, and refused, as there is none
    attention.cudnn_takes.cache_clear()
    tried = []
    monkeypatch.setattr(attention, "fused", lambda *given: tried.append(given) or attention.plain(*given))
    assert attention.cudnn_takes(*shapes) and tried
    given = [jnp.asarray(draw(i, 1, 16, 2, 64), jnp.bfloat16) for i in range(3)]
    np.testing.assert_array_equal(jax.jit(attention.attention)(*given), jax.jit(attention.plain)(*given))
    attention.cudnn_takes.cache_clear()
