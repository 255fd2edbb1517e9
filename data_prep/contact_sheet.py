"""A picture to look at before training: some images of each split, with their labels laid over them."""

import contextlib
import hashlib
import io

import numpy as np
from etils import epath
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from proda_jax.data import decode_pillow
from proda_jax.data.label_spaces import IGNORE, LabelMap
from proda_jax.data.prepared import Prepared
from proda_jax.system.files import write_atomically

NAME = "contact_sheet.png"
COLUMNS = 6
_CELL_WIDTH, _GAP, _LINE = 300, 6, 18  # pixels
_LEGEND_COLUMNS = 10
_LEGEND_WIDTH = COLUMNS * _CELL_WIDTH // _LEGEND_COLUMNS
_MEANING = "label map"  # entry of the PNG
_OPACITY = 0.6  # of the labels
_BACKGROUND, _INK = (255, 255, 255), (20, 20, 20)


def spread(count: int) -> list[int]:
    """Up to `COLUMNS` numbers below `count`, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(COLUMNS, count)).round()})


def refresh(folder: epath.Path, label_map: LabelMap) -> epath.Path:
    """Draws the contact sheet of a prepared data set, unless it is there with this meaning of labels; its path."""
    path = folder / NAME
    meaning = digest(label_map)
    if is_current(path, meaning):
        return path
    splits, held = {}, Prepared(folder)
    for split in held.splits:
        records = held.records(split)
        splits[split] = [records[i] for i in spread(len(records))]
    note = PngInfo()
    note.add_text(_MEANING, meaning)
    contents = io.BytesIO()
    draw(splits, label_map).save(contents, "PNG", pnginfo=note)
    with contextlib.suppress(OSError):  # a folder that may only be read keeps the one it has
        write_atomically(path, contents.getvalue())
    return path


def is_current(path: epath.Path, meaning: str) -> bool:
    """Whether there is a sheet that shows labels with this meaning."""
    return path.exists() and Image.open(io.BytesIO(path.read_bytes())).text.get(_MEANING) == meaning


def digest(label_map: LabelMap) -> str:
    """Differs for maps that show labels differently."""
    parts = (label_map.table, label_map.space.colors, "\n".join(label_map.space.classes).encode())
    return hashlib.sha256(b"".join(bytes(part) for part in parts)).hexdigest()[:16]


def draw(splits: dict[str, list[dict]], label_map: LabelMap) -> Image.Image:
    """Draws examples of each split in a row, each image over the same image with its label, and a legend below.

    Args:
      splits: {split: examples}, at most `COLUMNS` of each: 'image', 'label' (empty where there is none), 'name'.
      label_map: meaning of raw label values; what counts nowhere stays uncoloured.
    """
    parts = [part for name, examples in splits.items() for part in (_title(name), _row(examples, label_map))]
    parts.append(_legend(label_map))
    sheet = Image.new("RGB", (max(p.width for p in parts), sum(p.height + _GAP for p in parts)), _BACKGROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + _GAP
    return sheet


def _title(text: str) -> Image.Image:
    title = Image.new("RGB", (COLUMNS * _CELL_WIDTH, _LINE), _BACKGROUND)
    ImageDraw.Draw(title).text((_GAP, 3), text, fill=_INK)
    return title


def _row(examples: list[dict], label_map: LabelMap) -> Image.Image:
    cells = [_cell(example, label_map) for example in examples]
    row = Image.new("RGB", (COLUMNS * _CELL_WIDTH, max(c.height for c in cells)), _BACKGROUND)
    for column, cell in enumerate(cells):
        row.paste(cell, (column * _CELL_WIDTH, 0))
    return row


def _cell(example: dict, label_map: LabelMap) -> Image.Image:
    """One example: its image, the overlay if it has a label, and its name."""
    image = Image.fromarray(decode_pillow.image(example["image"]))
    width = _CELL_WIDTH - _GAP
    size = (width, max(round(image.height * width / image.width), 1))
    small = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    pictures = [small]
    if example["label"]:
        label = decode_pillow.label(example["label"], label_map)
        pictures.append(_overlay(np.asarray(small), label, label_map))
    cell = Image.new("RGB", (_CELL_WIDTH, len(pictures) * size[1] + _LINE), _BACKGROUND)
    for i, picture in enumerate(pictures):
        cell.paste(picture, (0, i * size[1]))
    ImageDraw.Draw(cell).text((0, cell.height - _LINE + 2), example["name"].decode()[-45:], fill=_INK)
    return cell


def _overlay(image: np.ndarray, label: np.ndarray, label_map: LabelMap) -> Image.Image:
    shown = Image.fromarray(label).resize(image.shape[1::-1], Image.Resampling.NEAREST)
    label = np.asarray(shown)
    palette = np.zeros((256, 3))
    palette[: len(label_map.space)] = label_map.space.colors
    opacity = np.where(label == IGNORE, 0.0, _OPACITY)[..., None]
    return Image.fromarray((image * (1 - opacity) + palette[label] * opacity).round().astype(np.uint8))


def _legend(label_map: LabelMap) -> Image.Image:
    lines = -(-len(label_map.space) // _LEGEND_COLUMNS)
    legend = Image.new("RGB", (COLUMNS * _CELL_WIDTH, lines * _LINE), _BACKGROUND)
    pen = ImageDraw.Draw(legend)
    for number, (name, color) in enumerate(zip(label_map.space.classes, label_map.space.colors, strict=True)):
        left, top = number % _LEGEND_COLUMNS * _LEGEND_WIDTH, number // _LEGEND_COLUMNS * _LINE
        pen.rectangle((left, top + 2, left + 24, top + _LINE - 4), fill=tuple(int(c) for c in color))
        pen.text((left + 30, top + 3), name, fill=_INK)
    return legend
