"""Scores as text for a terminal."""

from collections.abc import Sequence


def table(stages: Sequence[dict]) -> str:
    """mIoU of each stage's result as text. The best network is chosen on the validation set itself, the last is not."""
    scores = sorted({key for stage in stages for key in stage["last"] if key.startswith("miou")})
    titles = [f"{score_title(key)} last" for key in scores]
    best_title = "mIoU best (chosen on the validation set)" if scores else "no labelled validation images: no scores"
    rows = ["   ".join(["stage             steps  seconds", *titles, best_title])]
    for stage in stages:
        last, best = stage["last"], stage["best"]
        cells = [f"{stage['name']:<16} {stage['steps']:>6} {stage['seconds']:>8.0f}"]
        cells += [f"{last[key]:>{len(title)}.1f}" for key, title in zip(scores, titles, strict=True)]
        cells += [f"{best['miou']:>9.1f}  at step {best['step']}"] if scores else []
        rows.append("   ".join(cells))
    return "\n".join(rows)


def score_title(key: str) -> str:
    """'mIoU' for 'miou', 'mIoU over 13' for 'miou_13'."""
    return key.replace("miou", "mIoU").replace("_", " over ")


def class_table(scores: dict) -> str:
    """IoU of each class and their means as text, in percent."""
    means = {score_title(key): value for key, value in scores.items() if key.startswith("miou")}
    rows = scores["iou"] | means | {"pixel accuracy": scores["pixel_accuracy"]}
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}} {'-' if v is None else format(v, '.1f'):>6}" for name, v in rows.items())
