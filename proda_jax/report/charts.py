"""Scores of the stages, and curves over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from proda_jax.report import paper
from proda_jax.report.content import Figure, Folder, Note, Section, gain, number
from proda_jax.report.drawing import BLUE, INK, MUTED, ORANGE, RULE, Panel, draw
from proda_jax.report.run import Run, Stage, compared

# what the metrics of the train steps are; others are called by their names
_METRICS = {
    "source_ce": "cross entropy on the source",
    "target_fit": "loss of the pseudo labels",
    "consistency": "consistency of two views (Equation 9)",
    "regulariser": "regulariser (Equation 10)",
    "distillation": "distillation (Equation 12)",
    "adversarial": "adversarial loss",
    "discriminator": "loss of the discriminator",
    "gradient_norm": "norm of the gradient",
    "labelled": "share of pixels with a pseudo label",
    "rectified": "share of pseudo labels rectified",
    "nearest_prototype": "distance to the nearest prototype",
    "mean_prototype": "distance to prototypes, mean",
    "skipped": "steps left out as not finite",
}
_NOT_CURVES = ("step", "seconds", "images_per_second")
_SMOOTHED = 50  # logged steps of a stage above which a running mean is drawn over them


def stages_figure(run: Run, folder: Folder) -> Figure | None:
    """mIoU of each stage as bars, with the best of each and the paper's."""
    stages = run.scored
    if not stages:
        return None
    task = paper.task(run.settings)
    kinds = {stage.name: stage.kind for stage in run.stages}
    rows = []
    for stage in stages:
        row = paper.row_of(stage.settings, kinds) if task else None
        theirs = task[1][row].miou if task and row in task[1] else None
        rows.append((stage.name, stage.last["miou"], stage.best.get("miou"), theirs))
    shown = [stage for _, stage in compared(stages)]
    start = shown[0].last["miou"] if shown else None

    def plot(axes: Any) -> None:
        for place, ((name, last, best, theirs), stage) in enumerate(zip(rows, stages, strict=True)):
            color = ORANGE if shown and stage is shown[-1] and stage.role == "adaptation" else BLUE
            axes.barh(place, last, height=0.62, color=MUTED if stage.role == "oracle" else color)
            if best is not None and best > last:
                axes.plot([best, best], [place - 0.31, place + 0.31], color=INK, linewidth=1.2)
            if theirs is not None:
                axes.plot(theirs, place, "D", color="none", markeredgecolor=INK, markersize=5, markeredgewidth=1.0)
            more = "" if stage is shown[0] else f"  {gain(last - start)}"
            beyond = max(value for value in (last, best, theirs) if value is not None)
            axes.annotate(number(last), (beyond, place), xytext=(6, 0), textcoords="offset points", va="center",
                          fontweight="bold")  # fmt: skip
            axes.annotate(more, (beyond, place), xytext=(30, 0), textcoords="offset points", va="center", color=MUTED)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.tick_params(axis="y", colors=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, max(value for row in rows for value in row[1:] if value is not None) * 1.18)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)

    says = "; ".join(f"{name} {number(last)}" for name, last, *_ in rows)
    panel = draw("stages", plot, says=f"mIoU by stage: {says}", size=(4.8, 0.5 + 0.34 * len(rows)))
    caption = (
        "mIoU on the target’s validation images, percent: the last network of each stage, and what it gains over "
        f"{stages[0].name if not shown else shown[0].name}. A vertical line is the stage’s best network, which is "
        "chosen on the images that it is scored on."
    )
    if any(row[3] is not None for row in rows):
        caption += " A diamond is the paper’s score."
    data = {"CSV": folder.table("stages", ("stage", "miou_last", "miou_best", "miou_paper"), rows)}
    return folder.figure([panel], caption, data)


def curves(run: Run, folder: Folder) -> Section:
    """Losses and mIoU over the steps, stages after each other."""
    blocks: list[Any] = []
    scored = [(s, [e["step"] for e in s.history], [value_of(e, "miou") for e in s.history]) for s in run.stages if s.history]
    panels = []
    if any(value == value for _, _, values in scored for value in values):
        panels.append(_curve("curve_miou", "mIoU on the target, percent", scored, "o"))
        rows = [(s.name, step, value) for s, steps, values in scored for step, value in zip(steps, values, strict=True)]
        miou = folder.table("curve_miou", ("stage", "step", "miou"), rows)
    metrics = dict.fromkeys(key for s in run.stages for entry in s.metrics for key in entry if key not in _NOT_CURVES)
    metrics = [key for key in (*_METRICS, *metrics) if key in metrics]
    logged = []
    for key in dict.fromkeys(metrics):
        lines = [(s, *_logged(s, key)) for s in run.stages if any(key in entry for entry in s.metrics)]
        if key == "skipped" and not any(max(values) > 0 for _, _, values in lines):
            continue
        panels.append(_curve(f"curve_{key}", _METRICS.get(key, key.replace("_", " ")), lines))
        logged += [(s.name, step, key, v) for s, steps, values in lines for step, v in zip(steps, values, strict=True)]
    if panels:
        data = {"mIoU": miou} if panels[0].name == "curve_miou" else {}
        if logged:
            data["metrics"] = folder.table("metrics", ("stage", "step", "metric", "value"), logged)
        caption = (
            "Stages follow each other from left to right, each equally wide; the number below its end counts its steps. "
            "Where many steps were logged, the strong line is a running mean over a fiftieth of the stage."
        )
        blocks.append(folder.figure(panels, caption, data))
    without = [stage.name for stage in run.stages if not stage.metrics and stage.steps]
    if without:
        blocks.append(Note(f"No losses of {listed(without)}: metrics.jsonl is not there.", missing=True))
    if not scored or panels == [] or panels[0].name != "curve_miou":
        blocks.append(Note("No mIoU: no stage was evaluated on labelled validation images.", missing=True))
    return Section("curves", "Curves", blocks)


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


def _curve(name: str, title: str, lines: list[tuple[Stage, list[int], list[float]]], marker: str | None = None) -> Panel:
    def plot(axes: Any) -> None:
        for place, (stage, steps, values) in enumerate(lines):
            x = place + np.array(steps) / max(stage.planned_steps, 1)
            y = np.array(values, float)
            if len(y) > _SMOOTHED:
                axes.plot(x, y, color=BLUE, linewidth=0.6, alpha=0.35)
                y = running_mean(y, max(len(y) // 50, 3))
            axes.plot(x, y, color=BLUE, marker=marker or ("o" if len(y) == 1 else None), markersize=3)
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
