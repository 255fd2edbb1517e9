"""Predictions of a study's rows beside each other, on the same held-out images (Figures 6 to 8)."""

from collections.abc import Mapping, Sequence

from proda_jax.report import pictures
from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import Folder, Note, Section
from proda_jax.report.run import Run
from proda_jax.study import costs
from proda_jax.study.plan import Plan, Row
from proda_jax.study.results import Line

BEST = 3  # rows of the highest means, besides those that are always shown


def predictions(plan: Plan, lines: Sequence[Line], runs: Mapping[str, Run], folder: Folder) -> Section:
    """Pictures of the chosen rows with one seed, and the names of those that have none there.

    Args:
      plan: the study.
      lines: of its rows.
      runs: with that seed, by variant, one at least.
      folder: of the page.
    """
    wanted = [row for row in chosen(plan, lines) if len(row.stages) == 1]  # averages leave no pictures
    run = next(iter(runs.values()))
    there = {(name, stage.name): stage for name, of in runs.items() for stage in pictures.predicted(of)}
    found = [(row.label, there[row.variant, row.stage]) for row in wanted if (row.variant, row.stage) in there]
    without = [row.label for row in wanted if (row.variant, row.stage) not in there]
    section = pictures.beside_each_other(run, found, folder, f" Seed {run.seed}.")
    if found and without:
        section.blocks.append(Note(f"No predictions yet of {'; '.join(without)}.", missing=True))
    return section


def chosen(plan: Plan, lines: Sequence[Line]) -> list[Row]:
    """The rows that `picture_rows` names; without it what needs no stage of its own (the source), what gains are over,
    the best few, and the last, where tables have what they are about. In the order of the table; of several networks,
    the first one's source stands for all."""
    if plan.picture_rows:
        first = {row.stage: row for row in reversed(plan.rows)}
        return [row for row in plan.rows if row.stage in plan.picture_rows and first[row.stage] == row]
    always = {line.row for line in lines if not line.cost.stages} | {plan.base(row) for row in plan.rows}
    if costs.start(plan):
        always = {row for row in always if row.variant == plan.rows[0].variant}
    always |= {plan.rows[-1]}
    means = {line.row: mean_and_spread(list(line.values().values()))[0] for line in lines if line.row not in always}
    ordered = sorted((row for row in means if means[row] is not None), key=means.__getitem__, reverse=True)
    return [row for row in plan.rows if row in always or row in ordered[:BEST]]
