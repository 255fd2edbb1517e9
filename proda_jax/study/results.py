"""Scores of a study: by row and seed, their mean, spread and gain, beside the paper's; as text, CSV, LaTeX, JSON."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import gain, number
from proda_jax.report.score_tables import latex_text, score_title
from proda_jax.run.workdir import Workdir
from proda_jax.study import costs
from proda_jax.study.costs import RowCost
from proda_jax.study.plan import Plan, Row, folder_of
from proda_jax.system.files import write_atomically, write_json


@dataclasses.dataclass(frozen=True)
class Line:
    """A row with its scores, percent.

    Attributes:
      row: of the study.
      scores: last evaluation of the row's stage by seed: {'miou', 'iou', ...}.
      gains: mIoU less that of the study's base row with the same seed, by seed.
      paper_gain: the same of the paper's numbers, over `Plan.paper_base`; None where it lacks one of the two.
      cost: of the stages that it needs after the start of all rows.
    """

    row: Row
    scores: Mapping[int, Mapping[str, Any]]
    gains: Mapping[int, float]
    paper_gain: float | None
    cost: RowCost

    def values(self, key: str = "miou") -> dict[int, float]:
        """A score by seed, of those that have it."""
        return {seed: entry[key] for seed, entry in self.scores.items() if entry.get(key) is not None}


def collect(plan: Plan, workdir: epath.PathLike) -> list[Line]:
    """What the experiments have come to by now, a line for each row."""
    scores = {row: {seed: found for seed in plan.seeds if (found := _score(row, seed, workdir))} for row in plan.rows}
    lines, before = [], costs.start(plan)
    for row, found in scores.items():
        base = plan.base(row)
        over = scores[base]
        gains = {seed: entry["miou"] - over[seed]["miou"] for seed, entry in found.items() if seed in over}
        beside = plan.paper_base
        theirs = None if row.paper is None or beside is None else row.paper - beside.paper
        lines.append(Line(row, found, gains, theirs, costs.of_row(plan, row, before, workdir)))
    return lines


def _score(row: Row, seed: int, workdir: epath.PathLike) -> dict | None:
    """The last evaluation of a row's stage, or of the average of several; None while it is not complete, or without
    labelled validation images."""
    result = Workdir(epath.Path(workdir) / folder_of(seed, row.variant)).result(row.stage)
    return result["last"] if result and result["last"].get("miou") is not None else None


def measures(lines: Sequence[Line]) -> list[str]:
    """Means over classes that there are: 'miou', and 'miou_13' on SYNTHIA's classes."""
    return sorted({key for line in lines for entry in line.scores.values() for key in entry if key.startswith("miou")})


def shown(values: Mapping[int, float], plan: Plan, *, signed: bool = False) -> str:
    """'50.3 ± 0.7', with how many seeds it is of where these are not all."""
    mean, spread = mean_and_spread(list(values.values()))
    text = gain(mean) if signed else number(mean)
    text += f" ± {number(spread)}" if spread is not None else ""
    return text if len(values) in (0, len(plan.seeds)) else f"{text} ({len(values)} of {len(plan.seeds)})"


def agreement(lines: Sequence[Line]) -> tuple[int, int] | None:
    """Pairs of rows that our means order as the paper does, and pairs that the paper orders; None without any."""
    both = [(statistics.fmean(line.values().values()), line.row.paper) for line in lines
            if line.values() and line.row.paper is not None]  # fmt: skip
    pairs = [(a, b) for i, a in enumerate(both) for b in both[i + 1 :] if a[1] != b[1]]
    return (sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)) if pairs else None


# Files


def cells(plan: Plan, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table as people read it."""
    titles = [plan.paper or plan.title, *(f"seed {seed}" for seed in plan.seeds), "mIoU"]
    more = [key for key in measures(lines) if key != "miou"]
    titles += [score_title(key) for key in more] + [gain_title(plan)]
    beside, thirteen = paper_columns(plan)
    titles += ["paper", *(["paper, 13 classes"] if thirteen else []), paper_gain_title(plan)] if beside else []
    rows = []
    for line in lines:
        values = line.values()
        row = [line.row.label, *(number(values.get(seed)) for seed in plan.seeds), shown(values, plan)]
        row += [shown(line.values(key), plan) for key in more]
        row.append("–" if line.row == plan.base(line.row) else shown(line.gains, plan, signed=True))
        if beside:
            published = line.row.published
            row += [number(line.row.paper), *([number(published and published.miou_13)] if thirteen else [])]
            row.append(_paper_gain(plan, line))
        rows.append(row)
    return titles, rows


def paper_columns(plan: Plan) -> tuple[bool, bool]:
    """Whether there are numbers of the paper's to show, and among them some over SYNTHIA's 13 classes."""
    published = [row.published for row in plan.rows if row.published]
    return any(row.paper is not None for row in plan.rows), any(row.miou_13 is not None for row in published)


def paper_gain_title(plan: Plan) -> str:
    """What the paper's gains are over, where that is not what gains are over here."""
    beside = plan.paper_base
    same = beside is None or any(plan.base(row) == beside for row in plan.rows)
    return "paper's gain" if same else f"paper's gain over {beside.label}"


def grid(plan: Plan, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]] | None:
    """Two settings against each other, as the paper prints them; None where rows are no such pairs."""
    found = {plan.grid[line.row.stage]: line for line in lines if line.row.stage in plan.grid}
    if not found:
        return None
    down, across = (list(dict.fromkeys(pair[axis] for pair in found)) for axis in (0, 1))
    beside = any(line.row.paper is not None for line in found.values())

    def cell(line: Line | None) -> str:
        if line is None:
            return ""
        return shown(line.values(), plan) + (f" ({number(line.row.paper)})" if beside else "")

    rows = [[row, *(cell(found.get((row, column))) for column in across)] for row in down]
    return ["mIoU (the paper's)" if beside else "mIoU", *across], rows


def tables(plan: Plan, lines: Sequence[Line]) -> list[tuple[list[str], list[list[str]]]]:
    """The list of all rows, and the grid where there is one: titles and cells of each."""
    return [table for table in (cells(plan, lines), grid(plan, lines)) if table is not None]


def _paper_gain(plan: Plan, line: Line) -> str:
    return "–" if line.row in (plan.base(line.row), plan.paper_base) else gain(line.paper_gain)


def gain_title(plan: Plan) -> str:
    """What gains are over."""
    bases = list(dict.fromkeys(map(plan.base, plan.rows)))
    if len({base.stage for base in bases}) == 1 and all(plan.base(base) == base for base in bases):
        return f"gain over {bases[0].label}" + (" with the same network" if len(bases) > 1 else "")
    return "gain over the first value"


def text_table(plan: Plan, lines: Sequence[Line]) -> str:
    """The table for a terminal, with what a reader has to know below it."""
    parts = [[plan.title]] + [_aligned(*table) for table in tables(plan, lines)]
    parts.append([f"- {note}" for note in remarks(plan, lines)])
    return "\n\n".join("\n".join(part) for part in parts)


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = []
    for first, *rest in (titles, *rows):
        right = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    return lines


def remarks(plan: Plan, lines: Sequence[Line]) -> list[str]:
    """What the table shows, and what a reader has to know."""
    found = ["mIoU in percent of each stage's last network; mean over seeds ± sample standard deviation. Gains are "
             "taken seed by seed."]  # fmt: skip
    if pairs := agreement(lines):
        found.append(f"Of {pairs[1]} pairs of rows that the paper orders, {pairs[0]} are in its order here.")
    return found + list(plan.notes)


def csv_table(plan: Plan, lines: Sequence[Line]) -> str:
    """A line for each row, with all digits; empty where there is no number."""
    keys = measures(lines) or ["miou"]
    titles = ["row", "variant", "stage", "seeds"]
    titles += [f"{key}_{what}" for key in keys for what in (*(f"seed{s}" for s in plan.seeds), "mean", "spread")]
    titles += ["gain_mean", "gain_spread", "paper", "paper_gain", "steps_after_start"]
    averaged = ("seconds", *costs.TIMES, "restarts")
    titles += [f"{what}_{of}" for what in averaged for of in ("mean", "spread")] + [*costs.SIZES]
    rows = []
    for line in lines:
        row = [line.row.label, line.row.variant, line.row.stage, len(line.scores)]
        for key in keys:
            values = line.values(key)
            row += [*(values.get(seed) for seed in plan.seeds), *mean_and_spread(list(values.values()))]
        row += [*mean_and_spread(list(line.gains.values())), line.row.paper, line.paper_gain, line.cost.steps]
        row += [value for what in averaged for value in line.cost.mean_and_spread(what)]
        rows.append(row + [line.cost.most(what) for what in costs.SIZES])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([titles, *rows])
    return text.getvalue()


def latex_table(plan: Plan, lines: Sequence[Line]) -> str:
    """LaTeX tabulars of what people read."""
    parts = [f"% {note}" for note in (plan.title, *remarks(plan, lines))]
    for titles, rows in tables(plan, lines):
        parts += [
            rf"\begin{{tabular}}{{l|{'c' * (len(titles) - 1)}}}",
            r"\hline",
            " & ".join(map(latex_text, titles)) + r" \\",
            r"\hline",
            *(" & ".join(map(latex_text, row)) + r" \\" for row in rows),
            r"\hline",
            r"\end{tabular}",
            "",
        ]  # fmt: skip
    return "\n".join(parts)


def as_json(plan: Plan, lines: Sequence[Line]) -> dict[str, Any]:
    """Everything, for programs."""
    rows = []
    for line in lines:
        mean, spread = mean_and_spread(list(line.values().values()))
        gain_mean, gain_spread = mean_and_spread(list(line.gains.values()))
        rows.append({
            "row": line.row.label, "stage": line.row.stage, "variant": line.row.variant, "mean": mean, "spread": spread,
            "gain": gain_mean, "gain_spread": gain_spread, "gain_over": plan.base(line.row).label,
            "paper": line.row.paper, "paper_gain": line.paper_gain,
            "seeds": {str(seed): entry for seed, entry in line.scores.items()},
            "cost": {"stages_after_start": list(line.cost.stages), "steps_after_start": line.cost.steps,
                     "seeds": {str(seed): measured for seed, measured in line.cost.seeds.items()}},
        })  # fmt: skip
    return {
        "study": plan.name, "title": plan.title, "paper": plan.paper, "seeds": list(plan.seeds),
        "complete": all(len(line.scores) == len(plan.seeds) for line in lines), "rows": rows,
        "notes": list(plan.notes),
    }  # fmt: skip


def write(plan: Plan, workdir: epath.PathLike) -> list[Line]:
    """Writes <workdir>/<study>/study.txt, .csv, .tex and .json of what there is by now, and returns the lines."""
    lines, folder = collect(plan, workdir), epath.Path(workdir) / plan.name
    write_atomically(folder / "study.txt", text_table(plan, lines) + "\n")
    write_atomically(folder / "study.csv", csv_table(plan, lines))
    write_atomically(folder / "study.tex", latex_table(plan, lines))
    write_json(folder / "study.json", as_json(plan, lines))
    return lines
