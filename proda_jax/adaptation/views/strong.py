"""Strong views: FixMatch's flip, RandAugment and Cutout on top of a weak view, for images, labels and smaller maps."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from proda_jax.adaptation.views import colour
from proda_jax.adaptation.views.common import EXACT, GREY, Size, integer_below
from proda_jax.data.label_spaces import IGNORE

GEOMETRIC_OPERATIONS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
POOL = tuple(operation.__name__ for operation in colour.OPERATIONS) + GEOMETRIC_OPERATIONS
LEVELS = 10


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
            operation=integer_below(len(POOL), of_operations[0]),
            level=1 + integer_below(LEVELS - 1, of_operations[1]),
            sign=jnp.where(of_operations[2] < 0.5, 1, -1),
            active=(of_operations[3] < probability) & randaugment,
            cutout=box if side else jnp.zeros_like(box),
        )

    return jax.vmap(draw)(keys)


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
    positions = _strong_positions(view, size, size)
    warped = colour.round_levels(_bilinear(recoloured, positions))
    return jnp.where(_shown(view, positions, size, size)[..., None], warped, GREY)


def strong_label(label: jax.Array, view: StrongView, crop_size: Size) -> jax.Array:
    """The weak view's label in the strong view, nearest.

    Args:
      label: [batch, height, width], covering the crop pixel by pixel or in a smaller size.
      view: the strong views.
      crop_size: height and width of the crop in pixels.

    Returns:
      int32, same shape; `IGNORE` outside the weak view and where cut out.
    """
    size = label.shape[1:3]
    positions = _strong_positions(view, crop_size, size)
    rows, columns = (jnp.floor_divide(axis.parts, axis.of_pixel) for axis in positions)
    warped = _pixels(label[..., None], rows, columns)[..., 0]
    return jnp.where(_shown(view, positions, crop_size, size), warped.astype(jnp.int32), IGNORE)


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
    positions = _strong_positions(view, crop_size, size)
    inside = ~_cut_out(view, crop_size, size)
    for axis, length in zip(positions, size, strict=True):  # between the centres of the first and the last pixel
        index = axis.parts - axis.of_pixel // 2
        inside &= (index >= 0) & (index <= (length - 1) * axis.of_pixel)
    return _bilinear(values, positions), inside


def _strong_matrix(view: StrongView, crop_size: Size) -> jax.Array:
    """Takes a position (x, y, 1) of the strong view, in crop pixels, to that of the weak view: [batch, 3, 3]."""
    height, width = crop_size
    steps = jnp.where(view.active, view.sign * view.level, 0)
    rotate, *others = (jnp.where(view.operation == POOL.index(name), steps, 0) for name in GEOMETRIC_OPERATIONS)
    shear_x, shear_y, translate_x, translate_y = (other / LEVELS for other in others)
    # looked up: XLA rounds a sine differently in batches of other sizes
    angles = np.deg2rad(30.0 * np.arange(-LEVELS, LEVELS + 1) / LEVELS)
    cos, sin = (jnp.asarray(of(angles), jnp.float32)[rotate + LEVELS] for of in (np.cos, np.sin))
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


class _Positions(NamedTuple):
    """Positions along one axis, [batch, height, width] int32 in parts of a map pixel, and how many it has."""

    parts: jax.Array
    of_pixel: int


def _strong_positions(view: StrongView, crop_size: Size, map_size: Size) -> tuple[_Positions, _Positions]:
    """The row and column position that each map pixel of the strong view shows.

    Whole numbers, as XLA may compute a position in two places and round it differently: where one fell before a pixel's
    centre and the other behind it, weights of neighbours added up to two.
    """
    ratio = (crop_size[0] // map_size[0], crop_size[1] // map_size[1])
    # as many digits as leave room for sums in 32 bits; an operation lengthens the matrix's rows by less than half
    operations = view.operation.shape[1]
    bits = min(20, 27 - (max(crop_size) - 1).bit_length() - max(operations - 2, 0))
    y = (2 * jnp.arange(map_size[0], dtype=jnp.int32)[:, None] + 1) * ratio[0]  # in halves of a crop pixel
    x = (2 * jnp.arange(map_size[1], dtype=jnp.int32) + 1) * ratio[1]
    # one view after the other: in batches of other sizes XLA rounds sums differently, which rounding to parts magnifies
    single = jax.tree.map(lambda leaf: leaf[:, None], view)
    matrix = jax.lax.map(lambda one: _strong_matrix(one, crop_size), single)[:, 0]
    matrix = jnp.round(matrix * 2.0**bits).astype(jnp.int32)[..., None, None]
    columns, rows = (matrix[:, i, 0] * x + matrix[:, i, 1] * y + 2 * matrix[:, i, 2] for i in (0, 1))
    return _Positions(rows, ratio[0] << bits + 1), _Positions(columns, ratio[1] << bits + 1)


def _shown(view: StrongView, positions: tuple[_Positions, _Positions], crop_size: Size, size: Size) -> jax.Array:
    """Which pixels of a map show a pixel of the weak view: [batch, height, width] bool."""
    shown = ~_cut_out(view, crop_size, size)
    for axis, length in zip(positions, size, strict=True):
        shown &= (axis.parts >= 0) & (axis.parts < length * axis.of_pixel)
    return shown


def _cut_out(view: StrongView, crop_size: Size, size: Size) -> jax.Array:
    """Which pixels of a map over the crop are cut out: [batch, height, width] bool."""
    ratio = (crop_size[0] // size[0], crop_size[1] // size[1])
    top, bottom, left, right = (edge[:, None, None] for edge in view.cutout.T)
    row, column = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    in_rows = (row >= top // ratio[0]) & (row < bottom // ratio[0])
    return in_rows & (column >= left // ratio[1]) & (column < right // ratio[1])


def _pixels(values: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """values[b, rows, columns], indices clamped to the border: [batch, height, width, channels]."""
    height, width = values.shape[1:3]
    index = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    flat = values.reshape(len(values), height * width, -1)
    return jax.vmap(lambda pixels, index: pixels.at[index].get(mode="promise_in_bounds"))(flat, index)


def _bilinear(values: jax.Array, positions: tuple[_Positions, _Positions]) -> jax.Array:
    """Values at positions, clamped to the border: [batch, height, width, channels]."""
    (top, down), (left, right) = map(_before, positions)
    upper = _pixels(values, top, left) * (1 - right) + _pixels(values, top, left + 1) * right
    lower = _pixels(values, top + 1, left) * (1 - right) + _pixels(values, top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def _before(axis: _Positions) -> tuple[jax.Array, jax.Array]:
    """Index of the last pixel whose centre is not behind a position, int32, and how far behind it that lies, 0..1."""
    index = axis.parts - axis.of_pixel // 2
    before = jnp.floor_divide(index, axis.of_pixel)
    return before, ((index - before * axis.of_pixel).astype(jnp.float32) / axis.of_pixel)[..., None]
