"""Views: where a crop comes from and how it was warped, as data that images, labels and maps all follow.

A weak view is a random scale, crop and flip of the image; a strong view is FixMatch's RandAugment, flip and Cutout on
top of it. Both are small arrays, drawn from one key per example and applied on the device with static shapes.

Coordinates: the pixel of *index* i has its centre at *position* i + 0.5; an image spans 0..size, as in Pillow.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax import colour
from proda_jax.data.label_spaces import IGNORE

GREY = 127.0  # what lies outside the image or is cut out (released code)
GEOMETRIC_OPERATIONS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
POOL = tuple(operation.__name__ for operation in colour.OPERATIONS) + GEOMETRIC_OPERATIONS
LEVELS = 10
EXACT = jax.lax.Precision.HIGHEST

Size = tuple[int, int]  # height, width


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


@flax.struct.dataclass
class StrongView:
    """FixMatch's flip, RandAugment and Cutout of each weak view, applied in that order.

    Attributes:
      flip: [batch] bool, whether the crop is mirrored left-right.
      operation: [batch, operations] int32, index into `POOL`.
      level: [batch, operations] int32, 1..9.
      sign: [batch, operations] int32, -1 or 1: the direction of a geometric operation.
      active: [batch, operations] bool, whether the operation is applied.
      cutout: [batch, 4] int32, top, bottom, left and right in crop pixels; an empty box where nothing is cut out.
    """

    flip: jax.Array
    operation: jax.Array
    level: jax.Array
    sign: jax.Array
    active: jax.Array
    cutout: jax.Array


def identity_weak_view(batch: int, image_size: Size) -> WeakView:
    """The view that shows each image from its top left corner as it is."""
    return WeakView(
        scaled_size=jnp.tile(jnp.asarray(image_size, jnp.int32), (batch, 1)),
        offset=jnp.zeros((batch, 2), jnp.int32),
        flip=jnp.zeros(batch, bool),
    )


def identity_strong_view(batch: int, operations: int = 2) -> StrongView:
    """The view that changes nothing."""
    return StrongView(
        flip=jnp.zeros(batch, bool),
        operation=jnp.full((batch, operations), POOL.index("identity"), jnp.int32),
        level=jnp.ones((batch, operations), jnp.int32),
        sign=jnp.ones((batch, operations), jnp.int32),
        active=jnp.zeros((batch, operations), bool),
        cutout=jnp.zeros((batch, 4), jnp.int32),
    )


def draw_weak_view(
    keys: jax.Array, image_size: Size, crop_size: Size, *, base_width: float, scale: tuple[float, float], flip: bool
) -> WeakView:
    """Draws a weak view for each example (released code: base width 2200, scale 0.5 to 1.5).

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      image_size: height and width of the images.
      crop_size: height and width of the crop.
      base_width: width in pixels to which scale 1 brings the image; the aspect is kept.
      scale: the range of the uniform random scale.
      flip: whether crops are mirrored with probability 0.5.

    Returns:
      The views. Where a scaled image is smaller than the crop, its offset is zero.
    """

    def draw(key: jax.Array) -> WeakView:
        draws = jax.random.uniform(key, (4,))
        width = (base_width * (scale[0] + draws[0] * (scale[1] - scale[0]))).astype(jnp.int32)
        scaled_size = jnp.maximum(jnp.stack([image_size[0] * width // image_size[1], width]), 1)
        room = jnp.maximum(scaled_size - jnp.asarray(crop_size), 0)
        return WeakView(scaled_size, _integer_below(room + 1, draws[1:3]), (draws[3] < 0.5) & flip)

    return jax.vmap(draw)(keys)


def draw_strong_view(
    keys: jax.Array,
    crop_size: Size,
    *,
    operations: int = 2,
    probability: float = 0.5,
    flip: bool = True,
    randaugment: bool = True,
    cutout_fraction: float = 1 / 3,
) -> StrongView:
    """Draws a strong view for each example (defaults: released code).

    Args:
      keys: [batch] typed PRNG keys, one per global example.
      crop_size: height and width of the crop.
      operations: how many operations are drawn, with replacement, from `POOL`.
      probability: with which each drawn operation is applied.
      flip: whether crops are mirrored with probability 0.5.
      randaugment: whether operations are applied at all.
      cutout_fraction: side of the square cut out, as a fraction of the crop's shorter side; 0 for none.

    Returns:
      The views. A square's centre is uniform; it is shifted inside at the top and left, cut at the bottom and right.
    """
    side = int(min(crop_size) * cutout_fraction)
    size = jnp.asarray(crop_size, jnp.int32)

    def draw(key: jax.Array) -> StrongView:
        draws = jax.random.uniform(key, (3 + 4 * operations,))  # all at once: each call takes long to compile
        of_operations = draws[3:].reshape(4, operations)
        start = jnp.maximum(draws[1:3] * size - side / 2, 0).astype(jnp.int32)
        stop = jnp.minimum(start + side, size)
        box = jnp.stack([start[0], stop[0], start[1], stop[1]])
        return StrongView(
            flip=(draws[0] < 0.5) & flip,
            operation=_integer_below(len(POOL), of_operations[0]),
            level=1 + _integer_below(LEVELS - 1, of_operations[1]),
            sign=jnp.where(of_operations[2] < 0.5, 1, -1),
            active=(of_operations[3] < probability) & randaugment,
            cutout=box if side else jnp.zeros_like(box),
        )

    return jax.vmap(draw)(keys)


def weak_image(image: jax.Array, view: WeakView, crop_size: Size) -> jax.Array:
    """The image in the weak view, resized as Pillow's BILINEAR does (antialiased when shrinking; columns, then rows).

    Weights are whole multiples of 2^-16, so that every sum is exact in float32: a level that fell just below a half on
    one number of devices and above on another would be another image.

    Args:
      image: [batch, image height, image width, 3] uint8.
      view: the weak views.
      crop_size: height and width of the crop.

    Returns:
      [batch, height, width, 3] float32, whole grey levels 0..255; grey outside the image.
    """
    levels = image.astype(jnp.float32)
    for axis, apply in ((1, "bwW,bHWc->bHwc"), (0, "bhH,bHwc->bhwc")):
        shrink = image.shape[1 + axis] / view.scaled_size[:, axis, None].astype(jnp.float32)
        centre = (_scaled_index(view, axis, crop_size, crop_size) + 0.5) * shrink - 0.5
        triangle = _linear_weights(centre, image.shape[1 + axis], jnp.maximum(shrink, 1.0))
        weights = triangle / jnp.maximum(triangle.sum(axis=-1, keepdims=True), 1e-6)
        weights = jnp.round(weights * 2.0**16) / 2.0**16
        levels = colour.round_levels(jnp.einsum(apply, weights, levels, precision=EXACT))
    inside = weak_inside(view, crop_size, crop_size)
    return jnp.where(inside[..., None], levels, GREY)


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


def strong_image(image: jax.Array, view: StrongView) -> jax.Array:
    """The weak view's image in the strong view: colour operations as drawn, one geometric warp, cutout.

    Args:
      image: [batch, height, width, 3] float32, 0..255.
      view: the strong views.

    Returns:
      [batch, height, width, 3] float32, whole grey levels; grey outside the weak view and where cut out.
    """
    is_colour = view.active & (view.operation < len(colour.OPERATIONS))
    operation = jnp.where(is_colour, view.operation, POOL.index("identity"))

    def recolour(inputs: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        def apply_next(image: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return colour.apply_operation(image, *drawn), None

        return jax.lax.scan(apply_next, inputs[0], inputs[1:])[0]

    # One image after the other: under vmap every image would pay for every operation of the pool.
    recoloured = jax.lax.map(recolour, (colour.round_levels(image), operation, view.level))
    size = image.shape[1:3]
    rows, columns, shown = _strong_pixels(view, size, size)
    warped = colour.round_levels(_bilinear(recoloured, rows - 0.5, columns - 0.5))
    return jnp.where(shown[..., None], warped, GREY)


def strong_label(label: jax.Array, view: StrongView, crop_size: Size) -> jax.Array:
    """The weak view's label in the strong view, nearest.

    Args:
      label: [batch, height, width], covering the crop pixel by pixel or in a smaller size.
      view: the strong views.
      crop_size: height and width of the crop in pixels.

    Returns:
      int32, same shape; `IGNORE` outside the weak view and where cut out.
    """
    rows, columns, shown = _strong_pixels(view, crop_size, label.shape[1:3])
    warped = _pixels(label[..., None], jnp.floor(rows), jnp.floor(columns))[..., 0]
    return jnp.where(shown, warped.astype(jnp.int32), IGNORE)


def strong_map(values: jax.Array, view: StrongView, crop_size: Size) -> tuple[jax.Array, jax.Array]:
    """A smaller map over the weak view (features, distances, soft labels) in the strong view, bilinear.

    Args:
      values: [batch, map height, map width, channels], covering the crop pixel by pixel.
      view: the strong views.
      crop_size: height and width of the crop in pixels.

    Returns:
      The warped map, same shape, and [batch, map height, map width] bool: where all it was read from lies inside the
      weak view and nothing is cut out.
    """
    size = values.shape[1:3]
    rows, columns = (positions - 0.5 for positions in _strong_positions(view, crop_size, size))
    rounding = 1e-3  # of the coordinates in float32: a flip maps the last pixel onto the first
    inside = (rows >= -rounding) & (rows <= size[0] - 1 + rounding)
    inside &= (columns >= -rounding) & (columns <= size[1] - 1 + rounding)
    ratio = (crop_size[0] // size[0], crop_size[1] // size[1])
    return _bilinear(values, rows, columns), inside & ~_cut_out(view, size, ratio)


def _integer_below(stop: jax.Array | int, uniform: jax.Array) -> jax.Array:
    """Integers 0..stop - 1, equally likely, from uniform numbers in [0, 1)."""
    return jnp.floor(uniform * stop).astype(jnp.int32)


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


def _strong_matrix(view: StrongView, crop_size: Size) -> jax.Array:
    """Takes a position (x, y, 1) of the strong view, in crop pixels, to that of the weak view: [batch, 3, 3]."""
    height, width = crop_size
    amount = jnp.where(view.active, view.sign * view.level, 0) / LEVELS
    rotate, shear_x, shear_y, translate_x, translate_y = (
        jnp.where(view.operation == POOL.index(name), amount, 0.0) for name in GEOMETRIC_OPERATIONS
    )
    cos, sin = jnp.cos(jnp.deg2rad(30.0 * rotate)), jnp.sin(jnp.deg2rad(30.0 * rotate))
    x, y = width / 2, height / 2
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    # At most one of the five is not zero, so their matrices can be written as one.
    rows = [
        [cos, 0.3 * shear_x - sin, x - cos * x + sin * y + 0.3 * width * translate_x],
        [0.3 * shear_y + sin, cos, y - sin * x - cos * y + 0.3 * height * translate_y],
        [zero, zero, one],
    ]
    operations = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)  # [batch, operations, 3, 3]
    mirror = jnp.asarray([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    matrix = jnp.where(view.flip[:, None, None], mirror, jnp.eye(3))
    for index in range(operations.shape[1]):  # the last operation is the first to be undone, so it stands rightmost
        matrix = jnp.matmul(matrix, operations[:, index], precision=EXACT)
    return matrix


def _strong_positions(view: StrongView, crop_size: Size, map_size: Size) -> tuple[jax.Array, jax.Array]:
    """Row and column positions, in map pixels, that each map pixel of the strong view shows: [batch, height, width]."""
    y_ratio, x_ratio = crop_size[0] / map_size[0], crop_size[1] / map_size[1]
    y = (jnp.arange(map_size[0], dtype=jnp.float32)[:, None] + 0.5) * y_ratio
    x = (jnp.arange(map_size[1], dtype=jnp.float32) + 0.5) * x_ratio
    matrix = _strong_matrix(view, crop_size)[..., None, None]
    columns, rows = (matrix[:, i, 0] * x + matrix[:, i, 1] * y + matrix[:, i, 2] for i in (0, 1))
    return rows / y_ratio, columns / x_ratio


def _strong_pixels(view: StrongView, crop_size: Size, size: Size) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Row and column position each pixel of a map shows, and whether it shows any: three [batch, height, width]."""
    rows, columns = _strong_positions(view, crop_size, size)
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return rows, columns, inside & ~_cut_out(view, size, (crop_size[0] // size[0], crop_size[1] // size[1]))


def _cut_out(view: StrongView, size: Size, ratio: tuple[int, int]) -> jax.Array:
    """Which pixels of a map `ratio` times smaller than the crop are cut out: [batch, height, width] bool."""
    top, bottom, left, right = (edge[:, None, None] for edge in view.cutout.T)
    row, column = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    in_rows = (row >= top // ratio[0]) & (row < bottom // ratio[0])
    return in_rows & (column >= left // ratio[1]) & (column < right // ratio[1])


def _pixels(values: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """values[b, rows, columns], indices clamped to the border: [batch, height, width, channels]."""
    height, width = values.shape[1:3]
    index = jnp.clip(rows, 0, height - 1).astype(jnp.int32) * width + jnp.clip(columns, 0, width - 1).astype(jnp.int32)
    flat = values.reshape(len(values), height * width, -1)
    return jax.vmap(lambda pixels, index: pixels.at[index].get(mode="promise_in_bounds"))(flat, index)


def _bilinear(values: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Values at fractional indices, clamped to the border: [batch, height, width, channels]."""
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = _pixels(values, top, left) * (1 - right) + _pixels(values, top, left + 1) * right
    lower = _pixels(values, top + 1, left) * (1 - right) + _pixels(values, top + 1, left + 1) * right
    return upper * (1 - down) + lower * down
