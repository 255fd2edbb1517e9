"""What a study's rows cost, beside what they score."""

from collections.abc import Callable, Sequence

from proda_jax.report.compare import mean_and_spread
from proda_jax.report.content import Figure, Folder, Note, Section, Table, number
from proda_jax.report.drawing import Panel
from proda_jax.report.score_tables import duration
from proda_jax.study import costs as measured
from proda_jax.study import results
from proda_jax.study.bars import Bar, panel
from proda_jax.study.plan import Plan
from proda_jax.study.results import Line

_TITLES = {
    "seconds": "training", "compiling_seconds": "of it compiling", "preparing_seconds": "preparing",
    "repeated_seconds": "lost and repeated", "restarts": "restarts", "step_bytes": "memory of a step",
    "device_bytes": "device, at most", "process_bytes": "process, at most",
}  # fmt: skip
EXPLAINED = (
    "Training is the time of all steps after the start, with compiling and evaluating; preparing is what they need "
    "before, such as pseudo labels, translations and prototypes, counted with the row that asks for it first. What "
    "else the machine did meanwhile counts, too."
)
MEMORY = (
    "Memory of a step is what its program takes of a device, as compiled: the largest of the row's stages. A process' "
    "most is with data and with what earlier stages left in it, so it depends on their order."
)


def costs(plan: Plan, lines: Sequence[Line], folder: Folder) -> Section:
    """Steps, time and memory of each row after the start, mean over seeds, beside its mIoU."""
    start = list(dict.fromkeys(stage for _, stage in sorted(measured.start(plan))))
    trained = [line for line in lines if line.cost.stages]
    known = [what for what in _TITLES if any(_value(line, what) is not None for line in trained)]
    titles = ["row", "mIoU", "stages", "steps", *(_TITLES[what] for what in known)]
    rows, data = [], []
    for line in lines:
        cost = line.cost
        rows.append([line.row.label, results.shown(line.values(), plan), str(len(cost.stages)), f"{cost.steps:,}",
                     *(_shown(plan, line, what) for what in known)])  # fmt: skip
        mean = mean_and_spread(list(line.values().values()))[0]
        data.append((line.row.label, mean, " ".join(cost.stages), cost.steps, len(cost.seeds),
                     *(_value(line, what) for what in measured.MEASURES)))  # fmt: skip
    columns = ("row", "miou_mean", "stages", "steps", "seeds", *measured.MEASURES)
    link = folder.table("study_costs", columns, data)
    after = f"after the start ({', '.join(start)}), which all rows have in common" if start else "from the beginning"
    caption = f"Cost {after}, mean over seeds; restarts and memory are the most of a seed. A dash: not known."
    table = Table(titles, rows, caption, data=link)
    blocks = [*_figure(lines, folder, link), table, Note(EXPLAINED)]
    blocks += [Note(MEMORY)] if set(known) & set(measured.SIZES) else []
    return Section("costs", "Cost beside score", blocks + _gaps(lines))


def _value(line: Line, what: str) -> float | None:
    """A measure of a row: the mean of times, the most of all else."""
    return line.cost.mean_and_spread(what)[0] if what.endswith("seconds") else line.cost.most(what)


def _shown(plan: Plan, line: Line, what: str) -> str:
    value = _value(line, what)
    if value is None:
        return "–"
    if what.endswith("bytes"):
        return f"{value / 1e9:.2f} GB"
    if what == "restarts":
        return str(value)
    return duration(value) + (f" ({n} of {len(plan.seeds)})" if (n := len(line.cost.seeds)) < len(plan.seeds) else "")


def _gaps(lines: Sequence[Line]) -> list[Note]:
    """What is not measured, or not as one would think."""
    notes = []
    unknown = [line.row.label for line in lines if line.cost.seeds and line.cost.most("restarts") is None]
    if unknown:
        text = "Preparing, restarts and memory are not known, as an older version ran at least one of their stages: "
        notes.append(Note(f"{text}{'; '.join(unknown)}.", missing=True))
    if again := [line.row.label for line in lines if line.cost.most("restarts")]:
        text = f"Stopped and gone on with: {'; '.join(again)}. Each start prepares and compiles anew; steps that were "
        notes.append(Note(f"{text}lost are beside the time, as far as they were written down before the stop."))
    return notes


def _figure(lines: Sequence[Line], folder: Folder, link: str) -> list[Figure]:
    """mIoU, time and memory of all rows in panels beside each other, rows in the same places; none without times."""
    longest = max((_value(line, "seconds") or 0.0 for line in lines), default=0.0)
    if not longest:
        return []
    unit, name = (3600.0, "hours") if longest > 7200 else (60.0, "minutes") if longest > 120 else (1.0, "seconds")

    def score(line: Line) -> float | None:
        return mean_and_spread(list(line.values().values()))[0]

    def over(what: str, scale: float) -> Callable[[Line], float | None]:
        return lambda line: None if (value := _value(line, what)) is None else value / scale

    panels = [_bars("cost_miou", "mIoU, percent", lines, score)]
    panels.append(_bars("cost_time", f"time, {name}", lines, over("seconds", unit), over("preparing_seconds", unit)))
    if len({line.cost.steps for line in lines if line.cost.stages}) > 1:
        panels.append(_bars("cost_steps", "steps after the start", lines, lambda line: float(line.cost.steps)))
    if any(_value(line, "step_bytes") is not None for line in lines):
        panels.append(_bars("cost_memory", "memory of a step, GB", lines, over("step_bytes", 1e9)))
    caption = "mIoU of the last networks, and what they cost after the start."
    if any(_value(line, "preparing_seconds") for line in lines):
        caption += " Grey, after the time of training: that of preparing."
    return [folder.figure(panels, caption, {"CSV": link})]


def _bars(
    file: str, title: str, lines: Sequence[Line], of: Callable[[Line], float | None],
    more: Callable[[Line], float | None] = lambda line: None,
) -> Panel:  # fmt: skip
    """A bar for each row, with `more` after it, and their sum."""
    return panel(file, title, [Bar(line.row.label, of(line), more(line) or 0.0) for line in lines], _short)


def _short(value: float | None) -> str:
    """A number with three digits that say something, or all before the point."""
    digits = 0 if not value or value >= 100 else 1 if value >= 10 else 2
    return number(value, digits)
