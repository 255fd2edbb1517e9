"""Scores and times as text: for a terminal, for a spreadsheet, for a paper."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence

from proda_jax.data.label_spaces import LabelSpace

_SHORT = {  # as the paper's tables call classes
    "traffic light": "light", "traffic sign": "sign", "vegetation": "vege.", "motorcycle": "motor", "bicycle": "bike",
}  # fmt: skip
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
                                                        "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
                                                        "\u2212": "$-$"})  # fmt: skip


def latex_text(text: str) -> str:
    """Text as LaTeX shows it."""
    return text.translate(_LATEX)


def table(stages: Sequence[dict]) -> str:
    """mIoU of each stage's result as text. The best network is chosen on the validation set itself, the last is not."""
    scores = sorted({key for stage in stages for key in stage["last"] if key.startswith("miou")})
    titles = [f"{score_title(key)} last" for key in scores]
    best_title = "mIoU best (chosen on the validation set)" if scores else "no labelled validation images: no scores"
    rows = ["   ".join(["stage             steps  seconds", *titles, best_title])]
    for stage in stages:
        last, best = stage["last"], stage["best"]
        cells = [f"{stage['name']:<16} {stage['steps']:>6} {stage['seconds']:>8.0f}"]
        cells += [f"{_score(last.get(key)):>{len(title)}}" for key, title in zip(scores, titles, strict=True)]
        cells += [f"{best['miou']:>9.1f}  at step {best['step']}"] if "miou" in best else []
        rows.append("   ".join(cells))
    return "\n".join(rows + of_each_set((stage["name"], stage["last"]) for stage in stages))


def of_each_set(entries: Iterable[tuple[str, dict]]) -> list[str]:
    """A line for each of several validation sets: the mIoU of each (name, evaluation); none where there is one set."""
    entries = [(name, entry["validation"]) for name, entry in entries if "validation" in entry]
    return [
        f"mIoU on {title}: " + ", ".join(f"{name} {_score(sets[title].get('miou'))}" for name, sets in entries
                                         if title in sets)
        for title in dict.fromkeys(title for _, sets in entries for title in sets)
    ]  # fmt: skip


def best_of(history: Sequence[dict]) -> dict:
    """The evaluation of highest mIoU, the last of several, which is the one whose network is kept; without scores, the
    last; empty where there is none."""
    return max(reversed(history), key=lambda entry: entry.get("miou") or 0.0, default={})


def duration(seconds: float) -> str:
    """'45 s', '3 min 20 s', '5 h 07 min', '2 days 3 h'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // 1440
    if not minutes:
        return f"{rest} s"
    if not hours:
        return f"{minutes} min {rest:02d} s"
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} days {hours % 24} h"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def score_title(key: str) -> str:
    """'mIoU' for 'miou', 'mIoU over 13' for 'miou_13', 'mIoU by running statistics' for 'miou_running_statistics'."""
    key = key.replace("running_statistics", "by running statistics").replace("miou", "mIoU")
    return key.replace("_by", " by").replace("_", " over ")


def class_table(scores: dict) -> str:
    """IoU of each class, Dice where it is there, and their means as text, in percent."""
    dice = scores.get("dice", {})
    rows = [(name, iou, dice.get(name, "")) for name, iou in scores["iou"].items()]
    rows += [(score_title(key), value, scores.get("mdice", "") if key == "miou" else "")
             for key, value in scores.items() if key.startswith("miou")]  # fmt: skip
    rows.append(("pixel accuracy", scores["pixel_accuracy"], ""))
    width = max(len(name) for name, *_ in rows)
    lines = [f"{'':<{width}} {'IoU':>6} {'Dice':>6}"] if dice else []
    lines += [f"{name:<{width}} {_cell(iou):>6} {_cell(of_dice):>6}".rstrip() for name, iou, of_dice in rows]
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else _score(value)


def origin(scores: dict) -> str:
    """What was evaluated (`Experiment.evaluate`), in a line."""
    which = f", {scores['checkpoint']} checkpoint, step {scores['step']}" if "checkpoint" in scores else ""
    return f"{scores['network']}{which}: IoU in percent on {scores['images']} images of {scores['data']}"


def csv_table(scores: dict) -> str:
    """An evaluation (`Experiment.evaluate`) as two lines of CSV, names and values; lines of several can be joined."""
    origin = [(key, scores.get(key)) for key in ("task", "network", "stage", "checkpoint", "step", "data", "images")]
    means = [(score_title(key), value) for key, value in scores.items() if key.startswith("miou")]
    means.append(("pixel accuracy", scores["pixel_accuracy"]))
    if "dice" in scores:
        means += [("mDice", scores["mdice"]), *((f"Dice of {name}", value) for name, value in scores["dice"].items())]
    taken = {name for name, _ in (*origin, *means)}
    classes = [(f"IoU of {name}" if name in taken else name, value) for name, value in scores["iou"].items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*origin, *classes, *means, strict=True))
    return text.getvalue()


def latex_table(scores: dict, space: LabelSpace) -> str:
    """An evaluation as a LaTeX tabular of one row, in the order of columns of the paper's Tables 1 and 2.

    Where the space has a subset, such as SYNTHIA's 13 classes, a star marks the classes outside it, and the mean over
    those inside.
    """
    inside = {i for ids in space.subsets.values() for i in ids} or set(range(len(space)))
    names = [latex_text(_SHORT.get(name, name)) for name in space.classes]
    names = [name if i in inside else f"{name}$^*$" for i, name in enumerate(names)]
    means = ["miou", *(f"miou_{name}" for name in space.subsets)]
    titles = ["mIoU", *("mIoU$^*$" for _ in space.subsets)]
    values = ["-" if v is None else f"{v:.1f}" for v in (*scores["iou"].values(), *map(scores.get, means))]
    name = scores.get("stage") or pathlib.PurePath(scores["network"]).stem
    return "\n".join([
        f"% {origin(scores)}",
        rf"\begin{{tabular}}{{l|*{{{len(names)}}}{{c}}|{'c' * len(means)}}}",
        r"\hline",
        " & ".join(["", *names, *titles]) + r" \\",
        r"\hline",
        " & ".join([latex_text(name), *values]) + r" \\",
        r"\hline",
        r"\end{tabular}",
        "",
    ])  # fmt: skip
