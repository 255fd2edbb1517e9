"""What is confused with what, and where the prototypes are and go."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from proda_jax.report.content import Folder, Note, Section, number
from proda_jax.report.drawing import BLUE, GREEN, INK, MUTED, ON_BLUE, ORANGE, PURPLE, YELLOW, Panel, draw, label_lines
from proda_jax.report.run import Run, Stage

_STRONG = 0.55  # share of full colour above which text of the other brightness is read better
_NAMED = (ORANGE, BLUE, GREEN, PURPLE, YELLOW)  # colours of the prototypes that move most


def confusion(run: Run, folder: Folder) -> Section:
    """Confusion matrix of the last network, of each true class in percent."""
    title = "Confusion matrix"
    for stage in reversed([s for s in run.stages if s.role != "oracle"]):
        found = stage.newest("confusion")
        if found and run.space:
            step, arrays = found
            counts = arrays["confusion"]
            break
    else:
        return Section("confusion", title, [Note("No confusion matrix was recorded.", missing=True)])
    if counts.shape != (len(run.space),) * 2:
        reason = f"{stage.name} has {len(counts)} classes, the label space {len(run.space)}"
        return Section("confusion", title, [Note(f"No confusion matrix: {reason}.", missing=True)])
    classes = run.space.classes
    present = np.flatnonzero(counts.sum(1) + counts.sum(0))
    shares = by_truth(counts)[np.ix_(present, present)]
    names = [classes[i] for i in present]
    panel = _matrix("confusion", names, 100 * shares, shares, "predicted", "true", "{:.0f}",
                    says=f"confusion matrix of {stage.name}")  # fmt: skip
    rows = [(name, *map(int, counts[i])) for i, name in enumerate(classes)]
    worst = np.nan_to_num(np.where(np.eye(len(names), dtype=bool), 0, shares))
    i, j = np.unravel_index(worst.argmax(), worst.shape)
    caption = (
        f"The last network of {stage.name} (step {step:,}) on the validation images. A row is a true class, a column "
        f"what it was taken for; percent of the row’s pixels. Cells below half a percent are left empty. Most taken "
        f"for another: {100 * worst[i, j]:.0f} % of {names[i]} for {names[j]}."
    )
    data = {"CSV, pixels": folder.table("confusion", ("true \\ predicted", *classes), rows)}
    return Section("confusion", title, [folder.figure([panel], caption, data, wide=True)])


def by_truth(counts: np.ndarray) -> np.ndarray:
    """A confusion matrix with rows that sum to one; rows without pixels are nan. float64 [classes, classes]."""
    totals = counts.sum(1, keepdims=True).astype(np.float64)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def pairwise_distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distance of each vector to each other: float64 [n, n] of [n, channels]."""
    vectors = np.asarray(vectors, np.float64)
    return np.sqrt(((vectors[:, None] - vectors[None]) ** 2).sum(-1))


def prototypes(run: Run, folder: Folder) -> Section:
    """Distances between the classes' prototypes, and how far each has moved over training."""
    title = "Prototypes"
    stages = [stage for stage in run.stages if stage.rectifies]
    for stage in reversed(stages):
        series = stage.series("prototypes", "seen")
        if series and run.space and len(series[-1][1]) == len(run.space):
            break
    else:
        reason = "no snapshot holds them" if stages else "no stage that uses them has begun"
        return Section("prototypes", title, [Note(f"No prototypes: {reason}.", missing=True)])
    classes = np.array(run.space.classes)
    step, vectors, seen = series[-1]
    apart = pairwise_distances(vectors[seen])
    panel = _matrix("prototype_distances", list(classes[seen]), apart, _closeness(apart), "", "", "{:.1f}",
                    says=f"distances between the prototypes of {stage.name}")  # fmt: skip
    rows = [(name, *map(float, row)) for name, row in zip(classes[seen], apart, strict=True)]
    data = {"CSV": folder.table("prototype_distances", ("class", *classes[seen]), rows)}
    caption = f"Euclidean distances between the prototypes after step {step:,} of {stage.name}; fuller colour, closer. "
    if len(apart) > 1:
        others = np.where(np.eye(len(apart), dtype=bool), np.inf, apart)
        i, j = np.unravel_index(others.argmin(), others.shape)
        caption += (
            f"Closest: {classes[seen][i]} and {classes[seen][j]}, {number(others[i, j])} apart; the median distance to "
            f"the nearest other prototype is {number(float(np.median(others.min(1))))}. "
        )
    if not seen.all():
        caption += f"Never seen: {', '.join(classes[~seen])}."
    blocks: list[Any] = [folder.figure([panel], caption.strip(), data, wide=True)]
    blocks.append(_drift_figure(stage, series, classes, folder) if len(series) > 1 else
                  Note("No drift of prototypes: there is one snapshot of them.", missing=True))  # fmt: skip
    return Section("prototypes", title, blocks)


def _closeness(apart: np.ndarray) -> np.ndarray:
    """1 for the closest pair, 0 for the most distant; nan on the diagonal."""
    off = ~np.eye(len(apart), dtype=bool)
    if not off.any():
        return np.full(apart.shape, np.nan)
    low, high = apart[off].min(), apart[off].max()
    return np.where(off, (high - apart) / max(high - low, 1e-12), np.nan)


def drift(series: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> np.ndarray:
    """How far each prototype is from where it was first seen.

    Args:
      series: (step, vectors [classes, channels], seen [classes]) in order of steps.

    Returns:
      Euclidean distances, float64 [steps, classes]; nan before a class is seen.
    """
    start = np.full(series[0][1].shape, np.nan)
    rows = []
    for _, vectors, seen in series:
        fresh = seen & np.isnan(start[:, 0])
        start[fresh] = vectors[fresh]
        moved = np.sqrt(((vectors.astype(np.float64) - start) ** 2).sum(1))
        rows.append(np.where(seen, moved, np.nan))
    return np.array(rows)


def _drift_figure(stage: Stage, series: list, classes: np.ndarray, folder: Folder) -> Any:
    moved, steps = drift(series), [step for step, *_ in series]
    order = np.argsort(np.nan_to_num(moved[-1], nan=-1.0))[::-1]
    named = [c for c in order if np.isfinite(moved[-1, c])][: len(_NAMED)]

    def plot(axes: Any) -> None:
        for c in order[::-1]:
            color = _NAMED[named.index(c)] if c in named else MUTED
            axes.plot(
                steps, moved[:, c], color=color, linewidth=1.6 if c in named else 0.7, alpha=1 if c in named else 0.6
            )
        axes.margins(x=0)
        axes.set_ylim(0)
        axes.set_title("distance from the start, units of the feature")
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        label_lines(axes, [(steps[-1], moved[-1, c], classes[c], _NAMED[i]) for i, c in enumerate(named)])

    panel = draw("prototype_drift", plot, says=f"how far prototypes moved over the steps of {stage.name}")
    rows = [(step, classes[c], float(value)) for step, row in zip(steps, moved, strict=True)
            for c, value in enumerate(row) if np.isfinite(value)]  # fmt: skip
    caption = (
        f"How far the prototypes moved over the steps of {stage.name}, one line a class; the {len(named)} that moved "
        "most are named."
    )
    return folder.figure(
        [panel], caption, {"CSV": folder.table("prototype_drift", ("step", "class", "distance"), rows)}
    )


def _matrix(
    name: str, labels: Sequence[str], values: np.ndarray, strength: np.ndarray, above: str, beside: str,
    pattern: str, *, says: str,
) -> Panel:  # fmt: skip
    """A matrix as cells of one colour, from none to full strength (0 to 1; nan: none), with their values."""
    count = len(labels)
    side = 1.5 + 0.27 * max(count, 6)

    def plot(axes: Any) -> None:
        shown = np.nan_to_num(strength)
        for i in range(count):
            for j in range(count):
                share = float(shown[i, j])
                if share > 0.005:
                    axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=BLUE, alpha=share, linewidth=0)
                text = pattern.format(values[i, j])
                if np.isfinite(strength[i, j]) and float(text) > 0:
                    axes.text(j + 0.5, i + 0.53, text, ha="center", va="center", fontsize=6,
                              color=ON_BLUE if share > _STRONG else INK)  # fmt: skip
        axes.set_xlim(0, count)
        axes.set_ylim(count, 0)
        axes.set_aspect("equal")
        axes.set_xticks(np.arange(count) + 0.5, labels, rotation=90, color=INK, fontsize=7)
        axes.set_yticks(np.arange(count) + 0.5, labels, color=INK, fontsize=7)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(above)
        axes.set_ylabel(beside)
        axes.grid(False)
        axes.spines[:].set_visible(False)

    return draw(name, plot, says=says, size=(side, side))
