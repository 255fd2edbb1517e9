"""How figures are drawn: one style, as SVG that follows the page's colours and as PNG for elsewhere."""

import dataclasses
import io
import re
from collections.abc import Callable
from typing import Any

# Colours on white; in the page the SVG takes its own by these names, so that dark pages have lighter ones.
# The series are told apart with any colour vision (after Okabe and Ito).
INK, MUTED, RULE = "#1b1f24", "#5d6671", "#d5dae0"
ON_BLUE = "#fdfdfe"  # of text on full blue
BLUE, ORANGE, GREEN, PURPLE, YELLOW = "#0b6fb8", "#c4500a", "#0a8a66", "#a3508a", "#8f7200"
_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", ORANGE: "orange", GREEN: "green", PURPLE: "purple",
          YELLOW: "yellow",
          ON_BLUE: "on-blue"}  # fmt: skip
SIZE = (4.3, 2.8)  # inches of a panel; 310 x 202 points, which a phone shows at nearly their size
_DOTS = 150  # of the PNG, an inch

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that figures look the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0.0,
    "xtick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text
    "svg.image_inline": True,
    "path.simplify_threshold": 0.3,
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
      name: of its file, without ending.
      svg: an <svg> element, in colours of the page.
      png: the same as a file, on white.
    """

    name: str
    svg: str
    png: bytes


def draw(
    name: str, plot: Callable[[Any], None], *, says: str, size: tuple[float, float] = SIZE,
    only_in_file: Callable[[Any], None] | None = None,
) -> Panel:  # fmt: skip
    """Draws one panel.

    Args:
      name: of its file.
      plot: draws on the axes that it is given.
      says: what it shows, for those who do not see it.
      size: width and height, inches.
      only_in_file: adds to the PNG what the page has beside the SVG, such as a legend of classes.

    Returns:
      The panel, the same for the same data.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="tight")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        plot(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, dpi=_DOTS, metadata={"Date": None})
        if only_in_file:
            only_in_file(axes)
        pixels = io.BytesIO()
        around = {"bbox_inches": "tight"} if only_in_file else {}
        figure.savefig(pixels, format="png", dpi=_DOTS, facecolor="white", metadata={"Software": None}, **around)
    return Panel(name, _for_page(text.getvalue(), says), pixels.getvalue())


def _for_page(svg: str, says: str) -> str:
    """An SVG file as an element of a page: its colours by name, the page's font, no width of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    label = says.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    shape = f'viewBox="0 0 {width} {height}" style="max-width: {float(width) * 1.9:.0f}px"'
    svg = f'<svg {shape} role="img" aria-label="{label}">' + svg[svg.index(">") + 1 :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # of matplotlib's own names, which other panels have too
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for color, name in _NAMES.items():
        svg = svg.replace(color, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def label_lines(axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Writes the names of lines at their right ends, apart from each other.

    Args:
      axes: whose limits are set.
      ends: (x, y, name, colour) of each.
    """
    low, high = axes.get_ylim()
    apart = (high - low) * 0.075
    ends = sorted(ends, key=lambda end: end[1])
    heights = [end[1] for end in ends]
    for i in range(1, len(heights)):  # push up what would overlap, and then all of them down by half as much
        heights[i] = max(heights[i], heights[i - 1] + apart)
    shift = (heights[-1] - ends[-1][1]) / 2 if heights else 0.0
    for (x, _, name, color), height in zip(ends, heights, strict=True):
        axes.annotate(name, (x, height - shift), xytext=(5, 0), textcoords="offset points", color=color, va="center",
                      annotation_clip=False)  # fmt: skip
