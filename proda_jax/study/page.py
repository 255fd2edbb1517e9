"""The page of a study: its table beside the paper's numbers, and the curves and pictures that it asks for."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from proda_jax.report import embedding, page, pictures
from proda_jax.report.charts import value_of
from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import Figure, Folder, Legend, Note, Section, Table, number
from proda_jax.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, YELLOW, draw
from proda_jax.report.label_quality import quality_of
from proda_jax.report.run import Run, Stage, read
from proda_jax.report.tables import data_notes
from proda_jax.study import class_section, cost_section, prediction_section, results
from proda_jax.study.plan import Plan, folder_of
from proda_jax.study.results import Line
from proda_jax.system.files import write_atomically

_COLORS = (
    (BLUE, "blue"), (ORANGE, "orange"), (GREEN, "green"), (PURPLE, "purple"), (YELLOW, "yellow"),
)  # fmt: skip
_STYLES = ("-", "--", ":")


def write_page(plan: Plan, workdir: epath.PathLike) -> epath.Path:
    """Writes <workdir>/<study>/report/index.html of what there is by now, and returns its path."""
    workdir = epath.Path(workdir)
    folder, lines = Folder(workdir / plan.name / page.FOLDER), results.write(plan, workdir)
    runs = {
        (seed, variant): read(path)
        for seed in plan.seeds
        for variant in plan.variants
        if (path := workdir / folder_of(seed, variant)).exists()
    }
    of_first_seed = {variant: run for (seed, variant), run in runs.items() if seed == next(iter(runs))[0]}
    sections = [_scores(plan, lines, folder, [note for run in _first(runs) for note in data_notes(run)])]
    shown: dict[str, Callable[[], list[Section]]] = {
        "classes": lambda: [class_section.classes(plan, lines, runs, folder)],
        "costs": lambda: [cost_section.costs(plan, lines, folder)],
        "curves": lambda: [_curves(plan, runs, folder)],
        "label_quality": lambda: [_label_quality(plan, runs, folder)],
        "predictions": lambda: [prediction_section.predictions(plan, lines, of_first_seed, folder)] if runs else [],
        "pictures": lambda: [pictures.pseudo_labels(run, folder) for run in _first(runs)],
        "features": lambda: [embedding.features(run, folder) for run in _first(runs)],
    }
    for name in plan.show:
        sections += shown[name]()
    lacking = [f"{line.row.label}: {len(line.scores)} of {len(plan.seeds)} seeds." for line in lines
               if len(line.scores) < len(plan.seeds)]  # fmt: skip
    facts = [("rows", str(len(plan.rows))), ("seeds", ", ".join(map(str, plan.seeds)))]
    facts += [("paper", plan.paper)] if plan.paper else []
    text = page.render(f"ProDA: {plan.title}", headline(plan, lines), facts, None, sections, lacking)
    path = folder.path / "index.html"
    write_atomically(path, text)
    return path


def headline(plan: Plan, lines: Sequence[Line]) -> str:
    """What came out, in one sentence."""
    means = {line.row.label: mean_and_spread(list(line.values().values()))[0] for line in lines}
    means = {label: mean for label, mean in means.items() if mean is not None}
    if not means:
        return "No scores yet."
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return f"From {number(means[worst])} mIoU ({worst}) to {number(means[best])} ({best})."


def _first(runs: dict[Any, Run]) -> list[Run]:
    return list(runs.values())[:1]


def _scores(plan: Plan, lines: Sequence[Line], folder: Folder, data: Sequence[Note]) -> Section:
    titles, rows = results.cells(plan, lines)
    values = [(line.row.label, seed, value) for line in lines for seed, value in line.values().items()]
    link = folder.table("study", ("row", "seed", "miou"), values)
    blocks: list[Any] = [*_chart(plan, lines, folder), Table(titles, rows, plan.title, data=link)]
    if square := results.grid(plan, lines):
        blocks.append(Table(*square, f"{plan.title}: both settings against each other"))
    notes = [Note(text) for text in results.remarks(plan, lines)]
    return Section("scores", plan.title, [*blocks, *notes, *data], plan.paper)


def _chart(plan: Plan, lines: Sequence[Line], folder: Folder) -> list[Legend | Figure]:
    """A dot for each seed, an upright line for their mean, and the paper's number as a diamond."""
    if not any(line.scores for line in lines):
        return []

    def plot(axes: Any) -> None:
        for place, line in enumerate(lines):
            values = list(line.values().values())
            axes.plot(values, [place] * len(values), "o", color=BLUE, markersize=4.5, alpha=0.6, markeredgewidth=0)
            if values:
                mean = mean_and_spread(values)[0]
                axes.plot([mean, mean], [place - 0.3, place + 0.3], color=BLUE, linewidth=1.8)
            if line.row.paper is not None:
                axes.plot([line.row.paper], [place], "D", color=ORANGE, markersize=4, markerfacecolor="none")
        axes.set_yticks(range(len(lines)), [line.row.label for line in lines])
        axes.tick_params(axis="y", colors=INK)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.set_xlabel("mIoU, percent")

    panel = draw("study", plot, says=f"mIoU of the rows of {plan.title}", size=(4.3, 0.8 + 0.3 * len(lines)))
    caption, legend = "A dot is the last network of a seed, an upright line their mean", [("here", "var(--blue)")]
    if any(line.row.paper is not None for line in lines):
        caption += ", a diamond the paper's number"
        legend.append(("the paper", "var(--orange)"))
    return [Legend(legend), folder.figure([panel], caption + ".", {"CSV": "data/study.csv"})]


def _curves(plan: Plan, runs: dict[Any, Run], folder: Folder) -> Section:
    """mIoU over the steps of each row's stage."""
    series = _series(plan, runs, lambda stage: [(e["step"], value_of(e, "miou")) for e in stage.history])
    return _figure("curves", "Curves", "mIoU of the network", series, folder)


def _label_quality(plan: Plan, runs: dict[Any, Run], folder: Folder) -> Section:
    """mIoU of the labels that each row learns from, over the steps of its stage, on held-out labelled images."""
    series = _series(
        plan, runs, lambda stage: [(step, kinds["learnt_from"]["miou"]) for step, kinds in quality_of(stage)]
    )
    return _figure("label_quality", "Pseudo-label quality", "mIoU of the pseudo labels", series, folder)


def _series(
    plan: Plan, runs: dict[Any, Run], points: Callable[[Stage], Iterable[tuple[int, float]]]
) -> dict[str, list[tuple[int, float, int]]]:
    """For each row, (step, mean over seeds, number of seeds) of a stage's points."""
    found = {}
    for row in plan.rows:
        by_step: dict[int, list[float]] = {}
        for (_, variant), run in runs.items():
            for stage in run.stages:
                if (variant, stage.name) == (row.variant, row.stage):
                    for step, value in points(stage):
                        by_step.setdefault(step, []).extend([value] if np.isfinite(value) else [])
        if line := [(step, float(np.mean(v)), len(v)) for step, v in sorted(by_step.items()) if v]:
            found[row.label] = line
    return found


def _figure(name: str, title: str, what: str, series: dict[str, list], folder: Folder) -> Section:
    """Lines over steps, told apart by colour and dashes."""
    if not series:
        return Section(name, title, [Note(f"{title}: nothing was recorded.", missing=True)])
    link = folder.table(f"study_{name}", ("row", "step", "miou_mean", "seeds"),
                        [(row, *point) for row, points in series.items() for point in points])  # fmt: skip
    looks = {
        row: (*_COLORS[i % len(_COLORS)], _STYLES[i // len(_COLORS) % len(_STYLES)]) for i, row in enumerate(series)
    }

    def plot(axes: Any) -> None:
        for row, points in series.items():
            steps, values, _ = zip(*points, strict=True)
            color, _, style = looks[row]
            axes.plot(steps, values, style, color=color, marker="o" if len(steps) < 20 else None, markersize=3)
        axes.set_title(f"{what}, percent")
        axes.set_xlabel("step")
        axes.margins(x=0.02, y=0.1)

    def legend(axes: Any) -> None:
        for row, (color, _, style) in looks.items():
            axes.plot([], [], style, color=color, label=row)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=1, frameon=False)

    panel = draw(f"study_{name}", plot, says=f"{what} over the steps of {len(series)} rows", only_in_file=legend)
    dashes = {"-": "", "--": ", dashed", ":": ", dotted"}
    colors = [(row + dashes[style], f"var(--{color})") for row, (_, color, style) in looks.items()]
    caption = f"{what} over the steps of the stage, mean over seeds."
    return Section(name, title, [Legend(colors), folder.figure([panel], caption, {"CSV": link})])
