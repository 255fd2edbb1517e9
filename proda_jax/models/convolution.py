"""Convolution, in the way that is quickest on each kind of device."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models import convolution_on_cpu

FAR_DILATION = 12  # from which on a convolution is taken apart on NVIDIA's GPUs


def pytorch_uniform(fan_in: int) -> Callable:
    """PyTorch's default initialisation of convolution weights and biases: uniform within 1 / sqrt(fan in)."""
    bound = fan_in**-0.5

    def initialise(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialise


def initialisers(scheme: str, fan_in: int) -> tuple[Callable, Callable]:
    """Kernel and bias initialisers of a scheme.

    Args:
      scheme: 'released' (kernels N(0, 0.01), biases as PyTorch), 'pytorch' (both as PyTorch), 'he' (for training
        from scratch: kernels keep the variance of a rectified signal, biases zero) or 'transformer' (as vision
        transformers begin: kernels N(0, 0.02) within two deviations, biases zero).
      fan_in: number of inputs that one output sums over.
    """
    if scheme == "released":
        return nn.initializers.normal(0.01), pytorch_uniform(fan_in)
    if scheme == "pytorch":
        return pytorch_uniform(fan_in), pytorch_uniform(fan_in)
    if scheme == "transformer":
        return nn.initializers.truncated_normal(0.02), nn.initializers.zeros_init()
    return nn.initializers.he_normal(), nn.initializers.zeros_init()


class Conv(nn.Module):
    """2-D convolution [batch, height, width, channels] with PyTorch's explicit padding.

    With `scale` [output channels], the kernel of each output channel is multiplied by it; a bias is not.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    initialisation: str = "released"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def weights(self, inputs: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel [side, side, inputs, channels] and bias [channels], if it has one, in float32."""
        kernel_init, bias_init = initialisers(self.initialisation, self.kernel**2 * inputs)
        kernel = self.param("kernel", kernel_init, (self.kernel, self.kernel, inputs, self.channels))
        return kernel, self.param("bias", bias_init, (self.channels,)) if self.use_bias else None

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        kernel, bias = self.weights(x.shape[-1])
        kernel = (kernel if scale is None else kernel * scale).astype(self.dtype)
        x = self.read(x)
        x = pointwise(x, kernel) if self.kernel == 1 else convolve(x, kernel, self.stride, self.dilation)
        return x if bias is None else add_bias(x, bias)

    def read(self, x: jax.Array) -> jax.Array:
        """What of x it computes on, in the type that it computes in: a 1x1 convolution reads every `stride`-th row."""
        x = x.astype(self.dtype)
        if self.kernel > 1 or self.stride == 1:
            return x
        return jax.lax.slice(x, (0,) * x.ndim, x.shape, (1, self.stride, self.stride, 1))  # indexing may be a gather


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [batch, height, width, channels] plus bias [channels], in the type of x; the bias has its gradient in its own.

    On NVIDIA's GPUs the bias is rounded to the type of x first: without that, XLA does not make one kernel of a
    convolution and its bias.
    """

    def exact(x: jax.Array, bias: jax.Array) -> jax.Array:
        return (x.astype(jnp.promote_types(x.dtype, bias.dtype)) + bias).astype(x.dtype)

    return jax.lax.platform_dependent(x, bias, cuda=add_rounded_bias, default=exact)


def add_rounded_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`add_bias` in the type of x."""
    return x + bias.astype(x.dtype)


def _add_bias_gradient(bias: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, dy.sum((0, 1, 2), jnp.promote_types(dy.dtype, bias.dtype)).astype(bias.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_gradient)


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution, as what is quicker: a matrix product, or on NVIDIA's GPUs a convolution.

    On a CPU the product is about three times as fast. XLA for GPUs pads a product to multiples of 8 rows, which copies
    most activations of a network whose images have 65 x 113 positions (docs/performance.md).

    Args:
      x: [batch, height, width, channels].
      kernel: [1, 1, channels, output channels].

    Returns:
      [batch, height, width, output channels].
    """
    return jax.lax.platform_dependent(x, kernel, cuda=_pointwise_convolution, default=pointwise_product)


def pointwise_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`pointwise` as a matrix product."""
    return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])


def _pointwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel, 1, 1)


def _pointwise_gradient(kept, dy):
    def of(way: Callable) -> Callable:
        return lambda x, kernel, dy: jax.vjp(way, x, kernel)[1](dy)

    convolution, product = map(of, (_pointwise_convolution, pointwise_product))
    return jax.lax.platform_dependent(*kept, dy, cuda=convolution, default=product)


pointwise.defvjp(lambda x, kernel: (pointwise(x, kernel), (x, kernel)), _pointwise_gradient)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Convolution padded so that it keeps the size at stride 1.

    Args:
      x: [batch, height, width, channels].
      kernel: [side, side, channels, output channels].
      stride, dilation: of both axes.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), output channels].

    Raises:
      ValueError: both stride and dilation are above 1.
    """
    if dilation == 1:
        return plain_convolution(x, kernel, stride)
    if stride > 1:
        raise ValueError(f"convolution: stride {stride} and dilation {dilation} do not go together")
    return dilated_convolution(x, kernel, dilation)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    pad = dilation * ((len(kernel) - 1) // 2)  # of 4x4, as discriminators have it, 1: stride 2 halves the size
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def plain_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution without dilation, see `convolve`. On a CPU its gradient is `convolution_on_cpu.gradient`."""
    return _convolve(x, kernel, stride, 1)


def _plain_convolution_gradient(stride, kept, dy):
    def as_one(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _convolve(x, kernel, stride, 1), x, kernel)[1](dy)

    on_cpu = partial(convolution_on_cpu.gradient, stride=stride, dilation=1)
    return jax.lax.platform_dependent(*kept, dy, cpu=on_cpu, default=as_one)


plain_convolution.defvjp(
    lambda x, kernel, stride: (plain_convolution(x, kernel, stride), (x, kernel)), _plain_convolution_gradient
)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dilated_convolution(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A dilated convolution [batch, height, width, channels] that keeps the size of images.

    On NVIDIA's GPUs it and its gradient are computed in other ways, see `convolve_apart` and `kernel_gradient_apart`,
    and in others on CPUs, see `convolution_on_cpu`.
    """
    ways = {"default": partial(_convolve, stride=1, dilation=dilation)}
    if dilation >= FAR_DILATION:
        ways["cuda"] = partial(convolve_apart, dilation=dilation)
    if len(kernel) % 2 and convolution_on_cpu.is_by_products(kernel, dilation):
        ways["cpu"] = partial(convolution_on_cpu.convolve_by_rows, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, **ways)


def _dilated_convolution_gradient(dilation, kept, dy):
    x, kernel = kept
    shape = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)

    def as_one(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        (dx,) = jax.linear_transpose(lambda x: _convolve(x, kernel, 1, dilation), x)(dy)
        return dx, kernel_gradient(x, dy, shape, dilation)

    def apart(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        way = convolve_apart if dilation >= FAR_DILATION else partial(_convolve, stride=1)
        (dx,) = jax.linear_transpose(lambda x: way(x, kernel, dilation=dilation), x)(dy)
        return dx, kernel_gradient_apart(x, dy, shape, dilation)

    on_cpu = partial(convolution_on_cpu.gradient, stride=1, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, dy, cuda=apart, cpu=on_cpu, default=as_one)


dilated_convolution.defvjp(
    lambda x, kernel, dilation: (dilated_convolution(x, kernel, dilation), (x, kernel)), _dilated_convolution_gradient
)


def convolve_apart(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A dilated convolution as plain ones: every `dilation`-th row and column make an image of their own.

    cuDNN has kernels for Hopper chips for dilations below `FAR_DILATION` alone; with them this is quicker in spite of
    the rows and columns that fill up the smaller images (docs/performance.md).

    Args:
      x: [batch, height, width, channels].
      kernel: [side, side, channels, output channels].
      dilation: of both axes.

    Returns:
      [batch, height, width, output channels].
    """
    return together(_convolve(every_nth(x, dilation), kernel, 1, 1), dilation, x.shape[1:3])


def kernel_gradient(x: jax.Array, dy: jax.Array, shape: jax.ShapeDtypeStruct, dilation: int) -> jax.Array:
    """Gradient of a dilated convolution's kernel.

    Args:
      x: [batch, height, width, channels].
      dy: gradient of the result, [batch, height, width, output channels].
      shape: shape and type of the kernel, [side, side, channels, output channels].
      dilation: of both axes.
    """
    return jax.linear_transpose(lambda kernel: _convolve(x, kernel, 1, dilation), shape)(dy)[0]


def kernel_gradient_apart(x: jax.Array, dy: jax.Array, shape: jax.ShapeDtypeStruct, dilation: int) -> jax.Array:
    """The same from plain convolutions: every `dilation`-th row and column make an image of their own.

    The convolution that a dilated kernel's gradient is has strides, and then XLA for GPUs does not recognise a kernel's
    gradient: it runs as one by a kernel as large as the image. Measured on an H100, that was 273 of the 488 ms of a
    step of stage 1.
    """
    return kernel_gradient(every_nth(x, dilation), every_nth(dy, dilation), shape, 1)


def every_nth(x: jax.Array, n: int) -> jax.Array:
    """The n x n images of every n-th row and column of each image, zeros where there are fewer.

    Args:
      x: [batch, height, width, channels].
      n: distance between two rows or columns of one image.

    Returns:
      [batch * n * n, ceil(height / n), ceil(width / n), channels].
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // n), -(-width // n)
    x = jnp.pad(x, ((0, 0), (0, rows * n - height), (0, columns * n - width), (0, 0)))
    x = x.reshape(batch, rows, n, columns, n, channels).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(batch * n * n, rows, columns, channels)


def together(x: jax.Array, n: int, size: tuple[int, int]) -> jax.Array:
    """Undoes `every_nth`.

    Args:
      x: [batch * n * n, ceil(height / n), ceil(width / n), channels].
      n: distance between two rows or columns of one image.
      size: (height, width) of the images that were taken apart.

    Returns:
      [batch, height, width, channels].
    """
    rows, columns, channels = x.shape[1:]
    x = x.reshape(-1, n, n, rows, columns, channels).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, rows * n, columns * n, channels)[:, : size[0], : size[1]]
