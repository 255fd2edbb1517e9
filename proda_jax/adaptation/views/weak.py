"""Weak views: a random scale, crop and flip of each image, and what labels, soft labels and features show in it."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.adaptation.views import colour
from proda_jax.adaptation.views.common import EXACT, GREY, Size, integer_below
from proda_jax.data.label_spaces import IGNORE


@flax.struct.dataclass
class WeakView:
    """One random scaled, cropped and flipped part of each image.

    Attributes:
      scaled_size: [batch, 2] int32, height and width of the image after the random scale.
      offset: [batch, 2] int32, top and left of the crop in the scaled image.
      flip: [batch] bool, whether the crop is mirrored left-right.
    """

    scaled_size: jax.Array
    offset: jax.Array
    flip: jax.Array


def draw_weak_view(
    keys: jax.Array, image_size: Size, crop_size: Size, *, base_width: float, scale: tuple[float, float], flip: bool
) -> WeakView:
    """Draws a weak view for each example (released code: base width 2200, scale 0.5 to 1.5).

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      image_size: height and width of the images.
      crop_size: height and width of the crop.
      base_width: width in pixels to which scale 1 brings the image, 0 for its own; the aspect is kept.
      scale: the range of the uniform random scale.
      flip: whether crops are mirrored with probability 0.5.

    Returns:
      The views. Where a scaled image is smaller than the crop, its offset is zero.
    """

    base_width = base_width or image_size[1]

    def draw(key: jax.Array) -> WeakView:
        draws = jax.random.uniform(key, (4,))
        width = (base_width * (scale[0] + draws[0] * (scale[1] - scale[0]))).astype(jnp.int32)
        scaled_size = jnp.maximum(jnp.stack([image_size[0] * width // image_size[1], width]), 1)
        room = jnp.maximum(scaled_size - jnp.asarray(crop_size), 0)
        return WeakView(scaled_size, integer_below(room + 1, draws[1:3]), (draws[3] < 0.5) & flip)

    return jax.vmap(draw)(keys)


def weak_image(image: jax.Array, view: WeakView, crop_size: Size) -> jax.Array:
    """The image in the weak view, resized as Pillow's BILINEAR does (antialiased when shrinking; columns, then rows).

    Weights are whole multiples of 2^-16 of quotients of whole numbers, so that every sum is exact in float32: a level
    that fell just below a half on one number of devices and above on another would be another image.

    Args:
      image: [batch, image height, image width, 3] uint8.
      view: the weak views.
      crop_size: height and width of the crop.

    Returns:
      [batch, height, width, 3] float32, whole grey levels 0..255; grey outside the image.
    """
    levels = image.astype(jnp.float32)
    for axis, apply in ((1, "bwW,bHWc->bHwc"), (0, "bhH,bHwc->bhwc")):
        index = _scaled_index(view, axis, crop_size, crop_size).astype(jnp.int32)
        triangle = whole_triangles(index, view.scaled_size[:, axis, None], image.shape[1 + axis])
        total = jnp.maximum(triangle.sum(axis=-1, keepdims=True), 1)
        weights = triangle.astype(jnp.float32) / total.astype(jnp.float32)
        weights = jnp.round(weights * 2.0**16) / 2.0**16
        levels = colour.round_levels(_weighted_levels(weights, levels, apply))
    inside = weak_inside(view, crop_size, crop_size)
    return jnp.where(inside[..., None], levels, GREY)


def whole_triangles(index: jax.Array, scaled: jax.Array, length: int) -> jax.Array:
    """Pillow's triangle filter in whole numbers, in proportion to what the pixels weigh.

    Pixel j, of `length`, lies |j - (index + 1/2) length / scaled + 1/2| from the middle of pixel `index`, of `scaled`,
    and weighs something below the distance max(length / scaled, 1); here both are 2 `scaled` times that.

    Args:
      index: of the scaled image, int32 [batch, output].
      scaled: its pixels, int32 [batch, 1].
      length: pixels of the image.

    Returns:
      int32 [batch, output, length].
    """
    middle = ((2 * index + 1) * length - scaled)[..., None]
    away = jnp.abs(2 * scaled[..., None] * jnp.arange(length) - middle)
    return jnp.maximum(2 * jnp.maximum(length, scaled)[..., None] - away, 0)


def _weighted_levels(weights: jax.Array, levels: jax.Array, apply: str) -> jax.Array:
    """Exact sums of whole grey levels 0..255, weighted by multiples of 2^-16 between 0 and 1.

    Args:
      weights: [batch, length, height or width].
      levels: [batch, height, width, 3].
      apply: the product of the two for `einsum`, which sums over one axis of the images.

    Returns:
      float32, `levels` with that axis of `length`.
    """
    return jax.lax.platform_dependent(
        weights,
        levels,
        cuda=functools.partial(products_of_halves, apply),
        tpu=functools.partial(products_of_halves, apply),
        default=lambda weights, levels: jnp.einsum(apply, weights, levels, precision=EXACT),
    )


def products_of_halves(apply: str, weights: jax.Array, levels: jax.Array) -> jax.Array:
    """`_weighted_levels` as two products of bfloat16, which matrix units are quick at.

    bfloat16 has eight binary digits. A level fits into them, and so do the upper and the lower eight of a weight.
    """
    upper = jnp.floor(weights * 2.0**8) / 2.0**8
    halves, levels = (upper, weights - upper), levels.astype(jnp.bfloat16)
    return sum(
        jnp.einsum(apply, half.astype(jnp.bfloat16), levels, preferred_element_type=jnp.float32) for half in halves
    )


def weak_label(label: jax.Array, view: WeakView, crop_size: Size) -> jax.Array:
    """The label map in the weak view, resized as Pillow's NEAREST does.

    Args:
      label: [batch, image height, image width] integer class indices.
      view: the weak views.
      crop_size: height and width of the crop.

    Returns:
      [batch, height, width] int32; `IGNORE` outside the image.
    """
    indices = []
    for axis in (0, 1):
        index = _scaled_index(view, axis, crop_size, crop_size).astype(jnp.int32)
        length = label.shape[1 + axis]
        source = (2 * index + 1) * length // (2 * view.scaled_size[:, axis, None])
        indices.append(jnp.clip(source, 0, length - 1))
    crop = jax.vmap(lambda values, rows, columns: values[rows[:, None], columns])(label, *indices)
    return jnp.where(weak_inside(view, crop_size, crop_size), crop.astype(jnp.int32), IGNORE)


def weak_soft_label(soft: jax.Array, view: WeakView, image_size: Size, crop_size: Size, output_size: Size) -> jax.Array:
    """Soft labels, kept on a coarser grid than the image, in the weak view.

    The grid's corners are the image's corners, the output's are the crop's, as everywhere in this model family.

    Args:
      soft: [batch, grid height, grid width, classes] probabilities of the whole image.
      view: the weak views.
      image_size: height and width of the image.
      crop_size: height and width of the crop in pixels.
      output_size: height and width of the result (a quarter of the crop in the released code).

    Returns:
      [batch, output height, output width, classes] float32, summing to one over classes where `soft` does. What lies
      outside the image (see `weak_inside`) repeats its border.
    """
    weights = []
    for axis in (0, 1):
        length, grid = image_size[axis], soft.shape[1 + axis]
        index = _scaled_index(view, axis, crop_size, output_size)
        index = (index + 0.5) * length / view.scaled_size[:, axis, None] - 0.5
        weights.append(_linear_weights(jnp.clip(index * ((grid - 1) / max(length - 1, 1)), 0, grid - 1), grid))
    return _resample(soft.astype(jnp.float32), *weights)


def weak_features(features: jax.Array, view: WeakView, crop_size: Size, output_size: Size) -> jax.Array:
    """Features or logits of the whole image in the weak view, by the released code's convention for its smaller maps.

    The map is resized, corners aligned, to a quarter of the scaled image, cropped at a quarter of the offset, rounded
    down, and flipped: within two pixels of the exact place. (A quarter stands for `output_size` over `crop_size`.)

    Args:
      features: [batch, grid height, grid width, channels] of the whole image.
      view: the weak views.
      crop_size: height and width of the crop in pixels.
      output_size: height and width of the result.

    Returns:
      [batch, output height, output width, channels] float32.
    """
    weights = []
    for axis in (0, 1):
        ratio, grid = crop_size[axis] // output_size[axis], features.shape[1 + axis]
        index = _mirrored_index(view, axis, output_size[axis], output_size[axis]) + view.offset[:, axis, None] // ratio
        last = jnp.maximum(view.scaled_size[:, axis, None] // ratio - 1, 1)
        weights.append(_linear_weights(jnp.clip(index * (grid - 1) / last, 0, grid - 1), grid))
    return _resample(features.astype(jnp.float32), *weights)


def weak_inside(view: WeakView, crop_size: Size, output_size: Size) -> jax.Array:
    """Which pixels of a map whose corners are the crop's corners show the image: [batch, height, width] bool."""
    rows, columns = (
        _scaled_index(view, axis, crop_size, output_size) <= view.scaled_size[:, axis, None] - 1 for axis in (0, 1)
    )
    return rows[:, :, None] & columns[:, None, :]


def _mirrored_index(view: WeakView, axis: int, crop: int, output: int) -> jax.Array:
    """Crop index (possibly fractional, corners aligned) that each output index shows: [batch, output] float32."""
    index = jnp.asarray(np.linspace(0, crop - 1, output), jnp.float32)
    flip = view.flip[:, None] & (axis == 1)
    return jnp.where(flip, crop - 1 - index, index)


def _scaled_index(view: WeakView, axis: int, crop_size: Size, output_size: Size) -> jax.Array:
    """Index in the scaled image that each output index shows: [batch, output] float32."""
    return view.offset[:, axis, None] + _mirrored_index(view, axis, crop_size[axis], output_size[axis])


def _linear_weights(index: jax.Array, length: int, support: jax.Array | float = 1.0) -> jax.Array:
    """Triangle filter around each fractional index: [batch, output] to [batch, output, length]."""
    return jnp.maximum(1.0 - jnp.abs(index[..., None] - jnp.arange(length)) / jnp.asarray(support)[..., None], 0.0)


def _resample(values: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Applies row weights [batch, h, H] and column weights [batch, w, W] to values [batch, H, W, channels]."""
    values = jnp.einsum("bhH,bHWc->bhWc", rows, values, precision=EXACT)
    return jnp.einsum("bwW,bhWc->bhwc", columns, values, precision=EXACT)
