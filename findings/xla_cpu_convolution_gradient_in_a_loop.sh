#!/usr/bin/env bash
# XLA for CPUs and the gradient of a convolution within jax.lax.scan.
#
# Guess, before it was run: a turn of a loop takes as long as the same computation outside of it; what a loop costs is
# the carrying of its state.
# Seen: the gradient of a 3x3 convolution for images and kernel takes many times as long within a loop. Its two
# convolutions have other orders of axes than the first one; XLA for CPUs brings these into the order for which it has
# quick kernels in the entry computation alone, and computes them with plain nested loops within the body of a loop. With
# the same axes moved by hand to where the quick kernels want them the loop is as quick as what is outside of it.
# So micro-batches (gradient accumulation by scan) and scanned layers are slow on CPUs where plain steps are not.
# Versions: jax and jaxlib 0.10.2; Python 3.11, x86-64.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import statistics
import time

import jax
import jax.numpy as jnp

TURNS = 3
kernel = jax.random.normal(jax.random.key(0), (3, 3, 48, 48))
images = jax.random.normal(jax.random.key(1), (TURNS, 4, 24, 48, 48))


def convolve(x, k):
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradient(x):
    return jax.grad(lambda x, k: jnp.sin(convolve(x, k)).sum(), argnums=(0, 1))(x, kernel)


def by_hand(x):
    dy = jnp.cos(convolve(x, kernel))
    of_kernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3)), of_kernel.transpose(1, 2, 0, 3)


def seconds(function):
    run = jax.jit(function)
    jax.block_until_ready(run(images))
    taken = []
    for _ in range(5):
        begin = time.process_time()
        jax.block_until_ready(run(images))
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


outside = seconds(lambda images: [gradient(x) for x in images])
within = seconds(lambda images: jax.lax.map(gradient, images))
moved = seconds(lambda images: jax.lax.map(by_hand, images))
print(f"{TURNS} gradients: outside of a loop {outside:.3f} s, within {within:.3f} s, axes moved by hand {moved:.3f} s")
assert within > 3 * outside, "a loop is as quick as what is outside of it now"
assert moved < 2 * outside, "moving axes by hand is of no use any more"
PROGRAM
echo "as written"
