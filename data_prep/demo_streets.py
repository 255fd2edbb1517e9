"""Renders small streets with labels, in two domains: the data set of the demo.

The source looks like a game: flat saturated colours, one camera, even light. The target looks like a camera's images:
other colours and textures class by class, shadows, haze and noise, other streets and another mix of things in them.
Each target image has its own distance from the source look, so that self-training finds easy images to start from.
"""

import dataclasses

import numpy as np

from proda_jax.data_prep import demo_objects as objects
from proda_jax.data_prep.demo_canvas import Camera, Canvas
from proda_jax.data_prep.demo_looks import (
    ASPHALT,
    FACADE,
    FOLIAGE,
    GRASS,
    MASONRY,
    SKY,
    SLABS,
    SLATS,
    Looks,
    expose,
    photograph,
)

DOMAINS = ("source", "target")
_NEAR, _HORIZON = 1.0, 60.0  # metres; the street is drawn between these distances


@dataclasses.dataclass(frozen=True)
class _Street:
    """Cross-section and population of a street; positions in metres from the camera, to the right."""

    road: tuple[float, float]
    pavement: tuple[float, float]  # width on the left and on the right
    verge: tuple[bool, bool]  # grass between road and pavement
    storeys: tuple[float, float]  # range of building heights, metres
    lots: tuple[float, ...]  # odds of building, wall, fence, hedge, meadow on a lot
    counts: dict[str, float]  # mean number of objects


def _camera(domain: str, size: tuple[int, int], rng: np.random.Generator) -> Camera:
    height, width = size
    if domain == "source":
        center = height * rng.uniform(0.44, 0.47), width * rng.uniform(0.48, 0.52)
        return Camera(size, 0.62 * width, center, rng.uniform(1.65, 1.75))
    center = height * rng.uniform(0.36, 0.55), width * rng.uniform(0.38, 0.62)
    return Camera(size, width * rng.uniform(0.52, 0.74), center, rng.uniform(1.4, 2.3))


def _street(domain: str, rng: np.random.Generator) -> _Street:
    counts = dict(car=3.0, truck=0.5, bus=0.5, person=2.2, bicycle=0.6, cyclist=0.6, motorcycle=0.4, biker=0.4,
                  tree=1.2, lamp=1.0, light=0.9, sign=1.0)  # fmt: skip
    if domain == "source":
        return _Street(
            road=(-rng.uniform(4.8, 5.4), rng.uniform(3.2, 3.8)), pavement=(3.0, 3.0), verge=tuple(rng.random(2) < 0.3),
            storeys=(7, 16), lots=(0.5, 0.12, 0.12, 0.11, 0.15), counts=counts,
        )  # fmt: skip
    counts |= dict(car=4.2, person=3.4, tree=2.4, cyclist=0.8)
    busy = rng.uniform(0.5, 1.3)
    return _Street(
        road=(-rng.uniform(2.6, 6.5), rng.uniform(2.4, 5.0)), pavement=tuple(rng.uniform(2.0, 4.4, 2)),
        verge=tuple(rng.random(2) < 0.35), storeys=((4, 11), (10, 24))[rng.integers(2)],
        lots=(0.46, 0.15, 0.14, 0.14, 0.11), counts={k: v * busy for k, v in counts.items()},
    )  # fmt: skip


def _draw_ground(canvas: Canvas, street: _Street) -> None:
    left, right = street.road
    road = canvas.part("road", "road", ASPHALT)
    meadow = canvas.part("terrain", "terrain", GRASS)
    canvas.ground(meadow, -300, 300, _NEAR, 4 * _HORIZON)
    strength = canvas.looks.strength()
    for side, edge, width, verge in zip((-1, 1), street.road, street.pavement, street.verge, strict=True):
        pavement = canvas.part("sidewalk", "sidewalk", SLABS, strength=strength)
        canvas.ground(pavement, *sorted((edge, edge + side * width)), _NEAR, 2 * _HORIZON)
        kerb = canvas.part("sidewalk", "sidewalk", shade=0.75, strength=strength)
        canvas.ground(kerb, *sorted((edge, edge + side * 0.2)), _NEAR, _HORIZON)
        if verge:
            grass = canvas.part("terrain", "terrain", GRASS)
            canvas.ground(grass, *sorted((edge + side * 0.2, edge + side * 0.45 * width)), _NEAR, _HORIZON)
    canvas.ground(road, left, right, _NEAR, 2 * _HORIZON)
    marking, middle = canvas.part("road", "marking"), (left + right) / 2
    if canvas.rng.random() < 1 - 0.4 * canvas.looks.far:
        for z in np.arange(2.0 + 3 * canvas.rng.random(), 40, 5):
            canvas.ground(marking, middle - 0.09, middle + 0.09, z, z + 2.4)
    if canvas.rng.random() < 0.3:
        z = canvas.rng.uniform(5, 9)
        for x in np.arange(left + 0.4, right - 0.5, 1.0):
            canvas.ground(marking, x, x + 0.5, z, z + 2.2)


def _draw_end(canvas: Canvas) -> None:
    """What closes the view at the end of the street."""
    for x in np.arange(-150, 150, 16.0):
        if canvas.rng.random() < 0.45:
            crown = canvas.part("vegetation", "vegetation", FOLIAGE, z=_HORIZON)
            canvas.disc(crown, x + 6, 3, _HORIZON, canvas.rng.uniform(4, 8), 1.5)
        else:
            house = canvas.part("building", "building", FACADE, z=_HORIZON, second="glass")
            canvas.face(house, x, x + 15, -0.5, canvas.rng.uniform(5, 14), _HORIZON)


def _draw_lots(canvas: Canvas, street: _Street, side: int) -> None:
    """What borders the street on one side, far to near."""
    rng, edge, outward = canvas.rng, street.road[(side + 1) // 2], street.pavement[(side + 1) // 2]
    x = edge + side * outward
    cuts = [_HORIZON]
    while cuts[-1] > 2 * _NEAR:
        cuts.append(max(_NEAR, cuts[-1] - rng.uniform(5, 13)))
    for z1, z0 in zip(cuts, cuts[1:], strict=False):
        kind = rng.choice(("building", "wall", "fence", "hedge", "meadow"), p=street.lots)
        if kind == "building":
            height, strength = rng.uniform(*street.storeys), canvas.looks.strength()
            house = dict(label="building", material="building", texture=FACADE, second="glass", strength=strength)
            canvas.face(canvas.part(**house, z=z0, shade=0.8), *sorted((x, x + side * 12)), 0, height, z0)
            canvas.side(canvas.part(**house, x=x), x, 0, height, z0, z1)
            continue
        if kind != "meadow" and rng.random() < 0.5:
            objects.tree(canvas, x + side * rng.uniform(2, 5), (z0 + z1) / 2)
        if kind == "hedge":
            objects.hedge(canvas, x, z0, z1, rng.uniform(1.2, 3))
        elif kind != "meadow":
            texture, height = {"wall": (MASONRY, (1.7, 3.0)), "fence": (SLATS, (1.4, 2.2))}[kind]
            objects.barrier(canvas, kind, texture, x, z0, z1, rng.uniform(*height))


def _draw_objects(canvas: Canvas, street: _Street) -> None:
    """What stands and moves in the street, far to near."""
    rng, (left, right) = canvas.rng, street.road

    def pavement() -> float:
        side = rng.integers(2)
        return street.road[side] + (-1, 1)[side] * rng.uniform(0.5, max(0.8, street.pavement[side] - 0.4))

    def kerb() -> float:
        side = rng.integers(2)
        return street.road[side] + (-0.5, 0.5)[side]

    def lane() -> float:
        parked = rng.random() < 0.5
        return rng.choice((left + 1.1, right - 1.1)) if parked else rng.uniform(left + 1.4, right - 1.4)

    draw = {
        "car": (objects.car, lane, (5.5, 20), {}),
        "truck": (objects.truck, lane, (8, 19), {}),
        "bus": (objects.bus, lane, (8, 19), {}),
        "person": (objects.person, pavement, (3.8, 10), {}),
        "bicycle": (objects.bicycle, pavement, (3.8, 8), {"ridden": False}),
        "cyclist": (objects.bicycle, lane, (4, 9), {"ridden": True}),
        "motorcycle": (objects.motorcycle, kerb, (4, 8.5), {"ridden": False}),
        "biker": (objects.motorcycle, lane, (4.2, 9), {"ridden": True}),
        "tree": (objects.tree, pavement, (7, 30), {}),
        "lamp": (objects.pole, kerb, (5, 13), {"carries": "lamp"}),
        "light": (objects.pole, kerb, (5, 11), {"carries": "light"}),
        "sign": (objects.pole, kerb, (5, 11), {"carries": "sign"}),
    }
    placed = [
        (rng.uniform(*draw[kind][2]), kind) for kind, mean in street.counts.items() for _ in range(rng.poisson(mean))
    ]
    for z, kind in sorted(placed, reverse=True):
        function, place, _, settings = draw[kind]
        function(canvas, place(), z, **settings)


def render(domain: str, seed: int, size: tuple[int, int] = (96, 192)) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street.

    Args:
      domain: 'source' or 'target'.
      seed: of the scene; the same (domain, seed, size) gives the same image.
      size: (height, width), pixels.

    Returns:
      image uint8 [height, width, 3] and its label, Cityscapes train ids, uint8 [height, width]. There are no trains.

    Raises:
      ValueError: there is no such domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain {domain!r} does not exist; choose one of {', '.join(DOMAINS)}")
    rng = np.random.default_rng((DOMAINS.index(domain), seed))
    far = 0.0 if domain == "source" else 0.12 + 0.85 * rng.beta(1.3, 1.4)
    looks = Looks(rng, far)
    canvas = Canvas(_camera(domain, size, rng), looks)
    canvas.part("sky", "sky", SKY, z=200.0)  # part 0 is where nothing else is drawn
    street = _street(domain, rng)
    _draw_end(canvas)
    _draw_ground(canvas, street)
    for side in (-1, 1):
        _draw_lots(canvas, street, side)
    _draw_objects(canvas, street)
    image, label, depth, ground_x = canvas.develop()
    if far:
        image = photograph(image, depth, ground_x, looks)
    return expose(image, looks), label
