"""Label maps of the sample images: networks beside each other (Figures 6 to 8), pseudo labels over time (Figure 2)."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from proda_jax.data.label_spaces import IGNORE, LabelSpace
from proda_jax.data.metrics import scores
from proda_jax.report.content import Folder, Legend, Note, Section, Tile, Tiles, data_uri, number
from proda_jax.report.run import Run, Stage, compared

_WIDEST = 512  # pixels of a picture in the page
_BETWEEN = 4  # steps of pseudo labels that are shown
_MAPS = ("rectified", "weight", "confidence")  # of a snapshot, for each sample
_IGNORED = (40, 40, 40)  # colour of pixels that have no label
# of weights from 0 to 1, dark to bright and even in lightness, so that it reads without colour vision too
_SCALE = np.array([(13, 22, 60), (58, 60, 110), (106, 104, 122), (158, 148, 118), (210, 194, 98), (254, 232, 70)])


def classes_legend(space: LabelSpace) -> Legend:
    colors = ("#{:02x}{:02x}{:02x}".format(*color) for color in space.colors)
    return Legend(list(zip(space.classes, colors, strict=True)))


def qualitative(run: Run, folder: Folder) -> Section:
    """Input, networks before and after, ground truth (Figures 6 to 8)."""
    found = compared(predicted(run))
    more = "" if any(what == "self-training" for what, _ in found) else " The run has no conventional self-training."
    return beside_each_other(run, [(f"{what}: {stage.name}", stage) for what, stage in found], folder, more)


def predicted(run: Run) -> list[Stage]:
    """The stages whose last network's predictions of the samples are there."""
    return [stage for stage in run.stages if run.samples and run.space and _newest_prediction(stage, run)]


def beside_each_other(run: Run, found: Sequence[tuple[str, Stage]], folder: Folder, more: str) -> Section:
    """Input, predictions of stages beside each other, ground truth.

    Args:
      run: with samples.
      found: what a stage is called above its column, and the stage, of those that are `predicted`.
      folder: of the page.
      more: at the end of the caption.
    """
    title, of_paper = "Predictions", "Figures 6 to 8 of the paper"
    if not found:
        note = Note(f"No predictions: {_without_samples(run) or 'no snapshot holds them'}.", missing=True)
        return Section("predictions", title, [note], of_paper)
    newest = [_newest_prediction(stage, run) for _, stage in found]
    images, names, labels = run.samples["image"], run.samples["name"], run.samples.get("label")
    columns = ["input", *(what for what, _ in found)]
    columns += ["ground truth"] if labels is not None else []
    rows, pictures, data = [], [], []
    for i in range(len(images)):
        drawn, captions = [Image.fromarray(images[i])], [""]
        for (_, stage), (step, labelled) in zip(found, newest, strict=True):
            drawn.append(colored(labelled[i], run.space))
            captions.append("")
            if labels is not None:
                result = scores(confusion_of(labelled[i], labels[i], len(run.space)))
                captions[-1] = f"mIoU {number(100 * result['miou'])}"
                data.append((names[i], stage.name, step, 100 * result["miou"], 100 * result["pixel_accuracy"]))
        if labels is not None:
            drawn.append(colored(labels[i], run.space))
            captions.append("")
        rows.append((str(names[i]), [tile(*pair) for pair in zip(drawn, captions, strict=True)]))
        pictures.append(drawn)
    links = {"CSV": folder.table("predictions", ("image", "stage", "step", "miou", "pixel_accuracy"), data)}
    image = folder.image("predictions", composite(columns, pictures))
    caption = "Images of the target, by the last network of each stage."
    if labels is not None:
        caption = (
            "Held-out images of the target, by the last network of each stage. mIoU, percent, is over the classes "
        )
        caption += "of that image alone. Dark grey counts nowhere."
    tiles = Tiles(columns, rows, caption + more, {"PNG": image}, links)
    return Section("predictions", title, [classes_legend(run.space), tiles], of_paper)


def _newest_prediction(stage: Stage, run: Run) -> tuple[int, np.ndarray] | None:
    """Step and predictions of a stage's last snapshot, if they are of these samples."""
    found = stage.newest("prediction")
    if found is None or found[1]["prediction"].shape != run.samples["image"].shape[:3]:
        return None
    return found[0], found[1]["prediction"]


def pseudo_labels(run: Run, folder: Folder) -> Section:
    """The labels that stage 1 learns from, getting cleaner, and the weights that do it (Figure 2)."""
    title, of_paper = "Pseudo labels over training", "Figure 2 of the paper"
    stages = [stage for stage in run.stages if stage.rectifies]
    recorded = [(stage, series) for stage in stages if (series := _label_series(stage, run))]
    if not recorded:
        reason = "no snapshot holds them" if stages else "no stage that rectifies labels has begun"
        note = Note(f"No pseudo labels: {_without_samples(run) or reason}.", missing=True)
        return Section("pseudo_labels", title, [note], of_paper)
    stage, series = recorded[-1]
    labels, names = run.samples.get("label"), run.samples["name"]
    columns = ["input", *(f"step {step:,}" for step, _ in series), *(["ground truth"] if labels is not None else [])]
    rows, pictures, data = [], [], []
    for i, name in enumerate(names):
        truth = None if labels is None else labels[i]
        drawn, captions, measured = _label_row(run.samples["image"][i], truth, series, i, run.space)
        data += [(name, *row) for row in measured]
        for what, maps, below in zip((name, f"{name}: weights"), drawn, captions, strict=True):
            tiles = [picture and tile(picture, text) for picture, text in zip(maps, below, strict=True)]
            rows.append((str(what), tiles))
            pictures.append(maps)
    links = {"CSV": folder.table("pseudo_labels", ("image", "step", "right", "mean_weight"), data)}
    image = folder.image("pseudo_labels", composite(columns, pictures))
    caption = f"What {stage.name} learns from (Equation 3), on images that it does not learn from. "
    if labels is not None:
        caption += "The percentage is of the pixels whose truth is known. "
    caption += (
        "Below each label its weight (Equation 4), the trust in the class that p(t,0) says; at the left the confidence "
        "of p(t,0) itself."
    )
    tiles = Tiles(columns, rows, caption, {"PNG": image}, links, ("0", "1"))
    return Section("pseudo_labels", title, [classes_legend(run.space), tiles], of_paper)


def _label_series(stage: Stage, run: Run) -> list[tuple[int, dict[str, np.ndarray]]]:
    """(step, maps) of the steps to show, from the snapshots that hold maps of these samples."""
    if not run.samples or not run.space:
        return []
    steps = stage.steps_with(*_MAPS)
    found = ((steps[i], stage.arrays(steps[i], *_MAPS)) for i in spread(steps))
    return [
        (step, maps)
        for step, maps in found
        if len(maps) == len(_MAPS) and len(maps[_MAPS[0]]) == len(run.samples["name"])
    ]


def _label_row(
    image: np.ndarray, truth: np.ndarray | None, series: list, i: int, space: LabelSpace
) -> tuple[tuple[list, list], tuple[list, list], list[tuple]]:
    """Pictures of labels and of weights of sample `i`, lines below them, and (step, percent right, mean weight)."""
    size = image.shape[:2]
    confidence = shaded(sampled(series[0][1]["confidence"][i], size))
    labels, weights = [Image.fromarray(image)], [confidence]
    below, below_weights, measured = [""], ["confidence of p(t,0)"], []
    for step, maps in series:
        rectified, weight = maps["rectified"][i], maps["weight"][i].astype(np.float64)
        right = None if truth is None else 100 * agreement(rectified, sampled(truth, rectified.shape))
        labels.append(colored(sampled(rectified, size), space))
        weights.append(shaded(sampled(weight, size)))
        below.append("" if right is None else f"{right:.0f} % right")
        below_weights.append(f"mean weight {weight.mean():.2f}")
        measured.append((step, right, float(weight.mean())))
    if truth is not None:
        labels, weights = [*labels, colored(truth, space)], [*weights, None]
        below, below_weights = [*below, ""], [*below_weights, ""]
    return (labels, weights), (below, below_weights), measured


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
        return "there are no sample images (samples.npz)"
    return "" if run.space else "nobody knows the classes"


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
    if (longest := max(map(font.getlength, columns))) > width:
        font = ImageFont.load_default(font.size * width / longest)
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
