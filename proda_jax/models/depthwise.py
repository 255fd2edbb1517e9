"""Depthwise convolution, each channel with a kernel of its own, in the way that is quickest on each kind of device."""

import itertools
from collections.abc import Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import add_bias, initialisers
from proda_jax.models.precision import at_least_float32

PADDINGS = ("symmetric", "same")
Padding = tuple[tuple[int, int], tuple[int, int]]  # rows before and behind an image, columns before and behind it


class DepthwiseConv(nn.Module):
    """Depthwise convolution of images [batch, height, width, channels]; takes the place of `Conv` in `BatchNorm`.

    With `scale` [channels], the kernel of each channel is multiplied by it; a bias is not.

    Attributes:
      channels: of the images and of the result.
      kernel: rows and columns of the kernel, an odd number.
      stride, dilation: of both axes.
      padding: 'symmetric' as in PyTorch's models, `dilation * (kernel // 2)` zeros on each side; 'same' as in
        TensorFlow, as many as ceil(size / stride) results take, of an odd number one more behind.
      use_bias, initialisation, dtype: see `Conv`.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    use_bias: bool = False
    initialisation: str = "released"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        kernel_init, bias_init = initialisers(self.initialisation, self.kernel**2)
        kernel = self.param("kernel", kernel_init, (self.kernel, self.kernel, 1, self.channels))
        kernel = (kernel if scale is None else kernel * scale).astype(self.dtype)
        x = depthwise(x.astype(self.dtype), kernel, self.stride, self.dilation, self.padding)
        return add_bias(x, self.param("bias", bias_init, (self.channels,))) if self.use_bias else x


def depthwise(
    x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, padding: str = "symmetric"
) -> jax.Array:
    """Each channel convolved with its own kernel.

    Args:
      x: [batch, height, width, channels].
      kernel: [side, side, 1, channels], of an odd side.
      stride, dilation: of both axes.
      padding: see `DepthwiseConv`.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), channels].

    Raises:
      ValueError: another padding, an even side, or a kernel for another number of channels.
    """
    if padding not in PADDINGS:
        raise ValueError(f"depthwise convolution: padding {padding!r}, expected one of {', '.join(PADDINGS)}")
    side, _, one, channels = kernel.shape
    if side % 2 == 0 or kernel.shape != (side, side, 1, x.shape[-1]):
        raise ValueError(f"depthwise convolution: a kernel of shape {kernel.shape}, expected an odd side, once more, 1 "
                         f"and the images' {x.shape[-1]} channels")  # fmt: skip
    return _traced_once(x, kernel, stride, dilation, explicit_padding(x.shape[1:3], side, stride, dilation, padding))


def explicit_padding(size: tuple[int, int], side: int, stride: int, dilation: int, padding: str) -> Padding:
    """Rows and columns of zeros around images of this height and width, see `DepthwiseConv`."""
    reach = dilation * (side // 2)
    if padding == "symmetric":
        return (reach, reach), (reach, reach)
    # the last result's window begins (results - 1) * stride behind the first one's
    needed = [max((-(-n // stride) - 1) * stride + 2 * reach + 1 - n, 0) for n in size]
    return tuple((total // 2, total - total // 2) for total in needed)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: Padding) -> jax.Array:
    """Shifted images times numbers on CPUs, where XLA takes up to 60 times as long for a grouped convolution."""
    of = dict(stride=stride, dilation=dilation, padding=padding)
    ways = dict(cpu=partial(shifted_products, **of), default=partial(grouped_convolution, **of))
    return jax.lax.platform_dependent(x, kernel, **ways)


def _depthwise_gradient(stride, dilation, padding, kept, dy):
    of = dict(stride=stride, dilation=dilation, padding=padding)

    def by_shifts(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        dx = image_gradient(dy, kernel, x.shape[1:3], **of)
        return dx, kernel_gradient(x, dy, len(kernel), **of).astype(kernel.dtype)

    def by_groups(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(grouped_convolution, **of), x, kernel)[1](dy)

    return jax.lax.platform_dependent(*kept, dy, cpu=by_shifts, default=by_groups)


_depthwise.defvjp(
    lambda x, kernel, stride, dilation, padding: (_depthwise(x, kernel, stride, dilation, padding), (x, kernel)),
    _depthwise_gradient,
)

_traced_once = jax.jit(_depthwise, static_argnums=(2, 3, 4))  # blocks and passes that are alike have hundreds of taps


def grouped_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, dilation: int, padding: Padding) -> jax.Array:
    """`depthwise` as a convolution with a group for each channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_products(x: jax.Array, kernel: jax.Array, *, stride: int, dilation: int, padding: Padding) -> jax.Array:
    """`depthwise` as a sum over the kernel's taps of shifted images times a number for each channel."""
    side, size = len(kernel), output_size(x.shape[1:3], len(kernel), stride, dilation, padding)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    dtype = at_least_float32(x.dtype)  # of the sum
    terms = (
        strided_window(padded, (row * dilation, column * dilation), size, stride).astype(dtype) * kernel[row, column, 0]
        for row, column in taps(side)
    )
    return sum(terms).astype(x.dtype)


def image_gradient(
    dy: jax.Array, kernel: jax.Array, size: tuple[int, int], *, stride: int, dilation: int, padding: Padding
) -> jax.Array:
    """Gradient of `depthwise` for images of this height and width.

    Of every `stride`-th row and column, the gradient is a sum of shifted dy times a number for each channel; zeros put
    between the rows and columns of dy would be multiplied as well.

    Args:
      dy: gradient of the result, [batch, rows, columns, channels].
      kernel, stride, dilation, padding: as for `depthwise`.
      size: of the images.
    """
    dtype, counts = at_least_float32(dy.dtype), [-(-n // stride) for n in size]
    far = (len(kernel) - 1) * dilation
    before = [max((far - p[0] + stride - 1) // stride, 0) for p in padding]
    behind = [max(n + (stride - 1 + p[0]) // stride - m, 0)
              for n, m, p in zip(counts, dy.shape[1:3], padding, strict=True)]  # fmt: skip
    padded = jnp.pad(dy, ((0, 0), *zip(before, behind, strict=True), (0, 0)))

    def of_every(first: tuple[int, int]) -> jax.Array:
        """The gradient of every `stride`-th row and column from these on."""
        total = jnp.zeros((dy.shape[0], *counts, dy.shape[-1]), dtype)
        for tap in taps(len(kernel)):
            # image row stride * m + first is row `tap` of the window of result m + shift
            shifts = [divmod(f + p[0] - t * dilation, stride) for f, p, t in zip(first, padding, tap, strict=True)]
            if all(rest == 0 for _, rest in shifts):
                begin = tuple(shift + n for (shift, _), n in zip(shifts, before, strict=True))
                total += strided_window(padded, begin, counts, 1).astype(dtype) * kernel[tap[0], tap[1], 0]
        return total.astype(dy.dtype)

    if stride == 1:
        return of_every((0, 0))
    rows = [jnp.stack([of_every((row, column)) for column in range(stride)], 3) for row in range(stride)]
    whole = jnp.stack(rows, 2).reshape(dy.shape[0], counts[0] * stride, counts[1] * stride, -1)
    return whole[:, : size[0], : size[1]]


def kernel_gradient(
    x: jax.Array, dy: jax.Array, side: int, *, stride: int, dilation: int, padding: Padding
) -> jax.Array:
    """Gradient of the kernel of `depthwise`: for each tap, the sum over all positions of a shifted image times dy.

    One row of all images after another, so that what the taps multiply stays in the processor's cache. Rows are summed
    place by place and places at the end: XLA for CPUs makes quick loops of sums of arrays, and slow ones of sums over
    the axes of an array.

    Args:
      x: images [batch, height, width, channels].
      dy: gradient of the result, [batch, rows, columns, channels].
      side: of the kernel.
      stride, dilation, padding: as for `depthwise`.

    Returns:
      [side, side, 1, channels], in float32 at least.
    """
    dtype, (batch, rows, columns, channels) = at_least_float32(x.dtype), dy.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def one_more_row(totals: list[jax.Array], row: jax.Array) -> tuple[list[jax.Array], None]:
        of_row, sums = jax.lax.dynamic_slice_in_dim(dy, row, 1, 1).astype(dtype), []
        for tap in range(side):
            image = jax.lax.dynamic_slice_in_dim(padded, row * stride + tap * dilation, 1, 1).astype(dtype)
            shifted = (strided_window(image, (0, column * dilation), (1, columns), stride) for column in range(side))
            sums += [window * of_row for window in shifted]
        return [total + more.reshape(total.shape) for total, more in zip(totals, sums, strict=True)], None

    nothing = [jnp.zeros((batch * columns, channels), dtype)] * side**2
    totals, _ = jax.lax.scan(one_more_row, nothing, jnp.arange(rows))
    return jnp.stack([total.sum(0) for total in totals]).reshape(side, side, 1, channels)


def taps(side: int) -> Iterator[tuple[int, int]]:
    """Row and column of each place in a kernel."""
    return itertools.product(range(side), repeat=2)


def output_size(size: tuple[int, int], side: int, stride: int, dilation: int, padding: Padding) -> tuple[int, int]:
    """Height and width of what a convolution makes of images of this size."""
    return tuple((n + sum(p) - dilation * (side - 1) - 1) // stride + 1 for n, p in zip(size, padding, strict=True))


def strided_window(x: jax.Array, begin: tuple[int, int], size: tuple[int, int], stride: int) -> jax.Array:
    """Every `stride`-th row and column of images [batch, height, width, channels] from `begin` on, `size` of them."""
    rows, columns = (slice(b, b + (n - 1) * stride + 1, stride) for b, n in zip(begin, size, strict=True))
    return x[:, rows, columns]
