"""Perspective canvas of the rendered streets: draws part numbers, and knows what each part is made of."""

import dataclasses
import itertools

import numpy as np
from PIL import Image, ImageDraw

from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.data_prep import demo_looks as looks_lib

TRAIN_IDS = {name: i for i, name in enumerate(LABEL_SPACES["cityscapes19"].classes)}
_GROUND, _SIDE, _FRONT = range(3)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the street; x points right, y up, z ahead, metres.

    Attributes:
      size: (height, width) of the image, pixels.
      focal: focal length, pixels.
      center: (row, column) of the vanishing point.
      height: of the camera above the street, metres.
    """

    size: tuple[int, int]
    focal: float
    center: tuple[float, float]
    height: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """(column, row) of a point."""
        return self.center[1] + self.focal * x / z, self.center[0] + self.focal * (self.height - y) / z


class Canvas:
    """Collects parts and paints them back to front; a later part covers an earlier one."""

    def __init__(self, camera: Camera, looks: looks_lib.Looks):
        self.camera, self.looks, self.rng = camera, looks, looks.rng
        self._image = Image.new("I", camera.size[::-1], 0)
        self._draw = ImageDraw.Draw(self._image)
        self._parts: list[tuple] = []

    def part(
        self, label: str, material: str, texture: int = looks_lib.PLAIN, *, second: str | None = None,
        x: float | None = None, z: float | None = None, shade: float = 1.0, strength: float | None = None,
    ) -> int:  # fmt: skip
        """Registers something to draw.

        Args:
          label: its class.
          material: whose colours it has.
          texture: how its surface looks.
          second: material of the second colour of its texture.
          x: lateral position if it stands along the street, metres.
          z: distance if it faces the camera, metres; neither means it lies on the ground.
          shade: factor on the colour.
          strength: how far from the source look; drawn if not given.

        Returns:
          The part's number, for the drawing methods.
        """
        strength = self.looks.strength() if strength is None else strength
        plane, place = (_SIDE, x) if x is not None else (_FRONT, z) if z is not None else (_GROUND, 0.0)
        tones = *self.looks.tones(material), *self.looks.tones(second or material)
        self._parts.append((TRAIN_IDS[label], plane, place, texture, strength, shade, *itertools.chain(*tones)))
        return len(self._parts) - 1

    def polygon(self, part: int, points: list[tuple[float, float]]) -> None:
        """Fills a polygon given by (column, row)."""
        self._draw.polygon(points, fill=part)

    def face(self, part: int, x0: float, x1: float, y0: float, y1: float, z: float) -> None:
        """Fills a rectangle that faces the camera, at least two pixels wide and high."""
        (left, bottom), (right, top) = self.camera.project(x0, y0, z), self.camera.project(x1, y1, z)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        self._draw.rectangle((round(left), round(top), round(right), round(bottom)), fill=part)

    def disc(self, part: int, x: float, y: float, z: float, radius: float, squeeze: float = 1.0) -> None:
        """Fills an ellipse that faces the camera; `squeeze` is its width over its height."""
        column, row = self.camera.project(x, y, z)
        r = self.camera.focal * radius / z
        self._draw.ellipse((column - r * squeeze, row - r, column + r * squeeze, row + r), fill=part)

    def line(self, part: int, ends: list[tuple[float, float]], z: float, width: float) -> None:
        """Draws a polyline through (x, y) at distance z, `width` metres thick, at least two pixels."""
        pixels = max(2, round(self.camera.focal * width / z))
        self._draw.line([self.camera.project(x, y, z) for x, y in ends], fill=part, width=pixels)

    def side(self, part: int, x: float, y0: float, y1: float, z0: float, z1: float) -> None:
        """Fills a rectangle that stands along the street."""
        corners = ((y0, z0), (y1, z0), (y1, z1), (y0, z1))
        self.polygon(part, [self.camera.project(x, y, z) for y, z in corners])

    def ground(self, part: int, x0: float, x1: float, z0: float, z1: float) -> None:
        """Fills a rectangle on the ground."""
        corners = ((x0, z0), (x1, z0), (x1, z1), (x0, z1))
        self.polygon(part, [self.camera.project(x, 0, z) for x, z in corners])

    def develop(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Colours, train ids, distances and lateral ground positions of all pixels.

        Returns:
          image float32 [height, width, 3], label uint8 [height, width], depth float32 [height, width] in metres,
          ground_x float32 [height, width] in metres, NaN off the ground.
        """
        table = np.array(self._parts, np.float32)
        ids = np.asarray(self._image)
        label, plane, place, material = table[:, :4].T
        camera = self.camera
        row = np.arange(camera.size[0], dtype=np.float32)[:, None] - camera.center[0]
        column = np.arange(camera.size[1], dtype=np.float32)[None] - camera.center[1]
        planes, places = plane[ids], place[ids]
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.where(planes == _GROUND, camera.focal * camera.height / row, places)
            depth = np.where(planes == _SIDE, camera.focal * places / column, depth)
        depth = np.clip(np.nan_to_num(depth, nan=200), 0.5, 200)
        x, y = column * depth / camera.focal, camera.height - row * depth / camera.focal
        far, mix = table[:, 4], self.looks.mix
        parts = {
            "material": material.astype(np.int32), "far": far, "phase": self.looks.rng.random(len(table), np.float32),
            "color": mix(table[:, 6:9], table[:, 9:12], far) * table[:, 5:6],
            "second": mix(table[:, 12:15], table[:, 15:18], far),
        }  # fmt: skip
        image = looks_lib.paint(
            parts, ids, np.where(planes == _SIDE, depth, x), np.where(planes == _GROUND, depth, y)
        )
        ground_x = np.where(planes == _GROUND, x, np.nan)
        return image, label.astype(np.uint8)[ids], depth, ground_x
