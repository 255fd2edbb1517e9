"""Discriminators: from maps of what a network says, or of its features, to scores of which domain they are of."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv
from proda_jax.models.moments import at_least_float32


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


# by the name that `discriminator` chooses; made with channels, dtype and outputs
DISCRIMINATORS = {
    # of the released code of ProDA: 3x3 with stride 2 and a 1x1, a sixteenth of the size
    "released": Discriminator,
    # of AdaptSegNet (arXiv:1802.10349), ADVENT, CLAN and BDL: five of 4x4 with stride 2, a thirty-second of the size
    "fully_convolutional": partial(Discriminator, kernel=4, last=(4, 2), leaky=True),
    # of FADA (arXiv:2007.09222): 3x3 with stride 1, a score at each position
    "pixelwise": partial(Discriminator, stride=1, last=(3, 1), leaky=True),
}
