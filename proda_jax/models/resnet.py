"""ResNet with bottleneck blocks at output stride 8, as DeepLabv2 uses it (arXiv:1606.00915, arXiv:1512.03385)."""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm

EXPANSION = 4  # output channels of a bottleneck over its inner channels
OUTPUT_STRIDE = 8
STAGE_STRIDES = (1, 2, 1, 1)
STAGE_DILATIONS = (1, 1, 2, 4)  # what the last two stages lose in stride they gain in dilation
RESNET101 = (3, 4, 23, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride sits in the first 1x1, as in the released code."""

    channels: int
    stride: int
    dilation: int
    project: bool
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if self.project:
            conv = self.conv(EXPANSION * self.channels, stride=self.stride, name="downsample_conv")
            shortcut = self.norm(name="downsample_bn")(x, conv=conv)
        conv = self.conv(self.channels, stride=self.stride, name="conv1")
        x = self.norm(rectify=True, name="bn1")(x, conv=conv)
        conv = self.conv(self.channels, kernel=3, dilation=self.dilation, name="conv2")
        x = self.norm(rectify=True, name="bn2")(x, conv=conv)
        conv = self.conv(EXPANSION * self.channels, name="conv3")
        return self.norm(rectify=True, name="bn3")(x, shortcut, conv=conv)


class ResNet(nn.Module):
    """RGB images [batch, height, width, 3] to features [batch, ~height / 8, ~width / 8, 32 * width].

    With `recompute`, the backward pass keeps what goes into each block and computes what is inside once more.
    """

    depths: tuple[int, ...]
    width: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    recompute: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bottleneck = nn.remat(Bottleneck) if self.recompute else Bottleneck
        conv = self.conv(self.width, kernel=7, stride=2, name="conv1")
        x = max_pool(self.norm(rectify=True, name="bn1")(x, conv=conv))
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = bottleneck(
                    channels=self.width * 2**stage,
                    stride=STAGE_STRIDES[stage] if block == 0 else 1,
                    dilation=STAGE_DILATIONS[stage],
                    project=block == 0,
                    conv=self.conv,
                    norm=self.norm,
                    name=f"layer{stage + 1}_{block}",
                )(x)
        return x


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pool with stride 2 and padding 1 that rounds its output size up (512 x 896 images give 65 x 113).

    The gradient goes to the first of the largest, as in PyTorch. XLA's own scatters it, which neither CPUs nor GPUs are
    quick at; here each of the nine taps of a window takes its part.
    """
    return nn.max_pool(x, (3, 3), (2, 2), pool_padding(x))


def pool_padding(x: jax.Array) -> list[tuple[int, int]]:
    """Rows and columns beside images [batch, height, width, channels]: one before, one or two behind."""
    return [(1, 1 + (size + 1) % 2) for size in x.shape[1:3]]


def _max_pool_gradient(kept, dy):
    x, largest = kept
    padding, zero = pool_padding(x), jnp.zeros((), dy.dtype)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    spans = [2 * size - 1 for size in dy.shape[1:3]]  # rows and columns from a tap's first to its last
    is_left, dx = jnp.ones(dy.shape, bool), jnp.zeros_like(padded)
    for tap in itertools.product(range(3), repeat=2):
        values = padded[:, *(slice(first, first + span, 2) for first, span in zip(tap, spans, strict=True))]
        is_here = is_left & (values == largest)
        is_left &= ~is_here
        beside = [(first, size - first - span, 1)
                  for first, size, span in zip(tap, padded.shape[1:3], spans, strict=True)]  # fmt: skip
        dx += jax.lax.pad(jnp.where(is_here, dy, zero), zero, ((0, 0, 0), *beside, (0, 0, 0)))
    within = [slice(before, before + size) for (before, _), size in zip(padding, x.shape[1:3], strict=True)]
    return (dx[:, *within],)


def _max_pool(x):
    largest = max_pool(x)
    return largest, (x, largest)


max_pool.defvjp(_max_pool, _max_pool_gradient)


def output_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the feature map that an image of this size gives."""

    def shrink(size: int) -> int:
        stem = (size - 1) // 2 + 1
        pooled = stem // 2 + 1
        return (pooled - 1) // 2 + 1

    return shrink(image_size[0]), shrink(image_size[1])


