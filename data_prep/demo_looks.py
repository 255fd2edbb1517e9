"""Colours, textures and camera of the rendered streets: what differs between the demo's two domains."""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageFilter

# Colours of what is drawn, by material, in the two domains. Target tones overlap those of *other* source materials
# (pavement like source asphalt, dry foliage like source walls), so that colour alone does not carry over.
_SOURCE_COLORS = {
    "road": [(92, 92, 100), (106, 104, 108)],
    "marking": [(235, 235, 235)],
    "sidewalk": [(196, 168, 166), (205, 182, 170)],
    "building": [(214, 130, 84), (206, 180, 96), (128, 150, 196), (196, 96, 96), (176, 140, 190), (226, 206, 170)],
    "glass": [(70, 120, 190)],
    "wall": [(150, 146, 158), (166, 156, 150)],
    "fence": [(172, 120, 66), (150, 100, 58)],
    "pole": [(70, 74, 84)],
    "lamp housing": [(26, 26, 30)],
    "lamp": [(255, 40, 40), (60, 255, 90), (255, 200, 40)],
    "sign": [(220, 30, 40), (30, 80, 220), (250, 210, 30)],
    "sign face": [(250, 250, 250)],
    "vegetation": [(56, 150, 48), (72, 168, 60), (40, 128, 52)],
    "trunk": [(110, 76, 46)],
    "terrain": [(124, 190, 70), (140, 196, 84)],
    "sky": [(116, 176, 240), (160, 200, 240), (190, 208, 228)],
    "skin": [(236, 190, 150)],
    "clothes": [(240, 60, 140), (250, 150, 30), (60, 220, 220), (160, 60, 220)],
    "trousers": [(40, 50, 120), (60, 60, 70)],
    "helmet": [(240, 240, 60)],
    "car": [(210, 40, 40), (40, 80, 210), (240, 240, 240), (240, 200, 40)],
    "truck": [(60, 150, 120), (214, 120, 40)],
    "cab": [(230, 230, 235)],
    "bus": [(240, 190, 30), (230, 160, 20)],
    "motorcycle": [(200, 30, 60), (30, 30, 160)],
    "bicycle": [(30, 170, 170), (200, 60, 40)],
    "tyre": [(28, 28, 30)],
    "tail light": [(255, 40, 30)],
}
_TARGET_COLORS = {
    "road": [(128, 122, 116), (108, 108, 108), (146, 138, 130), (84, 82, 84)],
    "marking": [(176, 172, 160), (150, 146, 136)],
    "sidewalk": [(112, 108, 106), (136, 128, 122), (98, 98, 102), (158, 148, 136)],
    "building": [(124, 84, 66), (148, 144, 138), (96, 92, 88), (172, 160, 138), (110, 118, 108), (134, 104, 84)],
    "glass": [(44, 46, 50), (170, 176, 178), (82, 86, 84)],
    "wall": [(112, 110, 88), (128, 98, 80), (96, 100, 92)],
    "fence": [(78, 88, 82), (130, 132, 130), (64, 56, 52)],
    "pole": [(140, 142, 138), (96, 84, 70), (112, 116, 110)],
    "lamp housing": [(58, 62, 40), (40, 42, 44), (150, 130, 40)],
    "lamp": [(230, 120, 90), (150, 220, 190), (90, 60, 50)],
    "sign": [(176, 90, 84), (84, 110, 150), (206, 204, 196), (150, 150, 152)],
    "sign face": [(220, 216, 206), (150, 150, 148)],
    "vegetation": [(92, 88, 50), (70, 78, 44), (124, 98, 54), (54, 62, 42), (110, 104, 70)],
    "trunk": [(72, 62, 54)],
    "terrain": [(146, 130, 88), (122, 122, 76), (164, 150, 112)],
    "sky": [(214, 216, 218), (188, 198, 208), (222, 214, 202), (168, 192, 220)],
    "skin": [(178, 134, 108), (112, 82, 66), (206, 166, 142)],
    "clothes": [(52, 54, 62), (92, 80, 72), (120, 122, 126), (104, 52, 50), (60, 74, 64)],
    "trousers": [(44, 44, 50), (84, 84, 92), (98, 88, 72)],
    "helmet": [(70, 70, 74), (190, 190, 188)],
    "car": [(62, 64, 70), (150, 152, 154), (34, 36, 40), (190, 190, 188), (88, 40, 40), (56, 70, 92)],
    "truck": [(190, 188, 180), (112, 116, 124), (150, 130, 108)],
    "cab": [(120, 60, 52), (90, 96, 106)],
    "bus": [(180, 66, 58), (206, 206, 198), (72, 104, 128)],
    "motorcycle": [(60, 60, 64), (110, 44, 40)],
    "bicycle": [(70, 72, 76), (120, 112, 100)],
    "tyre": [(40, 40, 42)],
    "tail light": [(170, 60, 50)],
}

PLAIN, ASPHALT, SLABS, FACADE, MASONRY, SLATS, FOLIAGE, GRASS, SKY = range(9)


@dataclasses.dataclass
class Looks:
    """How one image looks.

    Attributes:
      rng: the image's generator.
      far: 0 for the source look, up to 1 for target images that look least like the source.
    """

    rng: np.random.Generator
    far: float

    def strength(self) -> float:
        """How far one part of the image is from the source look: parts of one target image differ."""
        return min(max(self.far + self.rng.normal(0, 0.22), 0.0), 1.0) if self.far else 0.0

    def tones(self, material: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """One of the material's source colours and one of its target colours."""
        near, target = _SOURCE_COLORS[material], _TARGET_COLORS[material]
        return near[int(self.rng.random() * len(near))], target[int(self.rng.random() * len(target))]

    def mix(self, near: np.ndarray, target: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """Colours between source and target, each a little off.

        Args:
          near: source colours, [parts, 3].
          target: target colours, [parts, 3].
          strength: how far from the source look, [parts].

        Returns:
          float32 [parts, 3] in 0..255.
        """
        strength = strength[:, None]
        spread = 8 + 8 * strength
        offset = self.rng.standard_normal((len(near), 1)) + 0.4 * self.rng.standard_normal((len(near), 3))
        return np.clip(near + strength * (target - near) + spread * offset, 4, 255).astype(np.float32)


@functools.cache
def _noise(scale: int) -> np.ndarray:
    """Tile of noise in -1..1 whose blobs are about `scale` texels wide, float32 [256, 256]."""
    rng = np.random.default_rng(scale)
    spectrum = np.fft.rfft2(rng.standard_normal((256, 256)))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    tile = np.fft.irfft2(spectrum * np.exp(-((frequency * scale) ** 2)), s=(256, 256))
    return np.clip(tile / (2 * tile.std()), -1, 1).astype(np.float32)


def _sample(scale: int, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    return _noise(scale)[s.astype(np.int32) & 255, t.astype(np.int32) & 255]


def _joint(x: np.ndarray, period: float | np.ndarray, width: float) -> np.ndarray:
    """True within `width` of a multiple of `period`."""
    return x % period < width


def _facade(s, t, far, phase, color, glass) -> np.ndarray:
    """Rows of windows; far from the source they are narrow and high with ledges and stained masonry between."""
    period = np.where(far > 0.5, 1.5 + phase, 2.4 + 0.8 * phase)
    storey = np.where(far > 0.5, 3.4 + 0.8 * phase, 3.0)
    across, up = (s / period + phase) % 1, (t / storey) % 1
    narrow = 0.34 * (far > 0.5) * (0.5 + phase)
    window = (across > 0.25 + narrow) & (across < 0.8) & (up > 0.3 - 0.2 * narrow) & (up < 0.78)
    shade = 1 + far * (0.22 * _sample(8, 8 * s, 3 * t) + 0.16 * _sample(2, 14 * s, 14 * t))
    shade *= 1 - 0.3 * ((far > 0.4) & (up < 0.09))
    return np.where(window[:, None], glass, color * shade[:, None])


def _shade(material: int, s, t, far, phase) -> np.ndarray:
    """Brightness of a texture at surface coordinates (s, t) in metres, [pixels]."""
    coarse, fine = _sample(16, 5 * s + 99 * phase, 5 * t), _sample(2, 24 * s, 24 * t)
    if material == ASPHALT:
        patch = _sample(24, 9 * s + 57 * phase, 3 * t) > 0.45
        return (1 + 0.03 * fine) + far * (0.12 * coarse + 0.14 * fine - 0.24 * patch * (phase > 0.4))
    if material == SLABS:
        joint = _joint(s, 1.2, 0.14) | _joint(t, np.where(far > 0.5, 0.9, 1.8), 0.16)
        return 1 - 0.14 * joint + far * (0.10 * coarse + 0.14 * fine)
    if material == MASONRY:
        joint = _joint(t, np.where(far > 0.5, 0.55, 0.35), 0.09) | _joint(s + (t // 0.35) * 0.5, 1.0, 0.12)
        return 1 - 0.22 * joint + far * (0.30 * coarse + 0.16 * fine)
    if material == SLATS:
        bars = np.where(far > 0.5, _joint(s, 0.5, 0.2), _joint(s, 0.36, 0.26))
        return 0.62 + 0.42 * bars + 0.2 * far * fine
    if material == FOLIAGE:
        return 1 + (0.12 + 0.2 * far) * _sample(4, 9 * s, 9 * t) + far * (0.3 * _sample(2, 16 * s, 16 * t))
    if material == GRASS:
        return 1 + 0.05 * fine + far * (0.20 * coarse + 0.16 * fine)
    return np.ones_like(s)


def paint(parts: dict[str, np.ndarray], ids: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colours of all pixels before the camera.

    Args:
      parts: properties of the drawn parts by part id: 'color' and 'second' [parts, 3], 'material', 'far', 'phase'
        [parts].
      ids: part id of each pixel, [height, width].
      s: horizontal surface coordinate of each pixel, metres, [height, width].
      t: vertical (on the ground: along the street) surface coordinate, metres, [height, width].

    Returns:
      float32 [height, width, 3] in 0..255.
    """
    image = parts["color"][ids]
    material = parts["material"][ids]
    for kind in np.unique(material):
        if kind == PLAIN:
            continue
        where = np.nonzero(material == kind)
        held = ids[where]
        here = s[where], t[where], parts["far"][held], parts["phase"][held]
        if kind == FACADE:
            image[where] = _facade(*here, image[where], parts["second"][held])
        elif kind == SKY:
            row = (where[0] / ids.shape[0])[:, None]
            cloud = _sample(24, where[1] + 200 * here[3], 3 * where[0])[:, None] * here[2][:, None]
            image[where] += 60 * row * (1 - here[2][:, None]) + 22 * cloud
        else:
            image[where] *= _shade(kind, *here)[:, None]
    return image


def photograph(image: np.ndarray, depth: np.ndarray, ground_x: np.ndarray, looks: Looks) -> np.ndarray:
    """Light, air and lens of the target domain.

    Args:
      image: what is there, float32 [height, width, 3] in 0..255.
      depth: distance of each pixel, metres, [height, width].
      ground_x: lateral position of ground pixels, metres, NaN elsewhere, [height, width].
      looks: of this image.

    Returns:
      float32 [height, width, 3] in 0..255.
    """
    rng, far = looks.rng, looks.far
    height, width = depth.shape
    if rng.random() < 0.6:  # one side of the street lies in the shadow of its houses
        side, edge = rng.choice((-1, 1)), rng.uniform(-1, 4)
        edge = edge + 1.5 * _sample(8, 3 * np.minimum(depth, 80) + rng.integers(256), np.zeros_like(depth))
        with np.errstate(invalid="ignore"):
            image = image * np.where(side * ground_x > edge, 1 - 0.5 * far, 1)[..., None]
    column, row = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
    light = 1 + far * (rng.uniform(-0.3, 0.3) * column + rng.uniform(-0.15, 0.15) * row)
    light = light - far * rng.uniform(0, 0.2) * (column**2 + row**2)
    image = image * light[..., None].astype(np.float32)
    air = np.exp(-depth * far * rng.uniform(0, 0.035))[..., None].astype(np.float32)
    image = air * image + (1 - air) * np.array(rng.uniform(170, 220) + rng.normal(0, 8, 3), np.float32)
    image = np.clip(image, 0, 255).astype(np.uint8)
    blur = ImageFilter.BoxBlur(far * rng.uniform(0.2, 0.7))
    return np.asarray(Image.fromarray(image).filter(blur), np.float32)


def expose(image: np.ndarray, looks: Looks) -> np.ndarray:
    """Exposure, white balance and sensor noise; the source has a little of each, so that they alone are not the gap.

    Args:
      image: float32 [height, width, 3] in 0..255.
      looks: of this image.

    Returns:
      uint8 [height, width, 3].
    """
    rng, far = looks.rng, looks.far
    gains = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.025 + 0.025 * far, 3)).astype(np.float32)
    noise = rng.standard_normal((*image.shape[:2], 1), np.float32) + 0.5 * rng.standard_normal(image.shape, np.float32)
    sigma = np.float32(rng.uniform(0.5, 2.5) + far * rng.uniform(0, 3))
    return np.clip(image * gains + sigma * noise, 0, 255).astype(np.uint8)
