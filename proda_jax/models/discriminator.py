"""Discriminators: from maps of a network's predictions, or of its features, to scores of which domain they are of."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.precision import at_least_float32

SCALES, BLOCKS = 3, 4  # networks of `MultiScale`, and residual blocks of each


class Discriminator(nn.Module):
    """Maps [batch, height, width, channels] to domain scores [batch, h, w, outputs].

    Attributes:
      channels: of each convolution before the last.
      dtype: type that convolutions compute in.
      outputs: scores of each position: one, of the domain, or one for each (domain, class), see `adversary`.
      kernel, stride: of each convolution before the last; `last`: those of the last.
      leaky: whether all rectifiers leak (by 0.2), or that before the last convolution alone (released code).
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    dtype: jnp.dtype = jnp.float32
    outputs: int = 1
    kernel: int = 3
    stride: int = 2
    last: tuple[int, int] = (1, 1)
    leaky: bool = False

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        x = maps
        for i, channels in enumerate(self.channels, start=1):
            x = self.conv(channels, kernel=self.kernel, stride=self.stride, name=f"conv{i}")(x)
            x = nn.leaky_relu(x, 0.2) if self.leaky or i == len(self.channels) else nn.relu(x)
        kernel, stride = self.last
        scores = self.conv(self.outputs, kernel=kernel, stride=stride, name="classifier")(x)
        return scores.astype(at_least_float32(self.dtype))

    def conv(self, channels: int, **kwargs) -> Conv:
        return Conv(channels, use_bias=True, initialisation="pytorch", dtype=self.dtype, **kwargs)


class MultiScale(nn.Module):
    """Three networks with residual blocks, each of which sees maps of half the size (Seg-Uncertainty's code).

    It gives a tuple of scores [batch, h, w, outputs], from the finest.

    Attributes:
      channels: of the first convolutions, every second of which keeps the size; the last's are those of the blocks.
      dtype: type that convolutions compute in.
      outputs: scores of each position.
    """

    channels: tuple[int, ...] = (32, 32, 32, 32, 64)
    dtype: jnp.dtype = jnp.float32
    outputs: int = 1

    @nn.compact
    def __call__(self, maps: jax.Array) -> tuple[jax.Array, ...]:
        scores = []
        for scale in range(SCALES):
            if scale:
                maps = nn.avg_pool(maps, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)
            scores.append(self.judged(maps, f"scale{scale}"))
        return tuple(scores)

    def judged(self, x: jax.Array, name: str) -> jax.Array:
        conv = partial(Conv, use_bias=True, initialisation="pytorch", dtype=self.dtype)
        for i, channels in enumerate(self.channels, start=1):
            x = nn.leaky_relu(conv(channels, kernel=3, stride=1 + i % 2, name=f"{name}_conv{i}")(x), 0.2)
        for i in range(1, 1 + BLOCKS):
            inner = nn.leaky_relu(conv(x.shape[-1], kernel=3, name=f"{name}_block{i}_conv1")(x), 0.2)
            x = x + conv(x.shape[-1], kernel=3, name=f"{name}_block{i}_conv2")(inner)
        return conv(self.outputs, name=f"{name}_classifier")(x).astype(at_least_float32(self.dtype))


class PatchModes(nn.Module):
    """Class probabilities to scores of the mode that each patch is of (PatchAlign, Tsai et al., ICCV 2019).

    The means of a patch's four quarters, as modes have them, a convolution over these, and a 1x1 convolution. That the
    module pools to patches is the paper's; the quarters are our reading.

    Attributes:
      modes: number of them.
      patch: height and width of a patch, pixels, even; it divides the image's.
      channels: between the two convolutions.
      dtype: type that convolutions compute in.
    """

    modes: int
    patch: tuple[int, int]
    channels: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, probabilities: jax.Array) -> jax.Array:
        """[batch, height, width, classes] to [batch, rows, columns, modes]."""
        conv = partial(Conv, use_bias=True, initialisation="pytorch", dtype=self.dtype)
        quarter = tuple(side // 2 for side in self.patch)
        x = nn.avg_pool(probabilities, quarter, quarter)
        x = nn.leaky_relu(conv(self.channels, kernel=2, stride=2, name="conv1")(x), 0.2)
        return conv(self.modes, name="classifier")(x).astype(at_least_float32(self.dtype))


# by the name that `discriminator` chooses; made with channels, dtype and outputs
DISCRIMINATORS = {
    # of the released code of ProDA: 3x3 with stride 2 and a 1x1, a sixteenth of the size
    "released": Discriminator,
    # of AdaptSegNet (arXiv:1802.10349), ADVENT, CLAN and BDL: five of 4x4 with stride 2, a thirty-second of the size
    "fully_convolutional": partial(Discriminator, kernel=4, last=(4, 2), leaky=True),
    # of FADA (arXiv:2007.09222): 3x3 with stride 1, a score at each position
    "pixelwise": partial(Discriminator, stride=1, last=(3, 1), leaky=True),
    # of Seg-Uncertainty (arXiv:1912.11164): three networks, the finest score for eight pixels in a row
    "multi_scale": MultiScale,
}
