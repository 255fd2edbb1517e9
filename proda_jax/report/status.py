"""The state of a workdir as text for a terminal: what is done, where it stands, what comes next, what is damaged."""

import textwrap
import time
from collections.abc import Iterable

from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.report.inspection import Inspection, Stage, experiments, inspect, tables
from proda_jax.report.integrity import Integrity
from proda_jax.report.score_tables import best_of, duration, of_each_set

WIDTH = 80  # columns
_BESIDES = ("step", "seconds", "images_per_second", "gradient_norm", "skipped")  # of a logged step, what is no loss


def text(workdir: epath.PathLike, *, verify: bool = False) -> str:
    """The state of a workdir, of a run or of a study; it may be in a bucket, of an older version, or in use.

    Args:
      workdir: its folder.
      verify: compare all that it holds with its digests, and not only as much as is quick.

    Raises:
      ValueError: there is no such folder, or it holds no run.
    """
    integrity = Integrity(left=None) if verify else Integrity()
    if several := experiments(workdir, integrity):
        return study_text(workdir, several)
    found = inspect(workdir, integrity)
    current = next((stage for stage in found.stages if stage.result is None), None)
    last = [(one.name, one.result["last"] if one.result else (one.history or [{}])[-1]) for one in found.stages]
    parts = [headline(found), table(found.stages), "\n".join(of_each_set(last))]
    if current is not None and current.begun:
        parts.append(standing(current, found.running))
    parts += [made(found), following(found, current), compared(integrity), damage(found)]
    return "\n\n".join(filter(None, parts))


def study_text(workdir: epath.PathLike, found: dict[str, Inspection]) -> str:
    """The state of a study: its experiments, and the tables that have been written."""
    tasks = " and ".join(dict.fromkeys(one.config["task"] for one in found.values() if one.config))
    at = [f"{name}/{stage.name}" for name, one in found.items() for stage in one.stages if stage.held]
    states = f"being worked at: {', '.join(at)}" if at else "no process is at it"
    if any(one.running is None for one in found.values()):
        states = "nobody can tell here whether a process is at it"
    changed = [stage.changed for one in found.values() for stage in one.stages if stage.changed]
    heard = f"; last heard of {ago(max(changed))}" if changed else ""
    parts = [f"{workdir}: a study on {tasks or 'an unknown task'}\n{wrapped(states + heard)}"]
    rows = [("experiment", "stages", "begun, not complete")]
    for name, one in found.items():
        begun = [f"{stage.name} {stage.step}/{'?' if stage.steps is None else stage.steps}" for stage in one.stages
                 if stage.begun and stage.result is None]  # fmt: skip
        done = sum(stage.result is not None for stage in one.stages)
        rows.append((name, f"{done}/{len(one.stages)}", ", ".join(begun) or "-"))
    parts.append(aligned(rows))
    rows = [("table", "scores", "complete")]
    for name, one in tables(workdir).items():
        scores = [len(row["seeds"]) for row in one["rows"]]
        of = len(scores) * len(one["seeds"])
        rows.append((name, f"{sum(scores)} of {of}", "yes" if one["complete"] else "no"))
    parts.append(aligned(rows) if len(rows) > 1 else "no table has been written yet")
    parts += [compared(next(iter(found.values())).integrity), *(damage(one) for one in found.values())]
    example = epath.Path(workdir) / next(iter(found))
    parts.append(wrapped(f"more of one: python main.py --mode=status --workdir={example}"))
    return "\n\n".join(filter(None, parts))


def headline(found: Inspection) -> str:
    """Which run it is, and whether a process is at it."""
    config = found.config
    run = f"{config['task']}, seed {config['seed']}" if config else "a run of an older version (no config.json)"
    state = {True: "running", False: "no process is at it", None: "nobody can tell here whether a process is at it"}
    changed = max(filter(None, (stage.changed for stage in found.stages)), default=None)
    heard = f"; last heard of {ago(changed)}" if changed else ""
    return f"{found.path}: {run}\n{state[found.running]}{heard}"


def table(stages: Iterable[Stage]) -> str:
    """A line a stage."""
    rows = [("stage", "steps", "mIoU last", "best", "at step", "time")]
    for stage in stages:
        last = stage.result["last"] if stage.result else (stage.history or [{}])[-1]
        best = stage.result["best"] if stage.result else best_of(stage.history)
        steps = f"{stage.step}/{'?' if stage.steps is None else stage.steps}"
        scored = best.get("miou") is not None
        rows.append((
            stage.name, steps, score(last), score(best), str(best["step"]) if scored else "-",
            duration(stage.seconds) if stage.begun else "-",
        ))  # fmt: skip
    return aligned(rows)


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def score(entry: dict) -> str:
    return "-" if entry.get("miou") is None else f"{entry['miou']:.1f}"


def standing(stage: Stage, running: bool | None) -> str:
    """Where a stage stands that is not complete."""
    if not stage.step and not stage.metrics:
        return f"{stage.name} has begun, and logged no step yet: it is being prepared or compiled"
    total, each = stage.steps, stage.seconds_per_step
    lines = [f"{stage.name}, step {stage.step}" + (f" of {total} ({100 * stage.step // total} %)" if total else "")]
    last = stage.metrics[-1] if stage.metrics else {}
    losses = [f"{name} {value:.3g}" for name, value in last.items() if name not in _BESIDES and value is not None]
    losses += [f"skipped {last['skipped']:.0f}"] if last.get("skipped") else []
    lines += item("losses", ", ".join(losses))
    speed = [f"{last['images_per_second']:.3g} images/s"] if last.get("images_per_second") else []
    speed += [f"{each:.2g} s a step"] if each else []
    since = time.time() - stage.changed if running else 0.0  # the last steps are not written yet
    left = max((total - stage.step) * each - since, 0.0) if each and total else None
    speed += [f"about {duration(left)} left in this stage"] if left is not None else []
    lines += item("speed", ", ".join(speed))
    lines += item("checkpoint", loss_of_a_kill(stage, running))
    return "\n".join(lines)


def loss_of_a_kill(stage: Stage, running: bool | None) -> str:
    """The last checkpoint, and what was done since."""
    there = f"of step {stage.checkpoint}, {ago(stage.saved)}" if stage.checkpoint is not None else "none yet"
    if running is False:
        since = stage.step - (stage.checkpoint or 0)
        steps = f"{since} step{'s' if since > 1 else ''} noted since"
        return f"{there}; {steps} will be taken again" if since else f"{there}; the run goes on from there"
    # metrics are written now and then, so that time says best what was done since
    seconds = time.time() - stage.saved if stage.saved else stage.seconds + time.time() - stage.changed
    each = stage.seconds_per_step
    steps = f", about {seconds / each:.0f} steps" if each else ""
    return f"{there}: a kill -9 now would cost {duration(seconds)}{steps}; Ctrl-C and SIGTERM cost nothing"


def made(found: Inspection) -> str:
    """Pseudo labels, and translations of the source, that have been made."""
    labels = [(f"{stage.name}/{name}", count) for stage in found.stages for name, count in stage.labels.items()]
    translated = [(stage.name, stage.translated) for stage in found.stages if stage.translated is not None]
    parts = []
    for title, rows, total in (("pseudo labels, images", labels, found.targets),
                               ("translated source images", translated, found.sources)):  # fmt: skip
        of = f" of {total}" if total else ""
        parts += [title, *(f"  {name}: {count}{of}" for name, count in rows)] if rows else []
    return "\n".join(parts)


def following(found: Inspection, current: Stage | None) -> str:
    """What comes next, in the order in which it comes."""
    steps = [f"the rest of the source images is translated by {stage.name}" for stage in found.stages
             if stage.result is not None and _translates(stage)
             and (stage.translated or 0) < (found.sources or 1)]  # fmt: skip
    if current is not None:
        goes_on = f"{current.name} goes on from step {current.checkpoint}"
        steps.append(goes_on if current.checkpoint else preparation(current))
        rest = found.stages[found.stages.index(current) + 1 :]
        steps += [stage.name for stage in rest if stage.result is None]
    if not steps:
        return "next: nothing, all stages are complete"
    unknown = "" if found.config else " (later stages are not known without config.json)"
    how = ". The command that began the run goes on with it" if found.running is False else ""
    return wrapped(f"next: {', then '.join(steps)}{unknown}{how}")


def _translates(stage: Stage) -> bool:
    return stage.settings.get("kind") in kinds.KINDS and kinds.of(stage.settings).translates


def preparation(stage: Stage) -> str:
    """What is made for a stage before its first step."""
    kind = kinds.of(stage.settings) if stage.settings.get("kind") in kinds.KINDS else None
    labels = kind.pseudo_labels if kind else None
    parts = []
    if labels is not None and labels.made_by in stage.settings:
        parts.append(f"{labels.title} of {stage.settings[labels.made_by]}")
    parts += [f"source images translated by {by}"] if (by := stage.settings.get("source_images")) else []
    return f"{stage.name}, from {' and '.join(parts)}" if parts else stage.name


def compared(integrity: Integrity) -> str:
    """How much was compared with its digests."""
    return wrapped(f"checked for damage, {words}") if (words := integrity.in_words()) else ""


def damage(found: Inspection) -> str:
    """What cannot be read, or is not what was written."""
    rows = [wrapped(f"- {line}", "  ") for line in found.damaged]
    return "\n".join(["damaged:", *rows]) if rows else ""


# Words


def item(title: str, words: str) -> list[str]:
    """A titled line, wrapped; none where there is nothing to say."""
    return [textwrap.fill(words, WIDTH, initial_indent=f"  {title:<12}", subsequent_indent=" " * 14)] if words else []


def wrapped(words: str, indent: str = "") -> str:
    return textwrap.fill(words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def ago(moment: float) -> str:
    return f"{duration(max(time.time() - moment, 0.0))} ago"
