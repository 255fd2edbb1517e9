"""Views of chosen and of random kinds, and images and labels to look at through them."""

from collections.abc import Callable

import jax
import numpy as np

from proda_jax.adaptation import views
from proda_jax.adaptation.views import POOL, StrongView, WeakView, colour
from proda_jax.data.label_spaces import IGNORE

SIZE, CROP, QUARTER = (96, 144), (64, 96), (16, 24)
CLASSES = 6
# Far from one another and from the grey of what lies outside.
PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)], np.uint8)


def compiled(function: Callable, **static) -> Callable:
    """A function in `jax.jit`, which gives NumPy arrays: what is done with a jax.Array is compiled, too."""
    jitted = jax.jit(function, **static)
    return lambda *arguments, **settings: jax.device_get(jitted(*arguments, **settings))


weak_image = compiled(views.weak_image, static_argnums=2)
weak_label = compiled(views.weak_label, static_argnums=2)
weak_soft_label = compiled(views.weak_soft_label, static_argnums=(2, 3, 4))
weak_features = compiled(views.weak_features, static_argnums=(2, 3))
weak_inside = compiled(views.weak_inside, static_argnums=(1, 2))
strong_image = compiled(views.strong_image)
strong_label = compiled(views.strong_label, static_argnums=2)
strong_map = compiled(views.strong_map, static_argnums=2)
draw_weak_view = compiled(views.draw_weak_view, static_argnums=(1, 2), static_argnames=("base_width", "scale", "flip"))
draw_strong_view = compiled(
    views.draw_strong_view,
    static_argnums=1,
    static_argnames=("operations", "probability", "flip", "randaugment", "cutout_fraction"),
)


def identity_weak_view(batch: int, image_size: tuple[int, int]) -> WeakView:
    """The view that shows each image from its top left corner as it is."""
    return WeakView(
        scaled_size=np.tile(np.int32(image_size), (batch, 1)),
        offset=np.zeros((batch, 2), np.int32),
        flip=np.zeros(batch, bool),
    )


def identity_strong_view(batch: int, operations: int = 2) -> StrongView:
    """The view that changes nothing."""
    return StrongView(
        flip=np.zeros(batch, bool),
        operation=np.full((batch, operations), POOL.index("identity"), np.int32),
        level=np.ones((batch, operations), np.int32),
        sign=np.ones((batch, operations), np.int32),
        active=np.zeros((batch, operations), bool),
        cutout=np.zeros((batch, 4), np.int32),
    )


def weak(scaled, offset, flip) -> WeakView:
    return WeakView(np.asarray(scaled, np.int32), np.asarray(offset, np.int32), np.asarray(flip))


def strong(*operations, flip=False, cutout=(0, 0, 0, 0)) -> StrongView:
    """One strong view of up to two named operations: (name, level, sign) each."""
    names, levels, signs = zip(*operations, *[("identity", 1, 1)] * (2 - len(operations)), strict=True)
    return StrongView(
        flip=np.asarray([flip]),
        operation=np.asarray([[POOL.index(name) for name in names]], np.int32),
        level=np.asarray([levels], np.int32),
        sign=np.asarray([signs], np.int32),
        active=np.ones((1, 2), bool),
        cutout=np.asarray([cutout], np.int32),
    )


def draw_weak(seed: int, batch: int, size=SIZE, crop=CROP, **settings) -> WeakView:
    keys = jax.random.split(jax.random.key(seed), batch)
    return draw_weak_view(keys, size, crop, **(dict(base_width=size[1], scale=(0.7, 1.5), flip=True) | settings))


def draw_strong(seed: int, batch: int, crop=CROP, **settings) -> StrongView:
    return draw_strong_view(jax.random.split(jax.random.key(seed), batch), crop, **settings)


def draw_geometric(seed: int, batch: int, crop=CROP) -> StrongView:
    """Strong views whose every operation is applied and geometric, so that colours tell the class."""
    view, first = draw_strong(seed, batch, crop), len(colour.OPERATIONS)
    top, _, left, right = view.cutout.T
    return view.replace(
        operation=first + view.operation % (len(POOL) - first),
        active=np.ones_like(view.active),
        cutout=np.stack([top, top + 12, left, right], axis=1),
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
