"""Predictions of a study's rows beside each other, on the same held-out images (Figures 6 to 8)."""

from collections.abc import Sequence

from proda_jax.report import pictures
from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import Folder, Note, Section
from proda_jax.report.run import Run
from proda_jax.study.plan import Plan, Row
from proda_jax.study.results import Line

BEST = 3  # rows of the highest means, besides those that are always shown


def predictions(plan: Plan, lines: Sequence[Line], run: Run, folder: Folder) -> Section:
    """Pictures of the chosen rows in one experiment, and the names of those that have none there."""
    wanted = chosen(plan, lines)
    there = {stage.name: stage for stage in pictures.predicted(run)}
    found = [(row.label, there[row.stage]) for row in wanted if row.stage in there]
    without = [row.label for row in wanted if row.stage not in there]
    section = pictures.beside_each_other(run, found, folder, f" Seed {run.seed}.")
    if found and without:
        section.blocks.append(Note(f"No predictions yet of {'; '.join(without)}.", missing=True))
    return section


def chosen(plan: Plan, lines: Sequence[Line]) -> list[Row]:
    """The rows that `picture_rows` names; without it what needs no stage of its own (the source), what gains are over,
    the best few, and the last, where tables have what they are about. In the order of the table."""
    if plan.picture_rows:
        return [row for row in plan.rows if row.stage in plan.picture_rows]
    always = {line.row for line in lines if not line.cost.stages} | {plan.base(row) for row in plan.rows}
    always |= {plan.rows[-1]}
    means = {line.row: mean_and_spread(list(line.values().values()))[0] for line in lines if line.row not in always}
    ordered = sorted((row for row in means if means[row] is not None), key=means.__getitem__, reverse=True)
    return [row for row in plan.rows if row in always or row in ordered[:BEST]]
