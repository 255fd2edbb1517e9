"""A panel of bars, one for each row of a study, in the order of its table."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from proda_jax.report.drawing import BLUE, INK, MUTED, ORANGE, Panel, draw


@dataclasses.dataclass(frozen=True)
class Bar:
    """The bar of a row.

    Attributes:
      label: of the row.
      value: its length; None where it is not known.
      rest: length of a grey piece after it.
      spread: a thin line to both sides of its end.
      paper: where the paper's number is marked.
      plain: grey, as what others are compared with.
    """

    label: str
    value: float | None
    rest: float = 0.0
    spread: float | None = None
    paper: float | None = None
    plain: bool = False

    @property
    def end(self) -> float | None:
        return None if self.value is None else self.value + self.rest

    @property
    def beyond(self) -> float:
        """Where nothing more of it is drawn."""
        return max((self.end or 0.0) + (self.spread or 0.0), self.paper or 0.0)


def panel(file: str, title: str, bars: Sequence[Bar], shown: Callable[[float | None], str]) -> Panel:
    """Draws bars from zero on, each with its number as `shown`."""

    def plot(axes: Any) -> None:
        axes.set_xlim(0, max([*(bar.beyond for bar in bars), 1e-6]) * 1.25)
        for place, bar in enumerate(bars):
            if bar.value is not None:
                axes.barh(place, bar.value, height=0.66, color=MUTED if bar.plain else BLUE)
                axes.barh(place, bar.rest, left=bar.value, height=0.66, color=MUTED)
            if bar.value is not None and bar.spread is not None:
                axes.plot([bar.end - bar.spread, bar.end + bar.spread], [place, place], color=INK, linewidth=1.0)
            if bar.paper is not None:
                axes.plot(bar.paper, place, "D", color="none", markeredgecolor=ORANGE, markersize=4)
            axes.annotate(shown(bar.end), (bar.beyond, place), xytext=(4, 0), textcoords="offset points", va="center",
                          fontsize=7)  # fmt: skip
        axes.set_title(title)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=7.5)
        axes.tick_params(axis="y", colors=INK)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(False)
        axes.xaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)

    says = "; ".join(f"{bar.label} {shown(bar.end)}" for bar in bars)
    return draw(file, plot, says=f"{title}: {says}", size=(4.3, 0.5 + 0.18 * len(bars)))
