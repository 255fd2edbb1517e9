"""The discriminator of output-space alignment (AdaptSegNet, arXiv:1802.10349, with the released code's shape)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import Conv


class Discriminator(nn.Module):
    """Class probabilities [batch, height, width, classes] to domain scores [batch, height / 16, width / 16, 1]."""

    channels: tuple[int, ...] = (64, 128, 256, 512)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, probabilities: jax.Array) -> jax.Array:
        x = probabilities
        for i, channels in enumerate(self.channels, start=1):
            x = self.conv(channels, kernel=3, stride=2, name=f"conv{i}")(x)
            x = nn.relu(x) if i < len(self.channels) else nn.leaky_relu(x, 0.2)
        return self.conv(1, name="classifier")(x).astype(jnp.float32)

    def conv(self, channels: int, **kwargs) -> Conv:
        return Conv(channels, use_bias=True, initialisation="pytorch", dtype=self.dtype, **kwargs)
