#!/usr/bin/env bash
# XLA for CPUs: the gradient of a depthwise kernel (nine sums of products over batch, rows and columns) takes many times
# as long as a plain sum of nine arrays in a loop over rows that adds place by place and sums the places at the end.
#
# Guess before running: the compiler fuses product and sum, so the plain form is as quick as any, and a loop of 57 steps
# costs something on top.
# Seen with jax 0.10.2 on x86-64, x [4, 59, 79, 144], dy [4, 57, 77, 144], float32: plain 137 ms, loop over rows with sums
# 14.6 ms, loop with one accumulator a tap 5.8 ms; the same numbers to 3e-7. On one core and on two.
# Why it matters here: depthwise convolutions on CPUs are written as shifted products (a grouped convolution is slower
# still), and this is their backward pass.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "numpy==2.4.6"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

SIDE, BATCH, ROWS, COLUMNS, CHANNELS = 3, 4, 57, 77, 144
TAPS = list(itertools.product(range(SIDE), repeat=2))


def plain(x, dy):
    return jnp.stack([(x[:, i : i + ROWS, j : j + COLUMNS] * dy).sum((0, 1, 2)) for i, j in TAPS])


def row_by_row(x, dy):
    def add(totals, row):
        of_row = jax.lax.dynamic_slice_in_dim(dy, row, 1, 1)[:, 0]
        images = [jax.lax.dynamic_slice_in_dim(x, row + i, 1, 1)[:, 0] for i in range(SIDE)]
        return [total + images[i][:, j : j + COLUMNS] * of_row for total, (i, j) in zip(totals, TAPS)], None

    totals, _ = jax.lax.scan(add, [jnp.zeros((BATCH, COLUMNS, CHANNELS))] * len(TAPS), jnp.arange(ROWS))
    return jnp.stack([total.sum((0, 1)) for total in totals])


def best(function, *given):
    jax.block_until_ready(function(*given))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(function(*given))
        times.append(time.perf_counter() - began)
    return min(times)


generator = np.random.default_rng(0)
x = jnp.asarray(generator.standard_normal((BATCH, ROWS + SIDE - 1, COLUMNS + SIDE - 1, CHANNELS), np.float32))
dy = jnp.asarray(generator.standard_normal((BATCH, ROWS, COLUMNS, CHANNELS), np.float32))
plain, row_by_row = jax.jit(plain), jax.jit(row_by_row)
expected, found = np.asarray(plain(x, dy)), np.asarray(row_by_row(x, dy))
assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
slow, quick = best(plain, x, dy), best(row_by_row, x, dy)
print(f"jax {jax.__version__}: plain {1e3 * slow:.1f} ms, row by row {1e3 * quick:.1f} ms, {slow / quick:.1f} times")
assert slow > 4 * quick, "the plain form is no longer several times as slow"
PYTHON
