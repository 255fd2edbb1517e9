"""Colour jitter with a shift of the hue, and Gaussian blur: what mixed and masked images go through (DACS, DAFormer).

Images are [batch, height, width, 3], RGB in [0, 1], and stay there. Each image draws by a key of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.adaptation.views.colour import luma

DRAWS = 7  # uniform numbers an image: whether it is jittered, four factors, whether it is blurred and how much
TAIL = 4.0  # standard deviations after which the blur's kernel ends: less than 0.1 % of it lies beyond


def strong_photometric(
    images: jax.Array,
    keys: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    jitter_probability: float,
    blur_probability: float,
    blur_sigma: tuple[float, float],
    colours: str = "torchvision",
) -> jax.Array:
    """Jitters and blurs images, each at random.

    Args:
      images: RGB in [0, 1].
      keys: [batch] typed PRNG keys, one per global example.
      brightness, contrast, saturation: factors are uniform within 1 - x and 1 + x (DACS: 0.2).
      hue: its shift is uniform within -x and x, in turns of the colour circle (DACS: 0.2).
      jitter_probability: with which an image is jittered at all (DACS: 0.8).
      blur_probability: with which it is blurred (DACS: 0.5).
      blur_sigma: smallest and largest standard deviation of the blur, pixels (DACS: 0.15 to 1.15).
      colours: what the three factors do, 'torchvision' (`jitter`) or 'kornia' (`released_jitter`).
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key, (DRAWS,)))(keys)[..., None, None, None]
    extents = (brightness, contrast, saturation)
    factors = [1.0 + extent * (2.0 * draws[:, i + 1] - 1.0) for i, extent in enumerate(extents)]
    jittered = JITTERS[colours](images, *factors, hue * (2.0 * draws[:, 4] - 1.0))
    images = jnp.where(draws[:, 0] < jitter_probability, jittered, images)
    sigma = blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * draws[:, 6]
    blurred = gaussian_blur(images, sigma[:, 0, 0, 0], widest=blur_sigma[1])
    return jnp.where(draws[:, 5] < blur_probability, blurred, images)


def jitter(
    images: jax.Array, brightness: jax.Array, contrast: jax.Array, saturation: jax.Array, hue: jax.Array
) -> jax.Array:
    """Brightness, contrast, saturation and hue, one after the other, each cut to [0, 1], as in torchvision.

    Args:
      images: RGB in [0, 1].
      brightness: factor on all channels; contrast: on the difference to the image's mean luma; saturation: on that to
        each pixel's own; each [batch, 1, 1, 1].
      hue: shift in turns, likewise.
    """
    images = jnp.clip(images * brightness, 0.0, 1.0)
    mean = luma(images).mean(axis=(1, 2))[:, None, None, None]
    images = jnp.clip(mean + contrast * (images - mean), 0.0, 1.0)
    grey = luma(images)[..., None]
    images = jnp.clip(grey + saturation * (images - grey), 0.0, 1.0)
    return shift_hue(images, hue)


def released_jitter(
    images: jax.Array, brightness: jax.Array, contrast: jax.Array, saturation: jax.Array, hue: jax.Array
) -> jax.Array:
    """The same names in kornia until 0.6.3, which the codes of DACS, DAFormer, HRDA and MIC pin (0.5.8).

    Arguments as those of `jitter`, but what they do: brightness less one is added to all channels, contrast multiplies
    them, saturation multiplies the S of HSV. Hue is the same.
    """
    images = jnp.clip(images + (brightness - 1.0), 0.0, 1.0)
    images = jnp.clip(images * contrast, 0.0, 1.0)
    value = images.max(axis=-1, keepdims=True)
    spread = value - images.min(axis=-1, keepdims=True)
    # S is spread / value and at most 1; hue and value stay where all distances to the value grow by one factor
    factor = jnp.where(spread > 0, jnp.minimum(saturation, value / jnp.where(spread > 0, spread, 1.0)), 1.0)
    return shift_hue(value - factor * (value - images), hue)


JITTERS = {"torchvision": jitter, "kornia": released_jitter}


def shift_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of each pixel, its value and saturation in the HSV space kept.

    Args:
      images: RGB in [0, 1], [..., 3].
      turns: of the colour circle, which broadcasts to `images`.
    """
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = images.max(axis=-1)
    spread = value - images.min(axis=-1)
    divisor = jnp.where(spread > 0, spread, 1.0)
    # sixths of the circle, from red over yellow and green; where two channels are largest, both forms agree, so that
    # it does not matter how they were rounded
    without_red = jnp.where(green >= blue, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor)
    sixth = jnp.where((red >= green) & (red >= blue), (green - blue) / divisor, without_red)
    sixth = jnp.where(spread > 0, sixth, 0.0) + 6.0 * jnp.squeeze(jnp.broadcast_to(turns, (*images.shape[:-1], 1)), -1)
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = jnp.mod(offset + sixth, 6.0)
        channels.append(value - spread * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0))
    return jnp.stack(channels, axis=-1)


def gaussian_blur(images: jax.Array, sigma: jax.Array, *, widest: float) -> jax.Array:
    """Gaussian blur of each image; beyond its border an image is mirrored.

    Args:
      images: [batch, height, width, channels], each side longer than `TAIL` times `widest`.
      sigma: standard deviation of each image's blur, pixels, [batch].
      widest: the largest there is, which decides how many pixels the kernel has.
    """
    reach = min(int(np.ceil(TAIL * widest)), *(side - 1 for side in images.shape[1:3]))
    weights = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    for axis in (1, 2):
        pads = [(reach, reach) if dim == axis else (0, 0) for dim in range(4)]
        padded, length = jnp.pad(images, pads, mode="reflect"), images.shape[axis]
        images = sum(
            weights[:, tap, None, None, None] * jax.lax.slice_in_dim(padded, tap, tap + length, axis=axis)
            for tap in range(2 * reach + 1)
        )
    return images
