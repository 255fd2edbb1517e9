"""How good the pseudo labels are over training (Figure 3)."""

from typing import Any

from proda_jax.report.charts import listed, value_of
from proda_jax.report.content import Folder, Note, Section
from proda_jax.report.drawing import BLUE, ORANGE, PURPLE, Panel, draw, label_lines
from proda_jax.report.run import Run, Stage


def label_quality(run: Run, folder: Folder) -> Section:
    """Accuracy and mIoU of the pseudo labels over training, beside conventional self-training (Figure 3)."""
    denoising = [s for s in run.stages if s.kind == "denoise" and s.role == "adaptation"]
    training = [s for s in run.stages if s.role == "self-training"]
    found = {stage.name: quality for stage in denoising + training if (quality := quality_of(stage))}
    if not found:
        reason = "the run has no such stage" if not denoising + training else "nothing about it was recorded"
        return Section("labels", "Pseudo-label quality (Figure 3)", [
            Note(f"No quality of pseudo labels: {reason}.", missing=True)])  # fmt: skip
    rows = [
        (name, step, labels, *(scores[key] for key in _QUALITY))
        for name, quality in found.items() for step, kinds in quality for labels, scores in kinds.items()
    ]  # fmt: skip
    data = {"CSV": folder.table("label_quality", ("stage", "step", "labels", *_QUALITY), rows)}
    lines = []
    for stage in denoising:
        if stage.name in found:
            steps, quality = zip(*found[stage.name], strict=True)
            lines.append(("rectified" if len(denoising) == 1 else stage.name, ORANGE, "-", steps, "learnt_from", quality))
    rounds = [(stage, found[stage.name]) for stage in training if stage.name in found]
    steps_ahead = 0
    for number_of_round, (stage, quality) in enumerate(rounds):
        # labels stay as they are for the whole stage; what its network says then is what a next round would learn from
        steps = [0, stage.planned_steps, stage.planned_steps]
        values = [quality[0][1]["learnt_from"], quality[0][1]["learnt_from"], quality[-1][1]["network"]]
        name = "self-training" if number_of_round == len(rounds) - 1 else ""
        lines.append((name, BLUE, "-", [steps_ahead + step for step in steps], None, values))
        steps_ahead += stage.planned_steps
    if not rounds:
        steps, quality = zip(*found[denoising[-1].name if denoising[-1].name in found else next(iter(found))], strict=True)
        lines.append(("fixed", BLUE, "--", steps, "fixed", quality))
    if denoising and denoising[-1].name in found:
        steps, quality = zip(*found[denoising[-1].name], strict=True)
        lines.append(("network", PURPLE, ":", steps, "network", quality))
    panels = [_quality_panel(f"label_quality_{key}", title, key, lines) for key, title in _QUALITY.items()
              if key != "pixel_accuracy"]  # fmt: skip
    beside = (
        "self-training: conventional self-training, whose labels change once a stage"
        if rounds else "fixed: the labels p(t,0) as they were before this stage; the run has no self-training"
    )  # fmt: skip
    caption = (
        "Pseudo labels of held-out labelled target images against their truth, percent, over the steps of the stage. "
        f"rectified: what stage 1 learns from at that step (Equations 3 and 4). network: what its network would say "
        f"by itself. {beside}."
    )
    return Section("labels", "Pseudo-label quality (Figure 3)", [folder.figure(panels, caption, data)])


_QUALITY = {"class_accuracy": "mean accuracy, percent", "miou": "mIoU, percent", "pixel_accuracy": "pixel accuracy"}
_COLUMNS = ("miou", "pixel_accuracy", "class_accuracy")  # of a snapshot's `quality`
_ROWS = ("learnt_from", "fixed", "network")


def quality_of(stage: Stage) -> list[tuple[int, dict[str, dict[str, float]]]]:
    """Quality of a stage's pseudo labels by step: {'learnt_from' | 'fixed' | 'network': {score: percent}}."""
    found = {
        step: {row: dict(zip(_COLUMNS, map(float, scores), strict=True)) for row, scores in zip(_ROWS, table, strict=True)}
        for step, table in stage.series("quality")
    }  # fmt: skip
    for entry in stage.history:
        if set(_ROWS) <= set(entry.get("pseudo_labels", ())):
            kinds = entry["pseudo_labels"]
            found[entry["step"]] = {row: {key: value_of(kinds[row], key) for key in _COLUMNS} for row in _ROWS}
    return sorted(found.items())


def _quality_panel(name: str, title: str, key: str, lines: list[tuple]) -> Panel:
    def plot(axes: Any) -> None:
        ends = []
        for label, color, style, steps, kind, quality in lines:
            values = [scores[key] if kind is None else scores[kind][key] for scores in quality]
            axes.plot(steps, values, style, color=color, marker="o" if len(steps) == 1 else None, markersize=4)
            ends += [(steps[-1], values[-1], label, color)] if label else []
        axes.margins(x=0, y=0.1)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        label_lines(axes, ends)

    return draw(name, plot, says=f"pseudo labels: {title} over steps, of {listed([line[0] for line in lines if line[0]])}")
