"""Colour operations of FixMatch's RandAugment pool, as Pillow computes them, and colour jitter.

The pool's images are [height, width, 3] float32 of whole grey levels 0..255, and stay so. A level is 1..9 (of 10).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # ITU-R 601, in Pillow's fixed-point digits


def luma(image: jax.Array) -> jax.Array:
    """Brightness of each pixel, not rounded: [..., 3] to [...]."""
    return image[..., 0] * LUMA[0] + image[..., 1] * LUMA[1] + image[..., 2] * LUMA[2]


def round_levels(values: jax.Array) -> jax.Array:
    """The nearest whole grey level, halves upwards."""
    return jnp.floor(values + 0.5)


def autocontrast(image: jax.Array, level: jax.Array) -> jax.Array:
    """Stretches each channel to 0..255; a channel of one single level stays."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    stretched = jnp.floor(255.0 * (image - low) / jnp.maximum(high - low, 1.0))
    return jnp.where(high > low, stretched, image)


def brightness(image: jax.Array, level: jax.Array) -> jax.Array:
    """Blends the image with black."""
    return _blend(jnp.zeros_like(image), image, level)


def colour(image: jax.Array, level: jax.Array) -> jax.Array:
    """Blends the image with its own grey version (saturation)."""
    return _blend(round_levels(luma(image))[..., None], image, level)


def contrast(image: jax.Array, level: jax.Array) -> jax.Array:
    """Blends the image with its mean grey level."""
    return _blend(round_levels(round_levels(luma(image)).mean()), image, level)


def sharpness(image: jax.Array, level: jax.Array) -> jax.Array:
    """Blends the image with a 3x3 smoothed one, whose border is left as it is."""
    height, width = image.shape[:2]
    neighbours = sum(
        image[row : row + height - 2, column : column + width - 2] for row in range(3) for column in range(3)
    )
    smooth = round_levels((neighbours + 4.0 * image[1:-1, 1:-1]) / 13.0)
    return _blend(image.at[1:-1, 1:-1].set(smooth), image, level)


def equalize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Spreads each channel's levels so that all are about equally frequent."""
    pixels = image.reshape(-1, 3).astype(jnp.int32)
    counts = histogram(pixels)
    last = jnp.take_along_axis(counts, pixels.max(axis=0)[:, None], axis=1)
    step = (len(pixels) - last) // 255  # [3, 1]
    below = jnp.cumsum(counts, axis=1) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step == 0, jnp.arange(256), table)  # too few pixels to spread
    return jnp.take_along_axis(table.T, pixels, axis=0).reshape(image.shape).astype(image.dtype)


def identity(image: jax.Array, level: jax.Array) -> jax.Array:
    """Leaves the image as it is."""
    return image


def posterize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Keeps the highest 4 + int(0.4 level) bits."""
    step = 1 << (4 - level * 2 // 5)
    return jnp.floor(image / step) * step


def solarize(image: jax.Array, level: jax.Array) -> jax.Array:
    """Inverts the levels from 256 - 25.6 level upwards."""
    return jnp.where(image < 256 - level * 256 // 10, image, 255.0 - image)


OPERATIONS: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (
    autocontrast, brightness, colour, contrast, equalize, identity, posterize, sharpness, solarize,
)  # fmt: skip


def apply_operation(image: jax.Array, operation: jax.Array, level: jax.Array) -> jax.Array:
    """Applies `OPERATIONS[operation]`; only that one runs, unless the call is under `jax.vmap`.

    Args:
      image: [height, width, 3] float32, whole grey levels 0..255.
      operation: int32 index into `OPERATIONS`.
      level: int32, 1..9.

    Returns:
      The changed image, again in whole grey levels.
    """
    return jax.lax.switch(operation, OPERATIONS, image, level)


def jitter_colour(
    image: jax.Array, keys: jax.Array, *, brightness: float, contrast: float, saturation: float, white_balance: float
) -> jax.Array:
    """Photometric jitter: each factor is drawn uniformly from 1 - extent to 1 + extent; extent 0 changes nothing.

    Args:
      image: [batch, height, width, 3] float32, 0..255.
      keys: [batch] typed PRNG keys, one per global example.
      brightness: extent of the factor on all channels.
      contrast: extent of the factor on the difference to the image's mean brightness.
      saturation: extent of the factor on the difference to each pixel's own brightness.
      white_balance: extent of the factor on each channel by itself.

    Returns:
      The jittered image, same shape, clipped to 0..255.
    """

    def jitter(image: jax.Array, key: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
        image = image * (1 + brightness * draws[0]) * (1 + white_balance * draws[3:])
        image += contrast * draws[1] * (image - luma(image).mean())
        image += saturation * draws[2] * (image - luma(image)[..., None])
        return jnp.clip(image, 0.0, 255.0)

    return jax.vmap(jitter)(image, keys)


def sometimes_grey(image: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """The image, or with this probability its own grey version.

    Args:
      image: [batch, height, width, 3] float32, 0..255.
      keys: [batch] typed PRNG keys, one per global example.
      probability: of grey.
    """
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)
    return jnp.where(chosen[:, None, None, None], luma(image)[..., None], image)


def histogram(pixels: jax.Array) -> jax.Array:
    """Counts of each level: [pixels, channels] int32 in 0..255 to [channels, 256] int32.

    A level is two hexadecimal digits, so that the counts are one small matrix product: scattering is slow on a CPU.
    """
    high, low = jax.nn.one_hot(pixels // 16, 16), jax.nn.one_hot(pixels % 16, 16)
    counts = jnp.einsum("pci,pcj->cij", high, low, preferred_element_type=jnp.float32)
    return counts.reshape(-1, 256).astype(jnp.int32)


def _blend(degenerate: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Moves from `degenerate` towards `image` by 0.05 + 0.09 level, rounded down as in Pillow's `Image.blend`."""
    factor = 0.05 + 0.09 * level.astype(jnp.float32)
    return jnp.floor(degenerate + factor * (image - degenerate))
