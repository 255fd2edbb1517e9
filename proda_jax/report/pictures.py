"""Label maps of the sample images: networks beside each other (Figures 6 to 8), pseudo labels over time (Figure 2)."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from proda_jax.data.label_spaces import IGNORE, LabelSpace
from proda_jax.metrics import scores
from proda_jax.report.content import Folder, Legend, Note, Section, Tile, Tiles, data_uri, number
from proda_jax.report.run import Run, Stage, compared

_WIDEST = 512  # pixels of a picture in the page
_BETWEEN = 4  # steps of pseudo labels that are shown
_IGNORED = (40, 40, 40)  # colour of pixels that have no label
# of weights from 0 to 1, dark to bright and even in lightness, so that it reads without colour vision too
_SCALE = np.array([(13, 22, 60), (58, 60, 110), (106, 104, 122), (158, 148, 118), (210, 194, 98), (254, 232, 70)])


def classes_legend(space: LabelSpace) -> Legend:
    colors = ("#{:02x}{:02x}{:02x}".format(*color) for color in space.colors)
    return Legend(list(zip(space.classes, colors, strict=True)))


def qualitative(run: Run, folder: Folder) -> Section:
    """Input, networks before and after, ground truth (Figures 6 to 8)."""
    title, of_paper = "Predictions", "Figures 6 to 8 of the paper"
    problem = _without_samples(run)
    found = [] if problem else compared(s for s in run.stages if _fitting(s.newest("prediction"), "prediction", run))
    if not found:
        note = Note(f"No predictions: {problem or 'no snapshot holds them.'}", missing=True)
        return Section("predictions", title, [note], of_paper)
    images, labels, names = run.samples["image"], run.samples["label"], run.samples["name"]
    columns = ["input", *(f"{what}: {stage.name}" for what, stage in found), "ground truth"]
    predictions = {s.name: s.newest("prediction")[1]["prediction"] for _, s in found}
    rows, pictures, data = [], [], []
    for i in range(len(images)):
        drawn = [Image.fromarray(images[i])]
        tiles = [tile(drawn[0])]
        for _, stage in found:
            prediction = predictions[stage.name][i]
            result = scores(confusion_of(prediction, labels[i], len(run.space)))
            miou, accuracy = 100 * result["miou"], 100 * result["pixel_accuracy"]
            data.append((names[i], stage.name, stage.newest("prediction")[0], miou, accuracy))
            drawn.append(colored(prediction, run.space))
            tiles.append(tile(drawn[-1], f"mIoU {number(miou)}"))
        drawn.append(colored(labels[i], run.space))
        rows.append((str(names[i]), [*tiles, tile(drawn[-1])]))
        pictures.append(drawn)
    table = folder.table("predictions", ("image", "stage", "step", "miou", "pixel_accuracy"), data)
    image = folder.image("predictions", composite(columns, pictures))
    caption = (
        f"Held-out images of the target, by the last network of each stage. mIoU, percent, is over the classes of that "
        f"image alone. Dark grey counts nowhere.{_no_training(found)}"
    )
    tiles = Tiles(columns, rows, caption, {"PNG": image}, {"CSV": table})
    return Section("predictions", title, [classes_legend(run.space), tiles], of_paper)


def _no_training(found: Sequence[tuple[str, Stage]]) -> str:
    return "" if any(what == "self-training" for what, _ in found) else " The run has no stage of self-training."


def pseudo_labels(run: Run, folder: Folder) -> Section:
    """The labels that stage 1 learns from, getting cleaner, and the weights that do it (Figure 2)."""
    title, of_paper = "Pseudo labels getting cleaner", "Figure 2 of the paper"
    problem = _without_samples(run)
    stages = [s for s in run.stages if s.kind == "denoise" and s.role == "adaptation"]
    for stage in reversed(stages):
        series = [
            (step, arrays)
            for step in stage.snapshot_steps
            if _fitting((step, arrays := stage.arrays(step, "rectified", "weight", "confidence")), "rectified", run)
        ]
        if series and not problem:
            break
    else:
        problem = problem or ("no snapshot holds them" if stages else "the run has no stage that rectifies labels")
        return Section("pseudo_labels", title, [Note(f"No pseudo labels: {problem}", missing=True)], of_paper)
    series = [series[i] for i in spread([step for step, _ in series])]
    images, labels, names = run.samples["image"], run.samples["label"], run.samples["name"]
    columns = ["input", *(f"step {step:,}" for step, _ in series), "ground truth"]
    rows, pictures, data = [], [], []
    for i in range(len(images)):
        drawn = [Image.fromarray(images[i])]
        tiles = [tile(drawn[0])]
        weights, weight_tiles = [], []
        for step, arrays in series:
            rectified = arrays["rectified"][i]
            right = 100 * agreement(rectified, sampled(labels[i], rectified.shape))
            drawn.append(colored(sampled(rectified, labels[i].shape), run.space))
            tiles.append(tile(drawn[-1], f"{right:.0f} % right" if right == right else ""))
            weight = arrays["weight"][i].astype(np.float64) if "weight" in arrays else None
            weights.append(None if weight is None else shaded(sampled(weight, labels[i].shape)))
            mean = float("nan") if weight is None else float(weight.mean())
            weight_tiles.append(None if weight is None else tile(weights[-1], f"mean weight {mean:.2f}"))
            data.append((names[i], step, right, mean))
        drawn.append(colored(labels[i], run.space))
        rows.append((str(names[i]), [*tiles, tile(drawn[-1])]))
        pictures.append(drawn)
        if any(weight_tiles):
            sure, sure_tile = _confidence(series[0][1], i, labels[i].shape)
            rows.append((f"{names[i]}: weights", [sure_tile, *weight_tiles, None]))
            pictures.append([sure, *weights, None])
    table = folder.table("pseudo_labels", ("image", "step", "right", "mean_weight"), data)
    image = folder.image("pseudo_labels", composite(columns, pictures))
    caption = (
        f"What {stage.name} learns from (Equation 3), on held-out images: the percentage is of the pixels whose truth "
        "is known. Below each label its weight (Equation 4), the trust in the class that p(t,0) says; at the left the "
        "confidence of p(t,0) itself."
    )
    tiles = Tiles(columns, rows, caption, {"PNG": image}, {"CSV": table}, ("0", "1"))
    return Section("pseudo_labels", title, [classes_legend(run.space), tiles], of_paper)


def _confidence(arrays: dict, i: int, size: tuple[int, int]) -> tuple[Image.Image | None, Tile | None]:
    if "confidence" not in arrays:
        return None, None
    picture = shaded(sampled(arrays["confidence"][i].astype(np.float64), size))
    return picture, tile(picture, "confidence of p(t,0)")


def spread(steps: Sequence[int]) -> list[int]:
    """Places of the steps to show: the first, the last, and those between that are nearest to even ratios."""
    if len(steps) <= _BETWEEN:
        return list(range(len(steps)))
    low, high = max(steps[0], steps[1] / 2), steps[-1]
    wanted = np.geomspace(low, high, _BETWEEN)[1:-1]
    inner = [int(np.argmin([abs(np.log(max(step, 1) / want)) for step in steps])) for want in wanted]
    return sorted({0, *inner, len(steps) - 1})


def _without_samples(run: Run) -> str:
    if not run.samples:
        return "there are no sample images (samples.npz), which are held-out labelled images of the target."
    return "" if run.space else "nobody knows the classes."


def _fitting(found: tuple[int, dict] | None, name: str, run: Run) -> bool:
    """Whether a snapshot has that array for these samples."""
    return found is not None and name in found[1] and len(found[1][name]) == len(run.samples["image"])


def confusion_of(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes], row = truth, of one image's labels [height, width]."""
    counts = label < classes
    cells = label[counts].astype(np.int64) * classes + prediction[counts]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def agreement(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of pixels with the true class, of those that have a true class; nan without any."""
    counts = truth != IGNORE
    return float((labels == truth)[counts].mean()) if counts.any() else float("nan")


def sampled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel of a map [height, width] for each of another size, corners on corners."""
    rows, columns = (
        np.rint(np.linspace(0, old - 1, new)).astype(int) for old, new in zip(picture.shape, size, strict=True)
    )
    return picture[rows[:, None], columns[None]]


def colored(labels: np.ndarray, space: LabelSpace) -> Image.Image:
    """Labels [height, width] in the colours of their classes."""
    palette = np.tile(np.array(_IGNORED, np.uint8), (256, 1))
    palette[: len(space)] = space.colors
    return _with_palette(labels, palette)


def shaded(values: np.ndarray) -> Image.Image:
    """Values [height, width] from 0 to 1, dark to bright."""
    at = np.linspace(0, 255, len(_SCALE))
    palette = np.stack([np.interp(np.arange(256), at, channel) for channel in _SCALE.T], 1)
    return _with_palette(np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)), np.rint(palette))


def _with_palette(places: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(places.astype(np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def tile(picture: Image.Image, caption: str = "") -> Tile:
    """A picture for the page, no wider than it is shown: as PNG where it has a palette, otherwise a photograph."""
    contents, share = io.BytesIO(), _WIDEST / picture.width
    flat = picture.mode == "P"
    if share < 1:
        how = Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
        picture = picture.resize((_WIDEST, round(picture.height * share)), how)
    picture.save(contents, "PNG" if flat else "JPEG", optimize=True, quality=88)
    return Tile(data_uri(contents.getvalue(), "png" if flat else "jpeg"), caption)


def composite(columns: Sequence[str], rows: Sequence[Sequence[Image.Image | None]]) -> bytes:
    """One PNG of rows of pictures of the same size, under the titles of their columns."""
    width, height = rows[0][0].size
    gap = max(width // 50, 2)
    font = ImageFont.load_default(max(width // 14, 11))
    head = int(font.size * 1.6)
    sheet = Image.new("RGB", (len(columns) * (width + gap) - gap, head + len(rows) * (height + gap) - gap), "white")
    pen = ImageDraw.Draw(sheet)
    for j, title in enumerate(columns):
        pen.text((j * (width + gap) + width / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for i, row in enumerate(rows):
            if row[j] is not None:
                sheet.paste(row[j], (j * (width + gap), head + i * (height + gap)))
    contents = io.BytesIO()
    sheet.save(contents, "PNG")
    return contents.getvalue()
