"""Several runs side by side; those that differ in their seed alone are one group, with mean and spread."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from proda_jax.report import page
from proda_jax.report.content import Figure, Folder, Legend, Note, Section, Table, gain, number, written
from proda_jax.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, YELLOW, draw
from proda_jax.report.run import Run, Stage, compared, read
from proda_jax.report.tables import dice, mean_dice
from proda_jax.system.files import write_atomically

_COLORS = ((BLUE, "blue"), (ORANGE, "orange"), (GREEN, "green"), (PURPLE, "purple"), (YELLOW, "yellow"))
# settings that change nothing in what a run ends in: seeds differ within a group, and the rest is where, how often, how
_BESIDE = re.compile(
    r"seed|log_every|summaries|save_every|save_minutes|compile_ahead|max_skipped|evaluate_batch_size|init_from|snapshots\..*"
    r"|data\.(loader|data_dir|threads|strict)|data\.(.*\.)?raw_dir"
)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of the same task with the same settings, but for their seeds.

    Attributes:
      letter: what the page calls it.
      runs: at least one.
    """

    letter: str
    runs: list[Run]

    @property
    def title(self) -> str:
        return f"{self.letter}: {self.runs[0].task if len(self.runs) > 1 else self.runs[0].path.name}"

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(stage.name for run in self.runs for stage in run.scored))

    def values(self, stage: str, of: Callable[[Run, Stage], float | None]) -> list[float]:
        """`of`(run, stage) for the runs that have a score of that stage, without None."""
        found = (of(run, s) for run in self.runs for s in run.scored if s.name == stage)
        return [value for value in found if value is not None]


def write_comparison(workdirs: Sequence[epath.PathLike], workdir: epath.PathLike | None = None) -> epath.Path:
    """Writes a page with several runs side by side.

    Args:
      workdirs: of the runs, in the order in which they are shown.
      workdir: folder in whose `report` the page goes; that of the first run by default.

    Returns:
      Path of the page, <workdir>/report/compare.html.

    Raises:
      ValueError: fewer than two workdirs, one named twice, or one without a run.
    """
    if len(workdirs) < 2:
        raise ValueError("--compare needs two workdirs or more: --compare=first,second")
    workdirs = [epath.Path(path) for path in workdirs]
    if len(set(workdirs)) < len(workdirs):
        raise ValueError(f"--compare names a workdir twice: {', '.join(map(str, workdirs))}")
    runs = [read(path) for path in workdirs]
    groups = grouped(runs)
    folder = Folder(epath.Path(workdir or workdirs[0]) / page.FOLDER)
    sections = [_runs(groups, folder), _stages(groups, folder), _classes(groups, folder)]
    missing = [f"{run.path}: {problem}." for run in runs for problem in run.problems]
    missing += [f"{run.path} has no scores." for run in runs if not run.scored]
    missing += [
        f"{run.path}: {stage.name} is not complete." for run in runs for stage in run.stages if not stage.result
    ]
    missing += [f"{run.path}: not begun: {', '.join(run.waiting)}." for run in runs if run.waiting]
    facts = [("runs", str(len(runs))), ("groups", str(len(groups)))]
    text = page.render(f"ProDA: {len(runs)} runs", _headline(groups), facts, None, sections, missing)
    path = folder.path / "compare.html"
    write_atomically(path, text)
    return path


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in nothing but their seed, and in what decides nothing, together; in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if not _BESIDE.fullmatch(key)}
        if settings.get("handover", "last") == "last":
            settings.pop("evaluate_every", None)  # otherwise it decides which network is handed on
        known = settings or [stage.name for stage in run.stages]
        found.setdefault(repr((run.task, known)), []).append(run)
    return [Group(_letter(i), members) for i, members in enumerate(found.values())]


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"A{i - 25}"


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (divided by n - 1); None for what too few values do not give."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def _shown(values: Sequence[float], runs: int, *, signed: bool = False) -> str:
    """'50.3 ± 0.7', with how many runs it is of where that is not all of them."""
    mean, spread = mean_and_spread(values)
    text = gain(mean) if signed else number(mean)
    text += f" ± {number(spread)}" if spread is not None else ""
    return text if len(values) in (0, runs) else f"{text} ({len(values)} of {runs})"


def _miou(run: Run, stage: Stage) -> float | None:
    return stage.last["miou"]


def _gain(run: Run, stage: Stage) -> float | None:
    start = compared(run.scored)[0][1]
    return None if stage is start else stage.last["miou"] - start.last["miou"]


def _last_stage(group: Group) -> str | None:
    """The stage that a group ends with, the oracle aside."""
    ends = [compared(run.scored)[-1][1].name for run in group.runs if run.scored]
    return ends[0] if ends else None


def _headline(groups: Sequence[Group]) -> str:
    if len(groups) > 3:
        return f"{sum(len(group.runs) for group in groups)} runs in {len(groups)} groups."
    parts = []
    for group in groups:
        stage = _last_stage(group)
        score = f"{_shown(group.values(stage, _miou), len(group.runs))} mIoU after {stage}" if stage else "no scores"
        parts.append(f"{group.title}, {score}")
    return "; ".join(parts) + "."


def _order(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(stage for group in groups for stage in group.stages))


def _runs(groups: Sequence[Group], folder: Folder) -> Section:
    rows, data = [], []
    for group in groups:
        for run in group.runs:
            end = compared(run.scored)[-1][1] if run.scored else None
            score = end.last["miou"] if end else None
            complete = sum(stage.result is not None for stage in run.stages)
            seed = "–" if run.seed is None else str(run.seed)
            all_stages = len(run.stages) + len(run.waiting)
            rows.append(
                (
                    group.letter,
                    str(run.path),
                    seed,
                    f"{complete} of {all_stages}",
                    end.name if end else "–",
                    number(score),
                )
            )
            for s in run.scored:
                scores = [("mIoU", s.last["miou"], mean_dice(s.last))]
                scores += [(name, iou, dice(iou)) for name, iou in s.last.get("iou", {}).items()]
                data += [(group.letter, run.path, run.seed, s.name, *score) for score in scores]
    link = folder.table("compare_runs", ("group", "workdir", "seed", "stage", "class", "iou", "dice"), data)
    caption = "Runs of the same task with the same settings, but for their seeds, are one group."
    columns = ("group", "workdir", "seed", "stages complete", "ends with", "mIoU")
    blocks: list[Any] = [*_chart(groups, folder), Table(columns, rows, caption, 5, data=link)]
    differing = differences([group.runs[0].settings for group in groups])
    if differing:
        shown = [(name, *map(written, values)) for name, values in differing]
        titles = ("setting", *(group.title for group in groups))
        caption = "Settings in which the groups differ. A dash: unknown, or no such setting."
        blocks.append(Table(titles, shown, caption, len(titles)))
    return Section("runs", "Runs", blocks)


def differences(settings: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Settings that are not the same everywhere, with their values; None where one is not known."""
    names = dict.fromkeys(name for known in settings for name in known if not _BESIDE.fullmatch(name))
    rows = [(name, [known.get(name) for known in settings]) for name in sorted(names)]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def _stages(groups: Sequence[Group], folder: Folder) -> Section:
    rows, data = [], []
    for stage in _order(groups):
        cells = [stage]
        for group in groups:
            scores, gains = group.values(stage, _miou), group.values(stage, _gain)
            if scores:
                data.append((group.letter, stage, len(scores), *mean_and_spread(scores), *mean_and_spread(gains)))
            cells += [_shown(scores, len(group.runs)), _shown(gains, len(group.runs), signed=True) if gains else "–"]
        rows.append(cells)
    columns = ("group", "stage", "runs", "miou_mean", "miou_spread", "gain_mean", "gain_spread")
    link = folder.table("compare_stages", columns, data)
    titles = ["stage"]
    for group in groups:
        titles += [_counted(group), "gain"]
    caption = (
        "mIoU of the last network of each stage, percent: mean over the runs ± sample standard deviation. Gains are "
        "over the source, or the first stage, of the same run."
    )
    return Section("stages", "Stages", [Table(titles, rows, caption, data=link)])


def _counted(group: Group) -> str:
    if len(group.runs) == 1:
        return group.title
    seeds = len({run.seed for run in group.runs})
    runs = "" if seeds == len(group.runs) else f"{len(group.runs)} runs of "
    return f"{group.title}, {runs}{seeds} seed{'s' if seeds > 1 else ''}"


def _classes(groups: Sequence[Group], folder: Folder) -> Section:
    """IoU by class: groups beside each other at their ends, and every stage of each group and Dice folded away."""
    data = []
    cells: dict[tuple[str, str, str], str] = {}
    of_dice: dict[tuple[str, str, str | None], str] = {}  # None: the mean; a class may have any name
    for group in groups:
        for stage in group.stages:
            for name in _class_names([group]):
                values = group.values(stage, lambda _, s, name=name: s.last.get("iou", {}).get(name))
                by_dice = [dice(value) for value in values]
                cells[group.letter, stage, name] = _shown(values, len(group.runs))
                of_dice[group.letter, stage, name] = _shown(by_dice, len(group.runs))
                if values:
                    spread = (*mean_and_spread(values), *mean_and_spread(by_dice))
                    data.append((group.letter, stage, name, len(values), *spread))
            means = group.values(stage, lambda _, s: mean_dice(s.last))
            of_dice[group.letter, stage, None] = _shown(means, len(group.runs))
    columns = ("group", "stage", "class", "runs", "iou_mean", "iou_spread", "dice_mean", "dice_spread")
    link = folder.table("compare_classes", columns, data)
    ends = [(group, _last_stage(group)) for group in groups if _last_stage(group)]
    if not ends:
        return Section("classes", "Classes", [Note("No run has scores.", missing=True)])
    titles = ["class", *(f"{_counted(group)}, {stage}" for group, stage in ends)]

    def at_the_ends(shown: dict, name: str | None) -> list[str]:
        return [shown.get((group.letter, stage, name), "–") for group, stage in ends]

    names = _class_names(groups)
    caption = "IoU of the last network by class, percent: mean over the runs ± sample standard deviation."
    blocks: list[Any] = [Table(titles, [[name, *at_the_ends(cells, name)] for name in names], caption, data=link)]
    if names:
        says = "Dice (F1), percent, likewise; a run's mDice is over the classes that occur."
        rows = [[name, *at_the_ends(of_dice, name)] for name in names] + [["mDice", *at_the_ends(of_dice, None)]]
        blocks.append(Table(titles, rows, says, data=link, folded="Dice by class"))
    for group, _ in ends:
        rows = [[name, *(cells[group.letter, s, name] for s in group.stages)] for name in _class_names([group])]
        blocks.append(
            Table(("class", *group.stages), rows, caption, data=link, folded=f"Every stage of {_counted(group)}")
        )
    return Section("classes", "Classes", blocks)


def _class_names(groups: Sequence[Group]) -> list[str]:
    stages = [stage for group in groups for run in group.runs for stage in run.scored]
    return list(dict.fromkeys(name for stage in stages for name in stage.last.get("iou", {})))


def _chart(groups: Sequence[Group], folder: Folder) -> list[Legend | Figure]:
    """A dot for each run and stage, and a line for the mean of each group."""
    order = _order(groups)
    if not order:
        return []

    def plot(axes: Any) -> None:
        for i, group in enumerate(groups):
            color, _ = _COLORS[i % len(_COLORS)]
            for stage in group.stages:
                place = order.index(stage) + (i - (len(groups) - 1) / 2) * 0.7 / len(groups)
                values = group.values(stage, _miou)
                axes.plot(values, [place] * len(values), "o", color=color, markersize=4.5, alpha=0.6, markeredgewidth=0)
                mean, half = mean_and_spread(values)[0], 0.3 / len(groups)
                axes.plot([mean, mean], [place - half, place + half], color=color, linewidth=1.8)
        axes.set_yticks(range(len(order)), order)
        axes.tick_params(axis="y", colors=INK)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.spines[["left"]].set_visible(False)
        axes.set_xlabel("mIoU, percent")

    height = 0.8 + len(order) * max(0.3, 0.16 * len(groups))
    says = f"mIoU by stage of {len(groups)} groups of runs"
    panel = draw("compare", plot, says=says, size=(4.3, height), only_in_file=_names(groups))
    colors = [(_counted(group), f"var(--{_COLORS[i % len(_COLORS)][1]})") for i, group in enumerate(groups)]
    caption = "A dot is the last network of a run, an upright line the mean of its group."
    return [Legend(colors), folder.figure([panel], caption, {"CSV": "data/compare_stages.csv"})]


def _names(groups: Sequence[Group]) -> Callable[[Any], None]:
    """Adds the groups' names to a file, which has no page around it."""

    def legend(axes: Any) -> None:
        for i, group in enumerate(groups):
            axes.plot([], [], "o", color=_COLORS[i % len(_COLORS)][0], label=_counted(group))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)

    return legend
