"""Classes of a study's rows: a panel of bars for each class, and the same as a table, beside the paper's numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from proda_jax.report import paper
from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import Figure, Folder, Legend, Note, Section, Table, number
from proda_jax.report.drawing import Panel
from proda_jax.report.run import Run
from proda_jax.study import results
from proda_jax.study.bars import Bar, panel
from proda_jax.study.plan import Plan
from proda_jax.study.results import Line


def classes(plan: Plan, lines: Sequence[Line], runs: Mapping[Any, Run], folder: Folder) -> Section:
    """IoU of each class, mean over seeds, beside the paper's of the same network where it gives them."""
    theirs = {line.row.label: _paper_row(line, runs) for line in lines}
    names = list(dict.fromkeys(name for line in lines for entry in line.scores.values() for name in entry["iou"]))
    if not names:
        return Section("classes", "Classes", [Note("Classes: no row has scores yet.", missing=True)])
    titles, data = ["class"], []
    for line in lines:
        titles += [line.row.label] + (["paper"] if theirs[line.row.label] else [])
    rows, panels = [], []
    for place, name in enumerate(names):
        cells, bars = [name], []
        for line in lines:
            by_seed = {seed: entry["iou"].get(name) for seed, entry in line.scores.items()}
            found = {seed: value for seed, value in by_seed.items() if value is not None}
            beside = theirs[line.row.label]
            of_paper = beside.iou.get(name) if beside else None
            cells += [results.shown(found, plan)] + ([number(of_paper)] if beside else [])
            mean, spread = mean_and_spread(list(found.values()))
            bars.append(Bar(line.row.label, mean, spread=spread, paper=of_paper, plain=line.row == plan.base(line.row)))
            data.append((line.row.label, name, len(found), mean, spread, of_paper))
        rows.append(cells)
        panels.append(panel(f"class_{place:02d}", f"IoU of {name}", bars, number))
    link = folder.table("study_classes", ("row", "class", "seeds", "iou_mean", "iou_spread", "paper"), data)
    caption = "IoU by class of the last networks, percent: mean over seeds ± sample standard deviation."
    figure, legend = _figure(plan, panels, folder, link, any(theirs.values()))
    return Section("classes", "Classes", [legend, figure, Table(titles, rows, caption, data=link)])


def _figure(plan: Plan, panels: list[Panel], folder: Folder, link: str, beside: bool) -> tuple[Figure, Legend]:
    bases = " or ".join(dict.fromkeys(plan.base(row).label for row in plan.rows))
    colors = [("rows", "var(--blue)"), (f"what gains are over: {bases}", "var(--muted)")]
    colors += [("the paper", "var(--orange)")] if beside else []
    caption = "IoU of each class, percent, by the last network of each row, mean over seeds."
    caption += " A thin line is a sample standard deviation to both sides." if len(plan.seeds) > 1 else ""
    caption += " A dash: no seed has such pixels, or no score yet. Panels have scales of their own."
    return folder.figure(panels, caption, {"CSV": link}), Legend(colors)


def _paper_row(line: Line, runs: Mapping[Any, Run]) -> paper.Row | None:
    """The paper's scores by class of a row's network; None where it gives none, or of another task."""
    if line.row.paper is None and line.row.published is None:
        return None
    for (_, variant), run in runs.items():
        task, stages = paper.task(run.settings), {stage.name: stage for stage in run.stages}
        if task and line.row.published:
            return line.row.published
        if task and variant == line.row.variant and line.row.stage in stages:
            name = paper.row_of(stages[line.row.stage].settings, {name: s.kind for name, s in stages.items()})
            return row if (row := task[1].get(name)) and row.iou else None
    return None
