"""Convolution and its gradient in the ways that are quick on a CPU: as XLA has it, or as matrix products."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from proda_jax.models.precision import at_least_float32

# From these on products are quicker (docs/performance.md), of the product of both numbers of channels and the square of
# the dilation: few channels make small products, and far taps lie outside of the image, where nothing is multiplied.
LEAST = 2**17
Slices = tuple[slice, slice]  # rows and columns


def is_by_products(kernel: jax.Array, dilation: int) -> bool:
    """Whether products are quicker than a convolution by a kernel [side, side, channels, outputs]."""
    return kernel.shape[2] * kernel.shape[3] * dilation**2 >= LEAST


def convolve_by_rows(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A convolution that keeps the size of images, as a matrix product for each row of the kernel.

    A product gives what all taps of a row make of what the row meets of the images; it is moved to where it belongs
    afterwards. A product for each tap would want nine copies of parts of the images, of which XLA holds all at once.

    Args:
      x: [batch, height, width, channels].
      kernel: [side, side, channels, output channels], of an odd side.
      dilation: of both axes.

    Returns:
      [batch, height, width, output channels].
    """
    (height, width), side = x.shape[1:3], len(kernel)
    total = jnp.zeros((*x.shape[:3], kernel.shape[3]), at_least_float32(x.dtype))
    columns = {tap: met for tap in range(side) if (met := _met(width, width, tap, side, 1, dilation))}
    for row in range(side):
        if met := _met(height, height, row, side, 1, dilation):
            parts = _product("bhwi,kio->bhwko", x[:, met[0]], jnp.stack([kernel[row, column] for column in columns]))
            for number, (there, here) in enumerate(columns.values()):
                total = _add(total, parts[:, :, there, number], (met[1], here))
    return total.astype(x.dtype)


def gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """Gradient of a convolution for images and kernel, in ways that are quick within loops, too.

    XLA for CPUs has quick kernels for convolutions of one order of axes. It brings others into it, but not within
    loops: there the gradient that JAX writes takes some ten times as long as outside
    (findings/xla_cpu_convolution_gradient_in_a_loop.sh). Passes and micro-batches are iterations of loops.

    Args:
      x: images [batch, height, width, channels].
      kernel: [side, side, channels, output channels].
      dy: gradient of the result, [batch, rows, columns, output channels].
      stride, dilation: of both axes.
    """
    if stride > 1 or is_by_products(kernel, dilation):
        return gradient_by_taps(x, kernel, dy, stride, dilation)
    order, (side, reach) = ("NHWC", "HWIO", "NHWC"), (len(kernel), dilation * (len(kernel) - 1))
    pad = dilation * ((side - 1) // 2)
    behind = [m - n + reach - pad for n, m in zip(x.shape[1:3], dy.shape[1:3], strict=True)]
    dx = jax.lax.conv_general_dilated(
        dy, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), [(reach - pad, reach - rest) for rest in behind],
        rhs_dilation=(dilation, dilation), dimension_numbers=order,
    )  # fmt: skip
    dkernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (dilation, dilation), [(pad, rest) for rest in behind],
        dimension_numbers=order,
    )  # fmt: skip
    return dx, dkernel.transpose(1, 2, 0, 3)


def gradient_by_taps(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    """`gradient` as a matrix product for each tap of the kernel and either of the two."""
    dx, dkernel = jnp.zeros(x.shape, at_least_float32(x.dtype)), {}
    for tap, met, results in taps(x.shape[1:3], dy.shape[1:3], len(kernel), stride, dilation):
        dkernel[tap] = _product("bhwi,bhwo->io", x[:, *met], dy[:, *results])
        dx = _add(dx, _product("bhwo,io->bhwi", dy[:, *results], kernel[tap]), met)
    nothing = jnp.zeros(kernel.shape[2:], dx.dtype)  # of taps that meet nothing but what is filled up
    dkernel = [dkernel.get(tap, nothing) for tap in itertools.product(range(len(kernel)), repeat=2)]
    return dx.astype(x.dtype), jnp.stack(dkernel).reshape(kernel.shape).astype(kernel.dtype)


def taps(
    size: tuple[int, int], results: tuple[int, int], side: int, stride: int, dilation: int
) -> Iterator[tuple[tuple[int, int], Slices, Slices]]:
    """Each tap that meets some of an image, what it meets, and the results that this counts for.

    Args:
      size: height and width of the image.
      results: the same of the convolution's result.
      side: of the kernel.
      stride, dilation: of both axes.

    Returns:
      Iterator over (row and column in the kernel, positions in the image, positions in the result).
    """
    for tap in itertools.product(range(side), repeat=2):
        axes = [_met(n, m, t, side, stride, dilation) for n, m, t in zip(size, results, tap, strict=True)]
        if all(axes):
            yield tap, *zip(*axes, strict=True)


def _met(size: int, results: int, tap: int, side: int, stride: int, dilation: int) -> tuple[slice, slice] | None:
    """Positions along an axis that a tap meets, and of the results; None: nothing but what is filled up."""
    offset = dilation * (tap - (side - 1) // 2)  # of the first result
    first, end = max(-(offset // stride), 0), min((size - 1 - offset) // stride + 1, results)
    if first >= end:
        return None
    return slice(first * stride + offset, (end - 1) * stride + offset + 1, stride), slice(first, end)


def _add(total: jax.Array, part: jax.Array, places: Slices) -> jax.Array:
    """A part [batch, rows, columns, channels] added where it belongs."""
    if all(place.step in (None, 1) for place in places):
        begin = (0, *(place.start for place in places), 0)
        return jax.lax.dynamic_update_slice(total, total[:, *places] + part, begin)
    sides = [(at.start, n - at.stop, at.step - 1) for at, n in zip(places, total.shape[1:3], strict=True)]
    return total + jax.lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), *sides, (0, 0, 0)))


def _product(which: str, one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.einsum(which, one, other, preferred_element_type=at_least_float32(one.dtype))
