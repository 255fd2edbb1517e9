"""Scores beside the paper's, data, settings that differ from the paper's, and what the run ran on."""

import statistics
from typing import Any

from proda_jax.report import paper
from proda_jax.report.content import Folder, Note, Section, Table, gain, number, written
from proda_jax.report.run import Run, Stage, compared
from proda_jax.report.score_tables import duration, score_title


def scores(run: Run, folder: Folder) -> Section:
    """mIoU of each stage and IoU of each class, beside the paper's for the same task."""
    if not run.scored:
        return Section("scores", "Scores", [Note("No scores: there are no labelled validation images.", missing=True)])
    task, rows = paper.task(run.settings), paper_rows(run)
    blocks: list[Any] = [_stage_table(run, task, rows, folder), *_set_table(run, folder)]
    blocks += _class_tables(run, task, folder)
    if task is None:
        blocks.append(Note("The paper has no scores for this task, so there is no column of its own."))
    else:
        sources = "; ".join(dict.fromkeys(row.source for row in rows.values())) or "Tables 1 and 2"
        text = f"Scores of the paper: {task[0]}, {sources}. A dash: it gives none for such a stage, or its text does "
        blocks.append(Note(text + "not settle which number belongs to it."))
    return Section("scores", "Scores", blocks)


def paper_rows(run: Run) -> dict[str, paper.Row]:
    """The paper's network that each stage is, by stage name, of those that the paper has a number for."""
    task = paper.task(run.settings)
    if task is None:
        return {}
    kinds = {stage.name: stage.kind for stage in run.stages}
    names = {stage.name: paper.row_of(stage.settings, kinds) for stage in run.stages}
    return {stage: task[1][name] for stage, name in names.items() if name in task[1]}


def _stage_table(run: Run, task: Any, rows: dict[str, paper.Row], folder: Folder) -> Table:
    start = compared(run.scored)[0][1]
    means = [key for key in run.scored[0].last if key.startswith("miou")]
    data, shown = [], []
    for stage in run.stages:
        last, best, theirs = stage.last, stage.best, rows.get(stage.name)
        here = last["miou"] - start.last["miou"] if last.get("miou") is not None and stage is not start else None
        beyond = theirs.miou - task[1]["source"].miou if theirs and theirs is not task[1]["source"] else None
        of_paper = [theirs.miou if theirs else None, beyond, theirs.miou_13 if theirs else None]
        line = [*(last.get(key) for key in means), here, best.get("miou"), best.get("step")]
        data.append([stage.name, stage.steps, *line, *of_paper])
        name = stage.name if stage.result else f"{stage.name} (until now)"
        cells = [name, f"{stage.steps:,}", *(number(last.get(key)) for key in means), gain(here)]
        cells += [number(best.get("miou")), f"{best['step']:,}" if "step" in best else "–"]
        shown.append(cells + [number(of_paper[0]), gain(of_paper[1]), number(of_paper[2])] if task else cells)
    columns = ["stage", "steps", *means, "gain", "best_miou", "best_step", "paper_miou", "paper_gain", "paper_miou_13"]
    link = folder.table("scores", columns, data)
    titles = ["stage", "steps", *(f"{score_title(key)}, last" for key in means), f"gain over {start.name}"]
    titles += ["mIoU, best", "at step", *(["paper", "paper’s gain", "paper, over 13"] if task else [])]
    if len(means) == 1 and task:  # no mean over 13 classes
        titles, shown = titles[:-1], [cells[:-1] for cells in shown]
    caption = "mIoU, percent. The best network is chosen on the images that it is scored on, so it flatters."
    if start.role != "source":
        caption += f" The run has no stage of the source alone: gains are over {start.name}."
    return Table(titles, shown, caption, data=link)


def _set_table(run: Run, folder: Folder) -> list[Table]:
    """mIoU on each of several validation sets."""
    stages = [stage for stage in run.scored if "validation" in stage.last]
    sets = list(dict.fromkeys(title for stage in stages for title in stage.last["validation"]))
    if not sets:
        return []
    data = [[stage.name, *(stage.last["validation"].get(title, {}).get("miou") for title in sets)] for stage in stages]
    link = folder.table("validation_sets", ["stage", *sets], data)
    caption = "mIoU of the last networks on each validation set, percent. The first is the one of all other tables."
    return [Table(["stage", *sets], [[name, *map(number, scores)] for name, *scores in data], caption, data=link)]


def _class_tables(run: Run, task: Any, folder: Folder) -> list[Table]:
    """IoU of each class: last networks with the paper's, and the best ones folded away."""
    stages = [stage for stage in run.scored if stage.last.get("iou")]
    if not stages:
        return []
    classes = list(dict.fromkeys(name for stage in stages for name in stage.last["iou"]))
    both = [("last", [stage.last for stage in stages]), ("best", [stage.best for stage in stages])]
    data = [
        (stage.name, entry.get("step"), which, name, iou := entry.get("iou", {}).get(name), dice(iou))
        for which, entries in both
        for stage, entry in zip(stages, entries, strict=True)
        for name in classes
    ]
    link = folder.table("classes", ("stage", "step", "network", "class", "iou", "dice"), data)
    theirs = {row: task[1][row] for row in ("source", "warm-up", "stage 3") if row in task[1]} if task else {}
    chosen = [stage for _, stage in compared(stages)]
    change = (chosen[0], chosen[-1]) if len(chosen) > 1 else None
    tables = []
    for which, entries in both:
        gains = [f"gain, {change[1].name}"] if change else []
        titles = ["class", *(stage.name for stage in stages), *gains, *(f"paper: {row}" for row in theirs)]
        rows = []
        for name in [*classes, None]:  # the last row is that of the mean; a class may be called so, too
            values = [entry.get("miou") if name is None else entry.get("iou", {}).get(name) for entry in entries]
            cells = ["mIoU" if name is None else name, *map(number, values)]
            if change:
                before, after = (values[stages.index(stage)] for stage in change)
                cells.append(gain(None if None in (before, after) else after - before))
            cells += [number(row.miou if name is None else row.iou.get(name)) for row in theirs.values()]
            rows.append(cells)
        caption = f"IoU by class, percent, of the {which} network of each stage. A dash: no such pixels."
        caption += f" The gain is over {change[0].name}." if change else ""
        folded = "" if which == "last" else "IoU by class of the best networks"
        tables.append(Table(titles, rows, caption, emphasised=(len(rows) - 1,), data=link, folded=folded))
    return [*tables, _dice_table(stages, classes, link)]


def _dice_table(stages: list[Stage], classes: list[str], link: str) -> Table:
    """Dice of each class, last networks, folded away."""
    rows = [[name, *(number(dice(stage.last["iou"].get(name))) for stage in stages)] for name in classes]
    rows.append(["mDice", *(number(mean_dice(stage.last)) for stage in stages)])
    caption = "Dice (F1) by class, percent, of the last network of each stage; its mean is over classes that occur."
    return Table(["class", *(stage.name for stage in stages)], rows, caption, emphasised=(len(rows) - 1,), data=link,
                 folded="Dice by class of the last networks")  # fmt: skip


def dice(iou: float | None) -> float | None:
    """Dice of a class from its IoU over the same pixels, both in percent: 2 IoU / (1 + IoU)."""
    return None if iou is None else 200 * iou / (100 + iou)


def mean_dice(scores: dict) -> float | None:
    """Mean of Dice over the classes that occur in scores with 'iou', percent; None where there are none."""
    found = [dice(iou) for iou in scores.get("iou", {}).values() if iou is not None]
    return statistics.fmean(found) if found else None


def settings(run: Run, folder: Folder) -> Section:
    """What the data hold, what differs from the paper, and all settings folded away."""
    title = "Settings"
    if not run.settings:
        text = "No settings: neither config.json nor settings.json is there."
        return Section("settings", title, [Note(text, missing=True)])
    differing = paper.differences(run.settings, {stage.name: stage.settings for stage in run.stages if stage.settings})
    rows = [(name, written(here), written(there), source) for name, here, there, source in differing]
    link = folder.table("settings_beside_the_paper", ("setting", "here", "paper", "source"), rows)
    blocks: list[Any] = data_notes(run)
    if differing:
        caption = (
            "Settings whose values are not those that the paper names. Where it names none, nothing is listed; "
            "docs/method.md explains the choices."
        )
        blocks.append(Table(("setting", "here", "paper", "where"), rows, caption, text_columns=4, data=link))
    else:
        blocks.append(Note("Every setting that the paper names has the paper’s value."))
    if not run.config:
        text = "config.json is not there; these are the settings that the stages’ folders remember."
        blocks.append(Note(text, missing=True))
    rows = [(name, written(value)) for name, value in sorted(run.settings.items())]
    known = [row for row in rows if run.settings[row[0]] is not None]
    link = folder.table("settings", ("setting", "value"), known)
    blocks.append(Table(("setting", "value"), rows, text_columns=2, data=link, folded=f"All {len(rows)} settings"))
    return Section("settings", title, blocks)


def data_notes(run: Run) -> list[Note]:
    """What is worth knowing of the images of each role, as it was said when the run began."""
    return [Note(f"{role.capitalize()} images: {'; '.join(lines)}.") for role, lines in run.data.items() if lines]


def machine(run: Run, folder: Folder) -> Section:
    """Time, speed, device, software and seed."""
    rows, data = [], []
    for stage in run.stages:
        speed = images_per_second(stage)
        device = device_of(stage)
        data.append((stage.name, stage.steps, stage.seconds, speed, device))
        state = "complete" if stage.result else f"step {stage.steps:,} of {stage.planned_steps:,}"
        time = "–" if stage.seconds is None else duration(stage.seconds)
        rows.append((stage.name, state, device or "–", f"{stage.steps:,}", time, number(speed)))
    total = sum(stage.seconds or 0.0 for stage in run.stages)
    rows += [(name, "not begun", "–", "–", "–", "–") for name in run.waiting]
    rows.append(("all", "", "", f"{sum(stage.steps for stage in run.stages):,}", duration(total), ""))
    link = folder.table("stages_time", ("stage", "steps", "seconds", "images_per_second", "device"), data)
    caption = (
        "Time of training and evaluation; images per second is the median over the logged steps. "
        f"Seed: {'unknown' if run.seed is None else run.seed}."
    )
    blocks: list[Any] = [
        Table(("stage", "state", "device", "steps", "time", "images/s"), rows, caption, 3, (len(rows) - 1,), link)
    ]
    versions: dict[str, dict[str, None]] = {}
    for stage in run.stages:
        for name, version in stage.environment.get("versions", {}).items():
            versions.setdefault(name, {})[str(version)] = None
    if versions:
        rows = [(name, ", ".join(found)) for name, found in versions.items()]
        blocks.append(Table(("software", "version"), rows, "Software of the last process of each stage.", 2))
    without = [stage.name for stage in run.stages if not stage.environment]
    if without:
        text = f"Software and device of {', '.join(without)} are not known: no environment.json."
        blocks.append(Note(text, missing=True))
    return Section("machine", "Time and software", blocks)


def images_per_second(stage: Stage) -> float | None:
    """Median over a stage's logged steps."""
    speeds = [e["images_per_second"] for e in stage.metrics if e.get("images_per_second") is not None]
    return statistics.median(speeds) if speeds else None


def device_of(stage: Stage) -> str:
    """'2 x NVIDIA H200' or what is known of it."""
    where = stage.environment
    if not where.get("device"):
        return ""
    count, hosts = where.get("devices", 1), where.get("hosts", 1)
    text = where["device"] if count == 1 else f"{count} × {where['device']}"
    return text if hosts == 1 else f"{text} on {hosts} hosts"
