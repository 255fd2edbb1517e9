"""A transposed convolution that makes four positions of each."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from proda_jax.models.convolution import initialisers


class Upsampling(nn.Module):
    """Transposed convolution by 2x2 kernels with stride 2: [batch, h, w, channels] to [batch, 2 h, 2 w, channels].

    As no two kernels overlap, it is one matrix product. The kernel is [2, 2, output channels, input channels]; there is
    no bias.
    """

    channels: int
    initialisation: str = "transformer"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, inputs = x.shape
        kernel_init, _ = initialisers(self.initialisation, inputs)
        kernel = self.param("kernel", kernel_init, (2, 2, self.channels, inputs)).astype(x.dtype)
        return jnp.einsum("bhwi,yxoi->bhywxo", x, kernel).reshape(batch, 2 * height, 2 * width, self.channels)
