"""Attention of some tokens to others (arXiv:1706.03762), without a matrix of all pairs where that is large."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
from absl import logging

from proda_jax.models.precision import at_least_float32

PAIRS = 2**20  # of tokens, that are compared at once


def attention(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(channels)) v of each head, with the softmax in float32 at least.

    On NVIDIA's GPUs it is cuDNN's fused kernel where that takes the arguments. Elsewhere, more than `PAIRS` pairs of
    tokens are computed in blocks of queries, one after another and once more in the backward pass.

    Args:
      queries: [batch, tokens, heads, channels of a head].
      keys, values: [batch, other tokens, heads, channels of a head].

    Returns:
      Like `queries`.
    """
    here = partial(in_blocks, block=block_size(queries.shape[1], keys.shape[1]))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (queries, keys))
    if not cudnn_takes(*shapes):
        return here(queries, keys, values)
    return jax.lax.platform_dependent(queries, keys, values, cuda=fused, default=here)


def plain(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """`attention` as its formula says, with all pairs at once."""
    dtype = at_least_float32(queries.dtype)
    scores = jnp.einsum("bqhc,bkhc->bhqk", queries, keys, preferred_element_type=dtype)
    weights = jax.nn.softmax(scores * queries.shape[-1] ** -0.5, axis=-1).astype(values.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, values)


def in_blocks(queries: jax.Array, keys: jax.Array, values: jax.Array, *, block: int) -> jax.Array:
    """`attention` of so many queries at a time to all keys; what pairs weigh is forgotten, and computed again."""
    batch, tokens, heads, channels = queries.shape
    if block >= tokens:
        return plain(queries, keys, values)
    blocks = -(-tokens // block)
    padded = jnp.pad(queries, ((0, 0), (0, blocks * block - tokens), (0, 0), (0, 0)))
    split = padded.reshape(batch, blocks, block, heads, channels).swapaxes(0, 1)
    results = jax.lax.map(jax.checkpoint(lambda some: plain(some, keys, values)), split)
    return results.swapaxes(0, 1).reshape(padded.shape)[:, :tokens]


def block_size(queries: int, keys: int) -> int:
    """Queries in a block, so that there are at most `PAIRS` pairs; multiples of 8, in blocks of about one size."""
    if queries * keys <= PAIRS:
        return queries
    blocks = -(-queries * keys // PAIRS)
    return -(-queries // blocks // 8) * 8


def fused(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """`attention` by cuDNN, which never has the pairs in memory."""
    return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")


@functools.cache
def cudnn_takes(queries: jax.ShapeDtypeStruct, keys: jax.ShapeDtypeStruct) -> bool:
    """Whether cuDNN computes attention, and its gradient, of arrays like these on the GPU that is here.

    It takes half precision alone, some numbers of channels, and not on every GPU; the surest is to try.
    """
    if jax.default_backend() != "gpu":
        return False

    def gradient(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *given: fused(*given).astype(jnp.float32).sum(), (0, 1, 2))(*arguments)

    try:
        jax.jit(gradient).lower(queries, keys, keys).compile()
    except Exception as error:  # what is raised depends on what is amiss
        logging.info("attention of %s to %s is not cuDNN's (%s)", queries, keys, error)
        return False
    return True
