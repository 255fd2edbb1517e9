"""What stands and moves in the rendered streets. Each function draws one object whose foot is at (x, z), metres."""

import numpy as np

from proda_jax.data_prep.demo_canvas import Canvas
from proda_jax.data_prep.demo_looks import FOLIAGE, PLAIN


def _shadow(canvas: Canvas, label: str, x: float, z: float, width: float, length: float) -> None:
    part = canvas.part(label, label, shade=0.55)
    canvas.ground(part, x - width / 2, x + width / 2, z - 0.15, z + length)


def _inner_side(canvas: Canvas, x: float, width: float) -> float:
    """Lateral position of the side that the camera sees."""
    return x - np.sign(x) * width / 2


def car(canvas: Canvas, x: float, z: float) -> None:
    """A car seen from its end."""
    rng = canvas.rng
    width, height, length = rng.uniform(1.7, 1.95), rng.uniform(1.4, 1.75), rng.uniform(3.4, 4.6)
    _shadow(canvas, "road", x, z, width * 1.08, length)
    strength = canvas.looks.strength()
    body = canvas.part("car", "car", z=z, strength=strength)
    flank = canvas.part("car", "car", z=z, strength=strength, shade=0.8)
    glass, tyre = canvas.part("car", "glass", z=z), canvas.part("car", "tyre", z=z)
    light = canvas.part("car", "tail light", z=z)
    waist, inner = 0.58 * height, _inner_side(canvas, x, width)
    canvas.side(flank, inner, 0.3, waist, z, z + length)
    canvas.side(glass, inner * 0.97, waist, height, z + 0.7, z + 0.8 * length)
    for wheel in (z + 0.15 * length, z + 0.72 * length):
        canvas.side(tyre, inner, 0, 0.5, wheel, wheel + 0.6)
    left, right = x - width / 2, x + width / 2
    canvas.face(tyre, left, left + 0.3, 0, 0.5, z)
    canvas.face(tyre, right - 0.3, right, 0, 0.5, z)
    canvas.face(body, left, right, 0.25, waist, z)
    canvas.face(body, left + 0.15, right - 0.15, waist, height, z)
    canvas.face(glass, left + 0.28, right - 0.28, waist + 0.06, height - 0.14, z)
    for edge in (left, right - 0.28):
        canvas.face(light, edge, edge + 0.28, waist - 0.3, waist - 0.08, z)


def _coach(canvas: Canvas, label: str, x: float, z: float, size: tuple[float, float, float]) -> tuple[float, float]:
    """The body of a large vehicle; returns its left and right edge."""
    width, height, length = size
    _shadow(canvas, "road", x, z, width * 1.05, length)
    strength = canvas.looks.strength()
    flank = canvas.part(label, label, z=z, strength=strength, shade=0.82)
    body, tyre = canvas.part(label, label, z=z, strength=strength), canvas.part(label, "tyre", z=z)
    inner = _inner_side(canvas, x, width)
    canvas.side(flank, inner, 0.45, height, z, z + length)
    for wheel in (0.12, 0.7):
        canvas.side(tyre, inner, 0, 0.9, z + wheel * length, z + wheel * length + 1.1)
    left, right = x - width / 2, x + width / 2
    canvas.face(tyre, left + 0.1, left + 0.5, 0, 0.6, z)
    canvas.face(tyre, right - 0.5, right - 0.1, 0, 0.6, z)
    canvas.face(body, left, right, 0.4, height, z)
    return left, right


def truck(canvas: Canvas, x: float, z: float) -> None:
    """A truck: closed box with doors, no windows; the cab shows ahead of it."""
    rng = canvas.rng
    height, length = rng.uniform(3.0, 3.8), rng.uniform(5, 8)
    cab, inner = canvas.part("truck", "cab", z=z + length), _inner_side(canvas, x, 2.3)
    canvas.side(cab, inner, 0.4, 0.75 * height, z + length, z + length + 1.8)
    left, right = _coach(canvas, "truck", x, z, (2.5, height, length))
    dark = canvas.part("truck", "tyre", z=z)
    canvas.face(dark, left, right, 0.4, 0.75, z)
    canvas.face(dark, x - 0.04, x + 0.04, 0.75, height - 0.2, z)


def bus(canvas: Canvas, x: float, z: float) -> None:
    """A bus: long, with a band of windows all round."""
    height, length = canvas.rng.uniform(2.9, 3.3), canvas.rng.uniform(9, 12)
    left, right = _coach(canvas, "bus", x, z, (2.55, height, length))
    glass, light = canvas.part("bus", "glass", z=z), canvas.part("bus", "tail light", z=z)
    inner = _inner_side(canvas, x, 2.55)
    for start in np.arange(0.5, length - 1.2, 1.8):
        canvas.side(glass, inner, 0.48 * height, 0.82 * height, z + start, z + start + 1.5)
    canvas.face(glass, left + 0.2, right - 0.2, 0.48 * height, 0.84 * height, z)
    for edge in (left + 0.1, right - 0.45):
        canvas.face(light, edge, edge + 0.35, 0.9, 1.2, z)


def person(canvas: Canvas, x: float, z: float) -> None:
    """Someone standing or walking."""
    height, stride = canvas.rng.uniform(1.5, 1.95), canvas.rng.uniform(0.05, 0.3)
    strength = canvas.looks.strength()
    trousers, clothes, skin = (
        canvas.part("person", material, z=z, strength=strength) for material in ("trousers", "clothes", "skin")
    )
    hip, shoulder = 0.48 * height, 0.84 * height
    for foot in (-stride, stride):
        canvas.line(trousers, [(x, hip), (x + foot, 0)], z, 0.27)
    canvas.face(clothes, x - 0.29, x + 0.29, hip, shoulder, z)
    for hand in (-0.38, 0.38):
        canvas.line(clothes, [(x + 0.7 * hand, shoulder), (x + hand, hip)], z, 0.17)
    canvas.disc(skin, x, 0.92 * height, z, 0.1 * height, 0.85)


def _wheels(canvas: Canvas, label: str, x: float, z: float, reach: float, radius: float, squeeze: float) -> None:
    tyre, hub = canvas.part(label, "tyre", z=z), canvas.part(label, label, z=z)
    for center in (x - reach * squeeze, x + reach * squeeze):
        canvas.disc(tyre, center, radius, z, radius, squeeze)
        canvas.disc(hub, center, radius, z, 0.45 * radius, squeeze)


def _rider(canvas: Canvas, x: float, seat: float, z: float, lean: float) -> None:
    clothes, skin = canvas.part("rider", "clothes", z=z), canvas.part("rider", "skin", z=z)
    helmet, trousers = canvas.part("rider", "helmet", z=z), canvas.part("rider", "trousers", z=z)
    canvas.line(trousers, [(x, seat), (x + 0.6 * lean, 0.55 * seat), (x + 0.2 * lean, 0.2)], z, 0.2)
    canvas.line(clothes, [(x, seat), (x + lean, seat + 0.58)], z, 0.44)
    canvas.line(clothes, [(x + 0.9 * lean, seat + 0.45), (x + 1.6 * lean, seat + 0.12)], z, 0.14)
    canvas.disc(skin, x + 1.15 * lean, seat + 0.72, z, 0.15)
    canvas.disc(helmet, x + 1.15 * lean, seat + 0.82, z, 0.15)


def bicycle(canvas: Canvas, x: float, z: float, ridden: bool) -> None:
    """A bicycle, leaning somewhere or with its rider."""
    squeeze = canvas.rng.uniform(0.55, 1.0) * canvas.rng.choice((-1, 1))
    _wheels(canvas, "bicycle", x, z, 0.55, 0.36, abs(squeeze))
    frame = canvas.part("bicycle", "bicycle", z=z)
    points = [(-0.55, 0.36), (-0.15, 0.85), (0.4, 0.85), (0.0, 0.34), (-0.15, 0.85)]
    canvas.line(frame, [(x + squeeze * a, b) for a, b in points], z, 0.14)
    canvas.line(frame, [(x + squeeze * a, b) for a, b in [(0.55, 0.36), (0.4, 1.05), (0.25, 1.08)]], z, 0.14)
    if ridden:
        _rider(canvas, x - 0.15 * squeeze, 0.95, z, 0.3 * squeeze)


def motorcycle(canvas: Canvas, x: float, z: float, ridden: bool) -> None:
    """A motorcycle, parked or with its rider; heavier in the middle than a bicycle."""
    squeeze = canvas.rng.uniform(0.6, 1.0) * canvas.rng.choice((-1, 1))
    _wheels(canvas, "motorcycle", x, z, 0.68, 0.36, abs(squeeze))
    body, seat = canvas.part("motorcycle", "motorcycle", z=z), canvas.part("motorcycle", "tyre", z=z)
    outline = [(-0.8, 0.75), (-0.1, 0.8), (0.25, 1.05), (0.5, 0.95), (0.6, 0.45), (0.2, 0.25), (-0.3, 0.25)]
    canvas.polygon(body, [canvas.camera.project(x + squeeze * a, b, z) for a, b in outline])
    canvas.line(seat, [(x - 0.75 * squeeze, 0.85), (x, 0.85)], z, 0.16)
    canvas.line(seat, [(x + 0.6 * squeeze, 0.4), (x + 0.42 * squeeze, 1.15)], z, 0.1)
    if ridden:
        _rider(canvas, x - 0.15 * squeeze, 0.9, z, 0.22 * squeeze)


def pole(canvas: Canvas, x: float, z: float, carries: str) -> None:
    """A pole that carries a 'lamp', a 'light' (traffic light) or a 'sign'."""
    rng = canvas.rng
    height = {"lamp": rng.uniform(5.5, 7.5), "light": rng.uniform(3.0, 3.8), "sign": rng.uniform(2.4, 3.2)}[carries]
    mast = canvas.part("pole", "pole", z=z)
    canvas.line(mast, [(x, 0), (x, height)], z, 0.32)
    if carries == "lamp":
        canvas.line(mast, [(x, height), (x - np.sign(x) * 1.6, height + 0.3)], z, 0.26)
    elif carries == "light":
        housing = canvas.part("traffic light", "lamp housing", z=z)
        canvas.face(housing, x - 0.36, x + 0.36, height - 1.4, height, z)
        lit = rng.integers(3)
        canvas.disc(canvas.part("traffic light", "lamp", z=z), x, height - 0.28 - 0.42 * lit, z, 0.24)
    else:
        _sign(canvas, x, height, z)


def _sign(canvas: Canvas, x: float, height: float, z: float) -> None:
    plate, face = canvas.part("traffic sign", "sign", z=z), canvas.part("traffic sign", "sign face", z=z)
    shape, y = canvas.rng.integers(3), height - 0.3
    if shape == 0:
        canvas.disc(plate, x, y, z, 0.5)
        canvas.disc(face, x, y, z, 0.26)
    elif shape == 1:
        canvas.face(plate, x - 0.5, x + 0.5, y - 0.5, y + 0.5, z)
        canvas.face(face, x - 0.16, x + 0.16, y - 0.3, y + 0.3, z)
    else:
        corners = [(x - 0.6, y - 0.5), (x + 0.6, y - 0.5), (x, y + 0.6)]
        canvas.polygon(plate, [canvas.camera.project(a, b, z) for a, b in corners])
        canvas.disc(face, x, y - 0.16, z, 0.2)


def tree(canvas: Canvas, x: float, z: float) -> None:
    """A tree of a few overlapping crowns."""
    rng = canvas.rng
    height, radius = rng.uniform(3.5, 7), rng.uniform(1.2, 2.3)
    trunk = canvas.part("vegetation", "trunk", z=z)
    canvas.line(trunk, [(x, 0), (x, height)], z, 0.35)
    strength = canvas.looks.strength()
    for shade in (0.75, 0.88, 0.96, 1.04):
        crown = canvas.part("vegetation", "vegetation", FOLIAGE, z=z, strength=strength, shade=shade)
        at = x + rng.uniform(-0.5, 0.5) * radius, height + rng.uniform(-0.5, 0.8) * radius
        canvas.disc(crown, *at, z, radius * rng.uniform(0.6, 0.95), rng.uniform(0.9, 1.3))


def hedge(canvas: Canvas, x: float, z0: float, z1: float, height: float) -> None:
    """Greenery along the street from z0 to z1, with bushes that break its upper edge."""
    green = canvas.part("vegetation", "vegetation", FOLIAGE, x=x)
    canvas.side(green, x, 0, height, z0, z1)
    for z in np.arange(z1, z0, -1.8):
        bush = canvas.part("vegetation", "vegetation", FOLIAGE, z=z, shade=canvas.rng.uniform(0.8, 1.1))
        canvas.disc(bush, x + 0.4 * np.sign(x), height * canvas.rng.uniform(0.7, 1), z, 0.9, 1.3)


def barrier(canvas: Canvas, label: str, texture: int, x: float, z0: float, z1: float, height: float) -> None:
    """A wall or a fence along the street from z0 to z1."""
    canvas.side(canvas.part(label, label, texture, x=x), x, 0, height, z0, z1)
    canvas.side(canvas.part(label, label, PLAIN, x=x, shade=0.85), x, height - 0.12, height, z0, z1)
