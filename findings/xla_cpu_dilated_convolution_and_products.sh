#!/usr/bin/env bash
# XLA for CPUs, dilated 3x3 convolutions of many channels (DeepLab's), and nine matrix products in their place.
#
# Guess, before it was run: a convolution is at least as quick as a matrix product for each of its nine taps, which write
# and add up nine arrays in place of one; its gradient takes twice as long as itself.
# Seen: forward the two are level, and the gradient as JAX writes it takes more than twice as long as products, at the
# sizes of a ResNet's last groups. Of a far dilation most taps meet nothing but zeros beside the image; products can leave
# those out, the convolution multiplies them, so that it is slower forward, too.
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
from functools import partial

import jax
import jax.numpy as jnp

HEIGHT, WIDTH = 65, 113


def convolve(x, k, dilation):
    pad = ((dilation, dilation),) * 2
    return jax.lax.conv_general_dilated(
        x, k, (1, 1), pad, rhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def met(n, shift):
    first, end = max(-shift, 0), n - max(shift, 0)
    return slice(first + shift, end + shift), slice(first, end)


def taps(dilation):
    for row in range(3):
        for column in range(3):
            (y, top), (x, left) = met(HEIGHT, (row - 1) * dilation), met(WIDTH, (column - 1) * dilation)
            yield row, column, (slice(None), y, x), (slice(None), top, left)


def forward(x, k, dilation):
    total = jnp.zeros((*x.shape[:3], k.shape[3]))
    for row, column, there, here in taps(dilation):
        part = total[here] + x[there] @ k[row, column]
        total = jax.lax.dynamic_update_slice(total, part, (0, here[1].start, here[2].start, 0))
    return total


def as_jax_has_it(x, k, dy, dilation):
    return jax.vjp(partial(convolve, dilation=dilation), x, k)[1](dy)


def by_products(x, k, dy, dilation):
    of_kernel = [jnp.einsum("bhwi,bhwo->io", x[there], dy[here]) for *_, there, here in taps(dilation)]
    return forward(dy, k[::-1, ::-1].swapaxes(2, 3), dilation), jnp.stack(of_kernel).reshape(k.shape)


def ratio(one, other, given):
    taken = {one: [], other: []}
    results = [jax.tree.leaves(jax.jit(way)(*given)) for way in (one, other)]
    for a, b in zip(*results):
        assert jnp.allclose(a, b, rtol=1e-3, atol=1e-3 * jnp.abs(a).max())
    compiled = {way: jax.jit(way) for way in taken}
    for _ in range(4):
        for way, run in compiled.items():
            begin = time.process_time()
            jax.block_until_ready(run(*given))
            taken[way].append(time.process_time() - begin)
    return statistics.median(taken[one][1:]) / statistics.median(taken[other][1:])


for channels, dilation, gradients in ((256, 2, 1.5), (512, 4, 1.5), (256, 24, None)):
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (jax.random.normal(key, (1, HEIGHT, WIDTH, channels)) for key in keys[:2])
    k = jax.random.normal(keys[2], (3, 3, channels, channels))
    once = ratio(partial(convolve, dilation=dilation), partial(forward, dilation=dilation), (x, k))
    line = f"{channels} channels, dilation {dilation}: a convolution takes {once:.2f} of nine products' time"
    if gradients:
        back = ratio(partial(as_jax_has_it, dilation=dilation), partial(by_products, dilation=dilation), (x, k, dy))
        line += f", its gradient {back:.2f}"
        assert back > gradients, "the gradient is as quick as products now"
    else:
        assert once > 1.2, "what lies beside the image costs nothing any more"
    print(line)
PROGRAM
echo "as written"
