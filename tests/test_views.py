"""Images, labels and maps follow the same weak and strong view, as Pillow and the released code would show them."""

import golden_inputs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from proda_jax import colour, resizing, views
from proda_jax.data.label_spaces import IGNORE
from proda_jax.views import POOL, StrongView, WeakView

SIZE, CROP, QUARTER = (96, 144), (64, 96), (16, 24)
CLASSES = 6
# Far from one another and from the grey of what lies outside.
PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)], np.uint8)

weak_image = jax.jit(views.weak_image, static_argnums=2)
weak_label = jax.jit(views.weak_label, static_argnums=2)
weak_soft_label = jax.jit(views.weak_soft_label, static_argnums=(2, 3, 4))
weak_features = jax.jit(views.weak_features, static_argnums=(2, 3))
strong_image = jax.jit(views.strong_image)
strong_label = jax.jit(views.strong_label, static_argnums=2)
strong_map = jax.jit(views.strong_map, static_argnums=2)
draw_weak_view = jax.jit(views.draw_weak_view, static_argnums=(1, 2), static_argnames=("base_width", "scale", "flip"))
draw_strong_view = jax.jit(
    views.draw_strong_view,
    static_argnums=1,
    static_argnames=("operations", "probability", "flip", "randaugment", "cutout_fraction"),
)


def weak(scaled, offset, flip) -> WeakView:
    return WeakView(jnp.asarray(scaled, jnp.int32), jnp.asarray(offset, jnp.int32), jnp.asarray(flip))


def strong(*operations, flip=False, cutout=(0, 0, 0, 0)) -> StrongView:
    """One strong view of up to two named operations: (name, level, sign) each."""
    names, levels, signs = zip(*operations, *[("identity", 1, 1)] * (2 - len(operations)), strict=True)
    return StrongView(
        flip=jnp.asarray([flip]),
        operation=jnp.asarray([[POOL.index(name) for name in names]], jnp.int32),
        level=jnp.asarray([levels], jnp.int32),
        sign=jnp.asarray([signs], jnp.int32),
        active=jnp.ones((1, 2), bool),
        cutout=jnp.asarray([cutout], jnp.int32),
    )


def draw_weak(seed: int, batch: int, size=SIZE, crop=CROP, **settings) -> WeakView:
    keys = jax.random.split(jax.random.key(seed), batch)
    return draw_weak_view(keys, size, crop, **(dict(base_width=size[1], scale=(0.7, 1.5), flip=True) | settings))


def draw_strong(seed: int, batch: int, crop=CROP, **settings) -> StrongView:
    return draw_strong_view(jax.random.split(jax.random.key(seed), batch), crop, **settings)


def draw_geometric(seed: int, batch: int, crop=CROP) -> StrongView:
    """Strong views whose every operation is applied and geometric, so that colours tell the class."""
    view, first = draw_strong(seed, batch, crop), len(colour.OPERATIONS)
    return view.replace(
        operation=first + view.operation % (len(POOL) - first),
        active=jnp.ones_like(view.active),
        cutout=view.cutout.at[:, 1].set(view.cutout[:, 0] + 12),
    )


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def smooth(batch: int, size) -> np.ndarray:
    """Slow waves, different for each image and channel."""
    row, column = np.mgrid[: size[0], : size[1]]
    phase = np.arange(batch * 3).reshape(batch, 1, 1, 3)
    waves = np.sin(row[..., None] / 23 + phase) + np.cos(column[..., None] / 31 - 2 * phase)
    return np.round(127.5 + 60 * waves).astype(np.uint8)


def blocks(batch: int, size, block: int, seed: int = 0) -> np.ndarray:
    """Label maps of square blocks."""
    shape = (batch, -(-size[0] // block), -(-size[1] // block))
    coarse = np.random.default_rng(seed).integers(0, CLASSES, shape)
    return coarse.repeat(block, axis=1).repeat(block, axis=2)[:, : size[0], : size[1]].astype(np.uint8)


def away_from_edges(label: np.ndarray, radius: int) -> np.ndarray:
    """Pixels whose whole neighbourhood of that radius has one class and lies inside the map."""
    window = (1, 2 * radius + 1, 2 * radius + 1)
    windows = np.lib.stride_tricks.sliding_window_view(label, window)
    uniform = windows.min(axis=(-1, -2, -3)) == windows.max(axis=(-1, -2, -3))
    return np.pad(uniform, ((0, 0), (radius, radius), (radius, radius)))


def nearest_colour(image: np.ndarray) -> np.ndarray:
    """Class of the palette colour nearest to each pixel; IGNORE where grey is nearer."""
    colours = np.concatenate([PALETTE, np.full((1, 3), 127)]).astype(np.float32)
    index = np.square(np.asarray(image)[..., None, :] - colours).sum(axis=-1).argmin(axis=-1)
    return np.where(index == CLASSES, IGNORE, index)


def pillow_weak(image: np.ndarray, view: WeakView, index: int, crop, method, outside: int) -> np.ndarray:
    """Resize, crop and flip of one image by Pillow, on a canvas of what lies outside."""
    height, width = (int(side) for side in view.scaled_size[index])
    top, left = (int(side) for side in view.offset[index])
    resized = np.asarray(Image.fromarray(image).resize((width, height), method))
    part = resized[top : top + crop[0], left : left + crop[1]]
    canvas = np.full((*crop, *image.shape[2:]), outside, np.uint8)
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas[:, ::-1] if view.flip[index] else canvas


def pillow_strong(image: np.ndarray, name: str, level: int, sign: int) -> np.ndarray:
    height, width = image.shape[:2]
    amount, pillow = sign * level / 10, Image.fromarray(image)
    settings = dict(resample=Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
    if name == "rotate":
        return np.asarray(pillow.rotate(30 * amount, **settings))
    matrix = {
        "shear_x": (1, 0.3 * amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * amount, 1, 0),
        "translate_x": (1, 0, 0.3 * amount * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.3 * amount * height),
    }[name]
    return np.asarray(pillow.transform(pillow.size, Image.Transform.AFFINE, matrix, **settings))


# --- weak views


@pytest.mark.parametrize("make", [lambda: noise(6, *SIZE, 3), lambda: smooth(6, SIZE)], ids=["noise", "smooth"])
def test_weak_image_is_pillows_when_shrinking_and_enlarging(make):
    scaled = [(96, 144), (64, 96), (67, 101), (131, 197), (192, 288), (70, 250)]
    offset = [(20, 40), (0, 0), (3, 5), (11, 60), (128, 192), (6, 100)]
    view = weak(scaled, offset, [True, False, True, False, True, False])
    image = make()
    actual = weak_image(jnp.asarray(image), view, CROP)
    assert actual.dtype == jnp.float32 and actual.shape == (6, *CROP, 3)
    for index in range(6):
        expected = pillow_weak(image[index], view, index, CROP, Image.Resampling.BILINEAR, 127)
        difference = np.abs(actual[index] - expected.astype(np.float32))
        keeps_shape = abs(scaled[index][1] / scaled[index][0] - 1.5) < 0.01  # as every weak view does
        assert difference.max() <= 1 and ((difference > 0).mean() < 0.005 or not keeps_shape), index


def test_weak_image_is_the_same_to_the_last_bit_whichever_images_are_beside_it():
    image, view = noise(6, *SIZE, 3), draw_weak(1, 6)
    resize = jax.jit(weak_image, static_argnums=2)
    together = resize(image, view, CROP)
    for index in range(6):
        alone = resize(image[index : index + 1], jax.tree.map(lambda x, i=index: x[i : i + 1], view), CROP)
        np.testing.assert_array_equal(together[index : index + 1], alone)


def test_weak_image_without_scaling_is_the_crop_itself():
    image = noise(2, *SIZE, 3)
    actual = weak_image(jnp.asarray(image), weak([SIZE, SIZE], [(20, 40), (8, 12)], [True, False]), CROP)
    np.testing.assert_array_equal(actual[0], image[0, 20:84, 40:136][:, ::-1])
    np.testing.assert_array_equal(actual[1], image[1, 8:72, 12:108])


def test_weak_label_agrees_with_pillow_nearest():
    view = draw_weak(3, 24)
    label = np.random.default_rng(0).integers(0, 34, (24, *SIZE)).astype(np.uint8)
    actual = weak_label(jnp.asarray(label), view, CROP)
    assert actual.dtype == jnp.int32
    for index in range(24):
        expected = pillow_weak(label[index], view, index, CROP, Image.Resampling.NEAREST, IGNORE)
        clear = np.ones(CROP, bool)  # a crop pixel between two image pixels may show either
        for axis in (0, 1):
            place = 2 * (np.arange(CROP[axis]) + int(view.offset[index, axis])) + 1
            between = place * SIZE[axis] % (2 * int(view.scaled_size[index, axis])) == 0
            clear &= ~(between[:, None] if axis == 0 else between[:: -1 if view.flip[index] else 1])
        assert clear.mean() > 0.6
        np.testing.assert_array_equal(np.asarray(actual[index])[clear], expected[clear], err_msg=str(index))


@pytest.mark.parametrize("flip", [False, True])
def test_scaled_image_smaller_than_the_crop_is_surrounded_by_grey_and_ignored_pixels(flip):
    view = draw_weak(0, 1, scale=(0.5, 0.5), flip=False).replace(flip=jnp.asarray([flip]))
    np.testing.assert_array_equal(view.scaled_size, [(48, 72)])
    np.testing.assert_array_equal(view.offset, [(0, 0)])
    image, label = smooth(1, SIZE), blocks(1, SIZE, 16)
    expected = pillow_weak(image[0], view, 0, CROP, Image.Resampling.BILINEAR, 127)
    actual = np.asarray(weak_image(jnp.asarray(image), view, CROP)[0])
    assert np.abs(actual - expected.astype(np.float32)).max() <= 1
    crop = np.asarray(weak_label(jnp.asarray(label), view, CROP)[0])
    np.testing.assert_array_equal(
        crop, pillow_weak(label[0], view, 0, CROP, Image.Resampling.NEAREST, IGNORE).astype(np.int32)
    )
    inside = np.zeros(CROP, bool)
    inside[:48, :72] = True
    inside = inside[:, ::-1] if flip else inside
    np.testing.assert_array_equal(views.weak_inside(view, CROP, CROP)[0], inside)
    np.testing.assert_array_equal(crop == IGNORE, ~inside)
    assert (actual[~inside] == 127).all()
    soft = weak_soft_label(jnp.ones((1, 13, 19, 3)) / 3, view, SIZE, CROP, QUARTER)
    np.testing.assert_allclose(soft, 1 / 3, rtol=1e-5)


def golden_views() -> WeakView:
    return weak([SIZE, SIZE], [(20, 40), (8, 12)], [True, False])


def test_weak_features_are_cut_in_their_own_index_space_as_in_the_golden_steps():
    values = np.random.default_rng(0).standard_normal((2, 13, 19, 5)).astype(np.float32)
    resized = np.asarray(resizing.resize_align_corners(jnp.asarray(values), (24, 36)))
    actual = weak_features(jnp.asarray(values), golden_views(), CROP, QUARTER)
    np.testing.assert_allclose(actual[0], resized[0, 5:21, 10:34][:, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(actual[1], resized[1, 2:18, 3:27], rtol=1e-4, atol=1e-5)


def test_weak_features_follow_torch_on_a_scaled_image():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((1, 4, 13, 19)).astype(np.float32)
    view = weak([(131, 197)], [(27, 75)], [True])
    resized = torch.nn.functional.interpolate(torch.tensor(values), (32, 49), mode="bilinear", align_corners=True)
    expected = resized.numpy()[0, :, 6:22, 18:42][:, :, ::-1]
    actual = weak_features(jnp.asarray(np.moveaxis(values, 1, -1)), view, CROP, QUARTER)
    np.testing.assert_allclose(np.moveaxis(actual[0], -1, 0), expected, rtol=1e-4, atol=1e-5)


def test_weak_maps_agree_with_the_released_resizing():
    golden, size = golden_inputs.load("functions"), (64, 96)
    whole = views.identity_weak_view(1, size)
    values = np.moveaxis(golden_inputs.normal("resize_in", (1, 3, 9, 13)), 1, -1)
    expected = np.moveaxis(golden["bilinear_align_corners_16x24"], 1, -1)
    np.testing.assert_allclose(weak_features(values, whole, size, QUARTER), expected, rtol=1e-4, atol=1e-5)
    soft = np.exp(np.moveaxis(golden_inputs.normal("resize_soft", (1, 19, 64, 96)), 1, -1))
    soft /= soft.sum(axis=-1, keepdims=True)
    actual = weak_soft_label(jnp.asarray(soft), whole, size, size, QUARTER)
    np.testing.assert_allclose(actual, np.moveaxis(golden["soft_quarter"], 1, -1), rtol=1e-4, atol=1e-5)


def test_weak_soft_label_shows_the_place_its_crop_pixel_shows():
    """A map of its own image coordinates says where each output pixel comes from."""
    rows, columns = np.meshgrid(np.linspace(0, 95, 13), np.linspace(0, 143, 19), indexing="ij")
    soft = jnp.asarray(np.stack([rows, columns], axis=-1)[None].repeat(2, axis=0), jnp.float32)
    view = weak([SIZE, (192, 288)], [(20, 40), (30, 50)], [True, False])
    actual = np.asarray(weak_soft_label(soft, view, SIZE, CROP, QUARTER))
    crop_rows, crop_columns = np.arange(16) * 63 / 15, np.arange(24) * 95 / 23
    np.testing.assert_allclose(actual[0, :, 0, 0], 20 + crop_rows, atol=1e-3)
    np.testing.assert_allclose(actual[0, 0, :, 1], 40 + 95 - crop_columns, atol=1e-3)
    np.testing.assert_allclose(actual[1, :, 0, 0], (30 + crop_rows + 0.5) / 2 - 0.5, atol=1e-3)
    np.testing.assert_allclose(actual[1, 0, :, 1], (50 + crop_columns + 0.5) / 2 - 0.5, atol=1e-3)


def test_weak_soft_label_sums_to_one_where_the_soft_label_does():
    soft = np.random.default_rng(0).dirichlet(np.ones(CLASSES), (24, 13, 19)).astype(np.float32)
    actual = weak_soft_label(jnp.asarray(soft), draw_weak(1, 24), SIZE, CROP, QUARTER)
    np.testing.assert_allclose(actual.sum(axis=-1), 1.0, rtol=1e-5)


# --- strong views


def test_strong_view_that_does_nothing_returns_image_label_and_map_as_they_are():
    image, label, view = noise(2, *CROP, 3), blocks(2, CROP, 5), views.identity_strong_view(2)
    np.testing.assert_array_equal(strong_image(jnp.asarray(image, jnp.float32), view), image)
    np.testing.assert_array_equal(strong_label(jnp.asarray(label), view, CROP), label)
    values = np.random.default_rng(0).standard_normal((2, *QUARTER, 3)).astype(np.float32)
    warped, valid = strong_map(jnp.asarray(values), view, CROP)
    np.testing.assert_allclose(warped, values, atol=1e-5)
    assert valid.all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", views.GEOMETRIC_OPERATIONS)
def test_geometric_operation_agrees_with_pillow(name, sign):
    image = smooth(1, CROP)
    for level in range(1, 10):
        actual = np.asarray(strong_image(jnp.asarray(image, jnp.float32), strong((name, level, sign))))[0]
        difference = np.abs(actual - pillow_strong(image[0], name, level, sign).astype(np.float32)).max(axis=-1)
        assert (difference > 1).mean() < 0.001, level  # a border pixel may fall on either side in float32
        outside = (pillow_strong(np.zeros_like(image[0]), name, level, sign) == 127).all(axis=-1)
        assert (actual[outside] == 127).all(axis=-1).mean() > 0.99, level


@pytest.mark.parametrize("name", ["posterize", "sharpness", "equalize"])
def test_colour_operations_are_applied_in_the_drawn_order_before_the_warp(name):
    image = noise(1, *CROP, 3).astype(np.float32)
    expected = image[0]
    for drawn, level in (("solarize", 7), (name, 3)):
        expected = colour.apply_operation(jnp.asarray(expected), POOL.index(drawn), jnp.int32(level))
    view = strong(("solarize", 7, 1), (name, 3, 1), flip=True)
    np.testing.assert_array_equal(strong_image(jnp.asarray(image), view)[0], expected[:, ::-1])


def test_operation_that_is_not_active_changes_nothing():
    image = noise(2, *CROP, 3).astype(np.float32)
    view = jax.tree.map(lambda *parts: jnp.concatenate(parts), strong(("rotate", 9, 1)), strong(("solarize", 9, 1)))
    view = view.replace(active=jnp.zeros_like(view.active))
    np.testing.assert_array_equal(strong_image(jnp.asarray(image), view), image)


@pytest.mark.parametrize("first", [("rotate", 8, -1), ("shear_x", 9, 1), ("translate_x", 4, 1)])
@pytest.mark.parametrize("second", [("translate_y", 4, 1), ("rotate", 6, 1), ("shear_y", 9, 1)])
def test_two_operations_and_a_flip_equal_pillow_applying_them_in_the_drawn_order(first, second):
    image = smooth(1, CROP)
    flipped = np.ascontiguousarray(image[0, :, ::-1])

    def sequence(image: np.ndarray, *operations) -> np.ndarray:
        for operation in operations:
            image = pillow_strong(image, *operation)
        return image.astype(np.float32)

    actual = np.asarray(strong_image(jnp.asarray(image, jnp.float32), strong(first, second, flip=True)))[0]

    def interior(*operations) -> np.ndarray:
        white = sequence(np.full_like(flipped, 255), *operations)[None, ..., 0]
        return ((white == 255) & away_from_edges(white, 1))[0]

    inside = interior(first, second)
    assert inside.mean() > 0.4
    assert np.abs(actual - sequence(flipped, first, second))[inside].max() <= 3
    if {first[0], second[0]} not in ({"rotate"}, {"translate_x", "translate_y"}):  # those commute
        both = inside & interior(second, first)
        assert np.abs(actual - sequence(flipped, second, first))[both].max() > 3


def test_operation_drawn_twice_is_applied_twice():
    label = jnp.asarray(blocks(1, CROP, 7))
    view = strong(("translate_x", 5, 1), ("translate_x", 5, 1))
    actual = np.asarray(strong_label(label, view, CROP))[0]
    np.testing.assert_array_equal(actual[:, :-29], label[0, :, 29:])  # 2 * 0.15 * 96 = 28.8 pixels
    assert (actual[:, -28:] == IGNORE).all()


def test_horizontal_translation_is_a_fraction_of_the_width_for_the_label_too():
    row_label = jnp.asarray(np.broadcast_to(np.arange(96), CROP)[None])
    shift = np.asarray(strong_label(row_label, strong(("translate_x", 5, 1)), CROP))[0, 30, 20] - 20
    assert shift == pytest.approx(0.15 * 96, abs=0.5)
    column_label = jnp.asarray(np.broadcast_to(np.arange(64)[:, None], CROP)[None])
    shift = np.asarray(strong_label(column_label, strong(("translate_y", 5, 1)), CROP))[0, 30, 20] - 30
    assert shift == pytest.approx(0.15 * 64, abs=0.5)


def test_cutout_greys_the_image_ignores_the_label_and_invalidates_the_map_after_the_flip():
    view = strong(flip=True, cutout=(8, 40, 16, 48))
    image, label = noise(1, *CROP, 3), blocks(1, CROP, 8)
    expected = image[:, :, ::-1].copy()
    expected[:, 8:40, 16:48] = 127
    np.testing.assert_array_equal(strong_image(jnp.asarray(image, jnp.float32), view), expected)
    expected = label[:, :, ::-1].copy()
    expected[:, 8:40, 16:48] = IGNORE
    np.testing.assert_array_equal(strong_label(jnp.asarray(label), view, CROP), expected)
    values = np.random.default_rng(0).standard_normal((1, *QUARTER, 3)).astype(np.float32)
    warped, valid = strong_map(jnp.asarray(values), view, CROP)
    np.testing.assert_allclose(warped, values[:, :, ::-1], atol=1e-5)
    expected = np.ones((1, *QUARTER), bool)
    expected[:, 2:10, 4:12] = False
    np.testing.assert_array_equal(valid, expected)


def test_smaller_label_follows_the_view_and_is_ignored_where_cut_out():
    label = blocks(1, QUARTER, 3)
    actual = strong_label(jnp.asarray(label), strong(("translate_x", 5, 1), cutout=(8, 40, 16, 48)), CROP)
    # 0.15 of 24 columns is 3.6: the centre of column c shows position c + 4.1, in column c + 4.
    expected = np.full((1, *QUARTER), IGNORE)
    expected[:, :, :20] = label[:, :, 4:]
    expected[:, 2:10, 4:12] = IGNORE
    np.testing.assert_array_equal(actual, expected)


def test_map_is_valid_only_where_everything_it_was_read_from_lies_inside():
    values = np.zeros((1, *QUARTER, 1), np.float32)
    for operation in (("translate_x", 5, 1), ("rotate", 9, -1), ("shear_y", 7, 1)):
        warped, valid = strong_map(jnp.asarray(values), strong(operation), CROP)
        padded = np.pad(values, ((0, 0), (8, 8), (8, 8), (0, 0)), constant_values=1.0)
        # The same warp of a map that continues as ones beyond the border: it stays zero where no tap was outside.
        matrix = np.asarray(views._strong_matrix(strong(operation), CROP))[0]
        row, column = np.mgrid[:16, :24]
        x, y = (matrix @ np.stack([4 * column + 2, 4 * row + 2, np.ones_like(row)]).reshape(3, -1))[:2] / 4 - 0.5
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        touched = sum(padded[0, top + 8 + dy, left + 8 + dx, 0] for dy in (0, 1) for dx in (0, 1)).reshape(QUARTER)
        exact = (np.abs(x - np.round(x)) < 1e-3) | (np.abs(y - np.round(y)) < 1e-3)  # a tap of no weight
        assert (np.asarray(valid)[0] == (touched == 0))[~exact.reshape(QUARTER)].all(), operation
        assert 0.3 < valid.mean() < 0.95


# --- everything follows the same view


def test_image_whose_colours_are_its_labels_shows_the_warped_label_in_random_views():
    batch, size = 24, (192, 288)
    label = blocks(batch, size, 36)
    weak_view, strong_view = draw_weak(5, batch, size), draw_geometric(6, batch)
    image = weak_image(jnp.asarray(PALETTE[label]), weak_view, CROP)
    warped = weak_label(jnp.asarray(label), weak_view, CROP)
    agreement_away_from_edges(nearest_colour(image), np.asarray(warped), radius=2)
    image, warped = strong_image(image, strong_view), strong_label(warped, strong_view, CROP)
    assert (np.asarray(warped) == IGNORE).mean() > 0.1
    agreement_away_from_edges(nearest_colour(image), np.asarray(warped), radius=2)


def agreement_away_from_edges(actual: np.ndarray, label: np.ndarray, radius: int) -> None:
    certain = away_from_edges(label, radius)
    assert certain.mean() > 0.25
    np.testing.assert_array_equal(actual[certain], label[certain])


def quarter_positions(size: int, quarter: int) -> np.ndarray:
    return np.round(np.arange(quarter) * (size - 1) / (quarter - 1)).astype(int)


@pytest.mark.parametrize("kind", ["soft label", "features"])
def test_one_hot_maps_show_the_warped_label_in_random_views(kind):
    batch, size, grid = 24, (192, 288), (49, 73)
    label = blocks(batch, size, 48)
    grid_rows, grid_columns = (quarter_positions(size[axis], grid[axis]) for axis in (0, 1))
    one_hot = jax.nn.one_hot(label[:, grid_rows[:, None], grid_columns], CLASSES)
    weak_view, strong_view = draw_weak(7, batch, size), draw_geometric(8, batch)
    if kind == "soft label":
        values, radius = weak_soft_label(one_hot, weak_view, size, CROP, QUARTER), 8
    else:
        values, radius = weak_features(one_hot, weak_view, CROP, QUARTER), 10
    crop = np.asarray(weak_label(jnp.asarray(label), weak_view, CROP))
    rows, columns = quarter_positions(CROP[0], QUARTER[0])[:, None], quarter_positions(CROP[1], QUARTER[1])
    certain = away_from_edges(crop, radius)[:, rows, columns]
    assert certain.mean() > 0.15
    np.testing.assert_array_equal(np.argmax(values, axis=-1)[certain], crop[:, rows, columns][certain])

    warped, valid = strong_map(values, strong_view, CROP)
    label_warped = np.asarray(strong_label(jnp.asarray(crop), strong_view, CROP))
    rows, columns = np.arange(16)[:, None] * 4 + 2, np.arange(24) * 4 + 2
    certain = np.asarray(valid) & away_from_edges(label_warped, radius)[:, rows, columns]
    assert certain.mean() > 0.05
    np.testing.assert_array_equal(np.argmax(warped, axis=-1)[certain], label_warped[:, rows, columns][certain])


def test_validity_of_the_map_agrees_with_the_ignored_pixels_of_the_label():
    view = draw_geometric(9, 24)
    label = np.asarray(strong_label(jnp.zeros((24, *CROP), jnp.int32), view, CROP))
    _, valid = strong_map(jnp.zeros((24, *QUARTER, 1)), view, CROP)
    centres = label[:, 2::4, 2::4]
    clear = away_from_edges(label, 7)[:, 2::4, 2::4]
    assert clear.mean() > 0.2
    np.testing.assert_array_equal(np.asarray(valid)[clear], centres[clear] != IGNORE)


# --- drawing


def test_views_depend_on_an_examples_own_key_and_not_on_the_batch():
    keys = jax.random.split(jax.random.key(4), 24)
    for draw in (
        lambda keys: draw_weak_view(keys, SIZE, CROP, base_width=SIZE[1], scale=(0.7, 1.5), flip=True),
        lambda keys: draw_strong_view(keys, CROP),
    ):
        together = draw(keys)
        jax.tree.map(np.testing.assert_array_equal, draw(keys[::-1]), jax.tree.map(lambda leaf: leaf[::-1], together))
        jax.tree.map(np.testing.assert_array_equal, draw(keys[2:3]), jax.tree.map(lambda leaf: leaf[2:3], together))
        assert any(np.any(leaf[0] != leaf[1]) for leaf in jax.tree.leaves(together))


def test_drawn_weak_views_keep_the_aspect_and_lie_inside():
    view = jax.device_get(draw_weak(0, 7000, (1052, 1914), (512, 896), base_width=2200, scale=(0.5, 1.5)))
    height, width = view.scaled_size.T
    assert 1100 <= width.min() < 1110 and 3290 < width.max() < 3300
    assert abs(width.mean() - 2200) < 40
    np.testing.assert_array_equal(height, 1052 * width // 1914)
    room = view.scaled_size - np.array((512, 896))
    assert (view.offset >= 0).all() and (view.offset <= room).all()
    fraction = view.offset / room
    np.testing.assert_allclose(fraction.mean(axis=0), 0.5, atol=0.03)
    assert (fraction.min(axis=0) < 0.01).all() and (fraction.max(axis=0) > 0.99).all()
    assert abs(view.flip.mean() - 0.5) < 0.04


def test_drawn_weak_view_reaches_every_offset_when_the_room_is_small():
    view = draw_weak(0, 7000, (66, 97), scale=(1.0, 1.0), flip=False)
    assert not view.flip.any()
    np.testing.assert_array_equal(np.unique(view.offset[:, 0]), [0, 1, 2])
    np.testing.assert_array_equal(np.unique(view.offset[:, 1]), [0, 1])


def test_drawn_operations_levels_signs_and_flips_are_uniform():
    view = jax.device_get(draw_strong(0, 7000, (512, 896)))
    assert view.operation.shape == (7000, 2)
    counts = np.bincount(view.operation.ravel(), minlength=14)
    assert len(counts) == 14 and np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    counts = np.bincount(view.level.ravel(), minlength=10)
    assert counts[0] == 0 and np.abs(counts[1:] - 14000 / 9).max() < 5 * np.sqrt(14000 / 9)
    assert set(np.unique(view.sign)) == {-1, 1}
    for half in (view.flip, view.active, view.sign > 0):
        assert abs(half.mean() - 0.5) < 0.03
    twice = (view.operation[:, 0] == view.operation[:, 1]).mean()
    assert abs(twice - 1 / 14) < 0.02  # with replacement, and independently


def test_settings_of_the_strong_view_switch_its_parts_off():
    view = draw_strong(0, 7000, operations=3, probability=1.0, flip=False, cutout_fraction=0.0)
    assert view.active.all() and view.operation.shape == (7000, 3)
    assert not view.flip.any() and not view.cutout.any()
    assert not draw_strong(0, 7000, randaugment=False).active.any()


def test_drawn_cutout_is_a_square_cut_at_the_bottom_and_right_and_shifted_at_the_top_and_left():
    top, bottom, left, right = np.asarray(draw_strong(0, 7000, (512, 896)).cutout).T
    for start, stop, size in ((top, bottom, 512), (left, right, 896)):
        assert start.min() == 0 and stop.max() == size and start.max() < size
        np.testing.assert_array_equal(stop, np.minimum(start + 170, size))  # min(512, 896) // 3
        # A centre in the first 85 pixels is shifted to start at 0, one in the last 85 loses part of its square.
        assert abs((start == 0).mean() - 86 / size) < 0.03
        assert abs((stop - start < 170).mean() - 85 / size) < 0.03
        middle = start[(start > 0) & (stop < size)]
        assert abs(middle.mean() - (size - 170) / 2) < 20
