"""How good the pseudo labels are over training (Figure 3)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from proda_jax.report.charts import listed, value_of
from proda_jax.report.content import Folder, Note, Section
from proda_jax.report.drawing import BLUE, ORANGE, PURPLE, Panel, draw, label_lines
from proda_jax.report.run import Run, Stage

_SCORES = ("miou", "pixel_accuracy", "class_accuracy")  # columns of a snapshot's `quality`
_LABELS = ("learnt_from", "fixed", "network")  # its rows
_MARKED = 12  # measurements below which each has a dot
_PANELS = {"class_accuracy": "mean accuracy of the labels, percent", "miou": "mIoU of the labels, percent"}

Quality = list[tuple[int, dict[str, dict[str, float]]]]  # (step, {labels: {score: percent}})


@dataclasses.dataclass(frozen=True)
class Line:
    """Scores of some labels over steps; the name stands at its right end."""

    name: str
    color: str
    style: str
    points: Sequence[tuple[int, dict[str, float]]]


def label_quality(run: Run, folder: Folder) -> Section:
    """Accuracy and mIoU of the pseudo labels over training, beside conventional self-training."""
    title, of_paper = "Pseudo-label quality", "Figure 3 of the paper"
    stages = [stage for stage in run.stages if stage.needs and stage.needs.rectifies]
    found = {stage.name: quality for stage in stages if (quality := quality_of(stage))}
    if not found:
        reason = "nothing about it was recorded" if stages else "no stage with labels that are made before it has begun"
        return Section("labels", title, [Note(f"No quality of pseudo labels: {reason}.", missing=True)], of_paper)
    rows = [
        (name, step, labels, *(scores[key] for key in _SCORES))
        for name, quality in found.items()
        for step, kinds in quality
        for labels, scores in kinds.items()
    ]
    data = {"CSV": folder.table("label_quality", ("stage", "step", "labels", *_SCORES), rows)}
    rectified = [stage for stage in stages if stage.rectifies and stage.name in found]
    trained = [stage for stage in stages if stage.role == "self-training" and stage.name in found]
    lines = [_line("rectified", ORANGE, "-", found[stage.name], "learnt_from") for stage in rectified[-1:]]
    lines += [_line("network", PURPLE, ":", found[stage.name], "network") for stage in rectified[-1:]]
    if trained:
        lines.append(Line("self-training", BLUE, "-", rounds([(s.planned_steps, found[s.name]) for s in trained])))
        beside = "self-training: conventional self-training, whose labels change at the end of a stage"
    else:
        lines.append(_line("fixed", BLUE, "--", found[rectified[-1].name], "fixed"))
        beside = "fixed: the labels p(t,0) as they were before the stage; the run has no conventional self-training"
    caption = "Pseudo labels of held-out labelled target images against their truth, over the steps of the stage. "
    if rectified:
        caption += (
            f"rectified: what {rectified[-1].name} learns from at that step (Equations 3 and 4). network: what its "
        )
        caption += "network would say by itself. "
    panels = [_panel(f"label_quality_{key}", title, key, lines) for key, title in _PANELS.items()]
    return Section("labels", title, [folder.figure(panels, f"{caption}{beside}.", data)], of_paper)


def quality_of(stage: Stage) -> Quality:
    """Quality of a stage's pseudo labels in order of steps, from its snapshots and its history."""
    found = {}
    for step, table in stage.series("quality"):
        rows = (dict(zip(_SCORES, map(float, row), strict=True)) for row in table)
        found[step] = dict(zip(_LABELS, rows, strict=True))
    for entry in stage.history:
        kinds = entry.get("pseudo_labels", {})
        if set(_LABELS) <= set(kinds):
            found[entry["step"]] = {
                labels: {key: value_of(kinds[labels], key) for key in _SCORES} for labels in _LABELS
            }
    return sorted(found.items())


def rounds(stages: Sequence[tuple[int, Quality]]) -> list[tuple[int, dict[str, float]]]:
    """Labels of self-training as steps of a stair: fixed for a stage, then what its network says.

    Args:
      stages: (steps, quality) of each round.

    Returns:
      (step over all rounds, scores) of the corners.
    """
    corners, before = [], 0
    for steps, quality in stages:
        fixed = quality[0][1]["learnt_from"]
        corners += [(before, fixed), (before + steps, fixed)]
        before += steps
    return [*corners, (before, stages[-1][1][-1][1]["network"])]


def _line(name: str, color: str, style: str, quality: Quality, labels: str) -> Line:
    return Line(name, color, style, [(step, kinds[labels]) for step, kinds in quality])


def _panel(name: str, title: str, key: str, lines: Sequence[Line]) -> Panel:
    def plot(axes: Any) -> None:
        for line in lines:
            steps, scores = zip(*line.points, strict=True)
            marker = "o" if len(steps) < _MARKED else None
            axes.plot(steps, [s[key] for s in scores], line.style, color=line.color, marker=marker, markersize=3)
        axes.margins(x=0, y=0.1)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        label_lines(axes, [(line.points[-1][0], line.points[-1][1][key], line.name, line.color) for line in lines])

    return draw(name, plot, says=f"{title}, over the steps: {listed([line.name for line in lines])}")
