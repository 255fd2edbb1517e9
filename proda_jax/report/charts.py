"""Scores of the stages, and curves over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from proda_jax.report.content import Figure, Folder, Note, Section, gain, number
from proda_jax.report.drawing import BLUE, INK, MUTED, ORANGE, RULE, Panel, draw
from proda_jax.report.run import Run, Stage, compared
from proda_jax.report.tables import paper_rows

# what the metrics of the train steps are; others are called by their names
_METRICS = {
    "source_ce": "cross entropy on the source",
    "target_fit": "loss of the pseudo labels",
    "rectified_ce": "loss of the pseudo labels by the heads' divergence",
    "mixed_ce": "cross entropy on mixed images",
    "masked_ce": "cross entropy on masked images",
    "feature_distance": "distance from the first features",
    "source_contrast": "contrast of features on the source",
    "target_contrast": "contrast of features on the target",
    "likeness": "unlikeness to another network's classes",
    "self_labelling": "loss of prototypes that learn",
    "queue_contrast": "contrast of features with those of steps before",
    "confident": "share of pixels with a confident label",
    "consistency": "consistency of two views (Equation 9)",
    "regulariser": "regulariser (Equation 10)",
    "distillation": "distillation (Equation 12)",
    "adversarial": "adversarial loss",
    "auxiliary_ce": "cross entropy of the auxiliary head on the source",
    "auxiliary_adversarial": "adversarial loss of the auxiliary head",
    "entropy": "entropy on the target",
    "auxiliary_entropy": "entropy of the auxiliary head on the target",
    "memory": "divergence of the heads from the network",
    "weight_likeness": "likeness of the heads' parameters",
    "discriminator": "loss of the discriminator",
    "gradient_norm": "norm of the gradient",
    "labelled": "share of pixels with a pseudo label",
    "rectified": "share of pseudo labels rectified",
    "nearest_prototype": "distance to the nearest prototype",
    "mean_prototype": "distance to prototypes, mean",
    "skipped": "steps left out as not finite",
}
_NOT_CURVES = ("step", "seconds", "images_per_second", "validation_miou")
_SMOOTHED = 50  # logged steps of a stage above which a running mean is drawn over them


def stages_figure(run: Run, folder: Folder) -> Figure | None:
    """mIoU of each stage as bars, with the best of each and the paper's."""
    stages = run.scored
    if not stages:
        return None
    theirs = paper_rows(run)
    scores = [
        (s.name, s.last["miou"], s.best.get("miou"), theirs[s.name].miou if s.name in theirs else None) for s in stages
    ]
    chosen = compared(stages)
    start, end = chosen[0][1], chosen[-1][1]

    def plot(axes: Any) -> None:
        axes.set_xlim(0, max(value for row in scores for value in row[1:] if value is not None) * 1.2)
        for place, (stage, row) in enumerate(zip(stages, scores, strict=True)):
            color = MUTED if stage.role == "oracle" else ORANGE if stage is end and end is not start else BLUE
            _bar(axes, place, row[1:], color, "" if stage is start else gain(row[1] - start.last["miou"]))
        axes.set_yticks(range(len(stages)), [stage.name for stage in stages])
        axes.tick_params(axis="y", colors=INK)
        axes.invert_yaxis()
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)

    says = "; ".join(f"{name} {number(last)}" for name, last, *_ in scores)
    panel = draw("stages", plot, says=f"mIoU by stage: {says}", size=(4.1, 0.4 + 0.33 * len(stages)))
    caption = (
        "mIoU on the target’s validation images, percent: the last network of each stage, and what it gains over "
        f"{start.name}."
    )
    if any(best is not None and best > last for _, last, best, _ in scores):
        caption += " An upright line is the stage’s best network, which is chosen on the images it is scored on."
    if theirs:
        caption += " A diamond is the paper’s score."
    data = {"CSV": folder.table("stages", ("stage", "miou_last", "miou_best", "miou_paper"), scores)}
    return folder.figure([panel], caption, data)


def _bar(axes: Any, place: int, scores: Sequence[float | None], color: str, gained: str) -> None:
    """The bar of a stage, from its last, best and the paper's score, with numbers beyond all of them."""
    last, best, theirs = scores
    axes.barh(place, last, height=0.62, color=color)
    if best is not None and best > last:
        axes.plot([best, best], [place - 0.31, place + 0.31], color=INK, linewidth=1.2)
    if theirs is not None:
        axes.plot(theirs, place, "D", color="none", markeredgecolor=INK, markersize=5, markeredgewidth=1.0)
    beyond = max(value for value in scores if value is not None)
    style = {"textcoords": "offset points", "va": "center"}
    axes.annotate(number(last), (beyond, place), xytext=(7, 0), fontweight="bold", **style)
    axes.annotate(gained, (beyond, place), xytext=(33, 0), color=MUTED, **style)


def curves(run: Run, folder: Folder) -> Section:
    """mIoU and every logged metric over the steps, stages after each other."""
    blocks: list[Any] = []
    panels, data = _miou_curve(run, folder)
    if not panels:
        blocks.append(Note("No mIoU: no stage was evaluated on labelled validation images.", missing=True))
    more, rows = [], []
    for key in _metrics(run):
        lines = [(s, *_logged(s, key)) for s in run.stages if any(key in entry for entry in s.metrics)]
        if key == "skipped" and not any(max(values) > 0 for _, _, values in lines):
            continue
        more.append(_curve(f"curve_{key}", _METRICS.get(key, key.replace("_", " ")), lines))
        rows += [(s.name, step, key, v) for s, steps, values in lines for step, v in zip(steps, values, strict=True)]
    if rows:
        data["metrics"] = folder.table("metrics", ("stage", "step", "metric", "value"), rows)
    if panels + more:
        caption = (
            "Stages follow each other from left to right, each equally wide; the number below its end counts its "
            "steps. Where many steps were logged, the strong line is a running mean over a fiftieth of the stage."
        )
        blocks.append(folder.figure(panels + more, caption, data))
    without = [stage.name for stage in run.stages if not stage.metrics and stage.steps]
    if without:
        blocks.append(Note(f"No losses of {listed(without)}: metrics.jsonl is not there.", missing=True))
    return Section("curves", "Curves", blocks)


def _miou_curve(run: Run, folder: Folder) -> tuple[list[Panel], dict[str, str]]:
    """The panel of mIoU and the link to its data; none where nothing was scored."""
    lines = [
        (stage, [entry["step"] for entry in stage.history], [value_of(entry, "miou") for entry in stage.history])
        for stage in run.stages
        if stage.history
    ]
    rows = [(s.name, step, value) for s, steps, values in lines for step, value in zip(steps, values, strict=True)]
    if not any(np.isfinite(value) for *_, value in rows):
        return [], {}
    link = folder.table("curve_miou", ("stage", "step", "miou"), rows)
    return [_curve("curve_miou", "mIoU on the target, percent", lines, "o")], {"mIoU": link}


def _metrics(run: Run) -> list[str]:
    """Names of the metrics that were logged: those with a title first, in its order."""
    logged = dict.fromkeys(key for stage in run.stages for entry in stage.metrics for key in entry)
    known = [key for key in _METRICS if key in logged]
    return known + [key for key in logged if key not in (*known, *_NOT_CURVES)]


def value_of(entry: dict, key: str) -> float:
    value = entry.get(key)
    return float("nan") if value is None else float(value)


def _logged(stage: Stage, key: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in stage.metrics if key in entry]
    return [entry["step"] for entry in entries], [value_of(entry, key) for entry in entries]


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` neighbours (fewer at the ends), of those that are finite; float64 like `values`."""
    finite = np.isfinite(values)
    window = np.ones(width)
    counts = np.convolve(finite, window, "same")
    sums = np.convolve(np.where(finite, values, 0.0), window, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _curve(
    name: str, title: str, lines: list[tuple[Stage, list[int], list[float]]], marker: str | None = None
) -> Panel:
    def plot(axes: Any) -> None:
        for place, (stage, steps, values) in enumerate(lines):
            x = place + np.array(steps) / max(stage.planned_steps, 1)
            y = np.array(values, float)
            if len(y) > _SMOOTHED:
                axes.plot(x, y, color=BLUE, linewidth=0.6, alpha=0.35)
                y = running_mean(y, max(len(y) // 50, 3))
            drawn_as = marker or ("o" if len(y) == 1 else None)
            axes.plot(x, y, color=BLUE, marker=drawn_as, markersize=3, clip_on=False)
            if place:
                axes.axvline(place, color=RULE, linewidth=0.8)
            axes.text(place + 0.5, 1.0, stage.name.replace("_", "\n"), transform=axes.get_xaxis_transform(),
                      ha="center", va="top", color=MUTED, fontsize=7 if len(lines) > 5 else 8)  # fmt: skip
        axes.set_title(title)
        axes.set_xlim(0, len(lines))
        axes.margins(y=0.12)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + (high - low) * 0.12)
        axes.set_xticks(
            [place + 1 for place in range(len(lines))], [f"{stage.planned_steps:,}" for stage, *_ in lines], ha="right"
        )

    names = listed([stage.name for stage, *_ in lines])
    return draw(name, plot, says=f"{title} over the steps of {names}")
