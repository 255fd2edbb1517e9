"""Networks that translate images between two domains, and those that judge them (CycleGAN, Zhu et al., ICCV 2017).

Images in here are RGB in [-1, 1], [batch, height, width, 3].
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import add_bias
from proda_jax.models.deeplab import NO_AUXILIARY
from proda_jax.models.precision import at_least_float32

TO_TARGET, TO_SOURCE = "to_target", "to_source"  # the two generators, by what they make images look like
TRANSLATION = "translation"  # what cards call their 'head'
SMALLEST = 4  # pixels: sides are multiples of it


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each channel of each image minus its mean, over its deviation; [batch, height, width, channels]."""
    values = x.astype(at_least_float32(x.dtype))
    mean, var = values.mean((1, 2), keepdims=True), values.var((1, 2), keepdims=True)
    return ((values - mean) * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


def reflection_pad(x: jax.Array, pad: int) -> jax.Array:
    """x [batch, height, width, channels] with mirrored margins of `pad` pixels, the edge itself not repeated."""
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")


class Convolution(nn.Module):
    """A convolution, kernels N(0, 0.02) as CycleGAN begins.

    Attributes:
      channels: of its result.
      kernel, stride, pad: side, step, and margin of zeros in pixels.
      double: whether it is transposed, with stride 2, and doubles the size (PyTorch's padding 1 and output padding 1).
      use_bias: without one before a normalisation, which takes it off again: its gradient is rounding alone, of which
        Adam makes whole steps.
      dtype: type that it computes in.
    """

    channels: int
    kernel: int
    stride: int = 1
    pad: int = 0
    double: bool = False
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        margins = (self.kernel - 2, self.kernel - 1) if self.double else (self.pad, self.pad)
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (self.stride, self.stride), (margins, margins),
            lhs_dilation=(2, 2) if self.double else None, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        if not self.use_bias:
            return x
        return add_bias(x, self.param("bias", nn.initializers.zeros_init(), (self.channels,)))


class Generator(nn.Module):
    """Images to images of the other domain: two halvings, residual blocks, two doublings, tanh (Johnson et al., 2016).

    Attributes:
      channels: of the first convolution; four times as many in the blocks.
      blocks: number of residual blocks (9).
      dtype: type that convolutions compute in.
    """

    channels: int = 64
    blocks: int = 9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [batch, height, width, 3], sides multiples of `SMALLEST`, to such of the other domain."""

        def normed(x: jax.Array, channels: int, name: str, **how: Any) -> jax.Array:
            return instance_norm(Convolution(channels, name=name, use_bias=False, dtype=self.dtype, **how)(x))

        c = self.channels
        x = nn.relu(normed(reflection_pad(images, 3), c, "first", kernel=7))
        for i in (1, 2):
            x = nn.relu(normed(x, c * 2**i, f"halve{i}", kernel=3, stride=2, pad=1))
        for i in range(1, 1 + self.blocks):
            inner = nn.relu(normed(reflection_pad(x, 1), 4 * c, f"block{i}_conv1", kernel=3))
            x = x + normed(reflection_pad(inner, 1), 4 * c, f"block{i}_conv2", kernel=3)
        for i in (1, 2):
            x = nn.relu(normed(x, 4 * c // 2**i, f"double{i}", kernel=3, double=True))
        x = Convolution(3, kernel=7, name="last", dtype=self.dtype)(reflection_pad(x, 3))
        return jnp.tanh(x.astype(at_least_float32(self.dtype)))


class PatchDiscriminator(nn.Module):
    """Images to a score of each patch, [batch, h, w, 1] (PatchGAN, Isola et al., CVPR 2017).

    Attributes:
      channels: of the 4x4 convolutions before the last, of which all but the last of these halve the size (64, 128,
        256, 512: patches of 70 pixels).
      dtype: type that convolutions compute in.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for i, channels in enumerate(self.channels, start=1):
            stride = 1 if i == len(self.channels) else 2
            x = Convolution(
                channels, kernel=4, stride=stride, pad=1, use_bias=i == 1, name=f"conv{i}", dtype=self.dtype
            )(x)
            x = nn.leaky_relu(x if i == 1 else instance_norm(x), 0.2)
        scores = Convolution(1, kernel=4, pad=1, name="classifier", dtype=self.dtype)(x)
        return scores.astype(at_least_float32(self.dtype))


class Translator(nn.Module):
    """Two generators, parameters 'to_target' and 'to_source', where other stages have a segmentation network.

    Attributes:
      channels, blocks, dtype: see `Generator`.
      axis_name: mapped axis over the devices, or None.
    """

    head: ClassVar[str] = TRANSLATION
    auxiliary_head: ClassVar[str] = NO_AUXILIARY
    extra_norm: ClassVar[bool] = False

    channels: int = 64
    blocks: int = 9
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    def init(self, *args: Any, **kwargs: Any) -> dict:
        """Variables {'params', 'batch_stats'} as other networks have them; of the latter there are none."""
        return {"batch_stats": {}} | super().init(*args, **kwargs)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images as either domain would have them; training takes the generators one by one, see `translate`."""
        del train  # instance normalisation is the same
        made = (Generator(self.channels, self.blocks, self.dtype, name=name) for name in (TO_TARGET, TO_SOURCE))
        first, second = (generator(images) for generator in made)
        return first, second

    def translate(self, params: Any, which: str, images: jax.Array) -> jax.Array:
        """Images of one domain as the generator `which` would have them; `params`: of both."""
        return Generator(self.channels, self.blocks, self.dtype, parent=None).apply({"params": params[which]}, images)


def translated(
    model: Translator, params: Any, images: jax.Array, *, window: tuple[int, int] = (), overlap: float = 0.25
) -> jax.Array:
    """Whole source images as the target would look.

    Args:
      model, params: the network; parameters of both generators.
      images: uint8 [batch, height, width, 3], RGB.
      window: height and width of the crops in which they are translated; () or larger than an image: in one piece.
      overlap: least share that neighbouring crops have in common, blended with weights that fall towards their edges.

    Returns:
      uint8, the shape of `images`.
    """
    size = images.shape[1:3]
    x = images.astype(jnp.float32) / 127.5 - 1.0
    sides = [min(side, wanted) for side, wanted in zip(size, window or size, strict=True)]
    sides = [-(-side // SMALLEST) * SMALLEST for side in sides]
    more = [max(side - own, 0) for side, own in zip(sides, size, strict=True)]  # mirrored, up to a multiple of four
    x = jnp.pad(x, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="reflect")
    rows, columns = (starts(length, side, overlap) for length, side in zip(x.shape[1:3], sides, strict=True))
    places = [(row, column) for row in rows for column in columns]
    height, width = sides
    crops = jnp.stack([x[:, row : row + height, column : column + width] for row, column in places])
    made = jax.lax.map(lambda crop: model.translate(params, TO_TARGET, crop), crops)
    weight = (tent(height)[:, None] * tent(width))[..., None]
    total, weights = jnp.zeros(x.shape, made.dtype), jnp.zeros((*x.shape[1:3], 1))
    for (row, column), crop in zip(places, made, strict=True):
        rows_of, columns_of = slice(row, row + height), slice(column, column + width)
        total = total.at[:, rows_of, columns_of].add(weight * crop)
        weights = weights.at[rows_of, columns_of].add(weight)
    blended = (total / weights)[:, : size[0], : size[1]]
    return jnp.round(jnp.clip((blended + 1.0) * 127.5, 0.0, 255.0)).astype(jnp.uint8)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where crops of `side` pixels begin that cover `length`, evenly, and have at least `overlap` of it in common."""
    if side >= length:
        return [0]
    step = max(int(side * (1.0 - overlap)), 1)
    count = -(-(length - side) // step)
    return [round(i * (length - side) / count) for i in range(count + 1)]


def tent(side: int) -> jax.Array:
    """Weights [side] that rise from an edge to the middle, and are nowhere zero."""
    return jnp.minimum(jnp.arange(1, side + 1), jnp.arange(side, 0, -1)) / side
