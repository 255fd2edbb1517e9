"""Image and label files of every kind, and a small raw GTA5 to prepare."""

import io
import pathlib

import numpy as np
from PIL import Image

from proda_jax.data.label_spaces import label_map, label_space
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.prepare import prepare

ROOT = pathlib.Path(__file__).parents[2]
SIZE = (64, 128)
CITYSCAPES = label_map("cityscapes", label_space("cityscapes19"))


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    return encoded(Image.fromarray(pixels, mode) if mode else Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int, below: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, shape).astype(np.uint8)


def stored(folder, dataset: str, split: str) -> list[dict]:
    """What a prepared split holds, as it lies there."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def prepare_gta5(root, **checks):
    meaning = label_map("gta5", label_space("cityscapes19"))
    return prepare("gta5", data_dir=str(root / "data"), checks=Checks(meaning, **checks), raw_dir=str(root / "raw"))


def images_of_each_kind() -> dict[str, tuple[bytes, np.ndarray]]:
    """{kind: (file, expected pixels)}"""
    pixels = noise(6, 8, 3)
    grey, palette = pixels[..., 0], Image.fromarray(pixels).quantize(16)
    repeated = np.repeat(grey[..., None], 3, -1)
    return {
        "rgb": (png(pixels), pixels),
        "rgba": (png(np.dstack([pixels, grey])), pixels),
        "grey": (png(grey), repeated),
        "grey with alpha": (encoded(Image.merge("LA", [Image.fromarray(grey)] * 2), "PNG"), repeated),
        "palette": (encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "jpeg": (encoded(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0), pixels),
        "grey jpeg": (encoded(Image.fromarray(grey), "JPEG", quality=100), repeated),
    }


def palette_image(values: np.ndarray, colors: int) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * colors).astype(np.uint8).tobytes())
    return image


def labels_of_each_kind() -> dict[str, tuple[bytes, np.ndarray]]:
    """{kind: (file, raw values)}"""
    values = noise(5, 9)
    few, two = values % 4, values % 2
    grey = Image.fromarray(values)
    return {
        "palette of four colours": (encoded(palette_image(few, 4), "PNG"), few),  # Pillow packs them into two bits
        "palette": (encoded(palette_image(values % 200, 200), "PNG"), values % 200),
        "grey": (png(values), values),
        "black and white": (encoded(Image.fromarray(two * 255).convert("1"), "PNG"), two),
        "grey in three channels": (encoded(Image.merge("RGB", [grey] * 3), "PNG"), values),
        "grey with alpha": (encoded(Image.merge("LA", [grey, grey]), "PNG"), values),
    }
