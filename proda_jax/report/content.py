"""What a page consists of, and the files that it links to."""

import base64
import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from proda_jax.report.drawing import Panel
from proda_jax.system.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph; `missing` where it says that something is not there."""

    text: str
    missing: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table. Cells are text; those of columns after `text_columns` are set as numbers.

    Attributes:
      columns: their titles.
      rows: cells of each row.
      caption: what it shows.
      text_columns: how many columns at the left hold words.
      emphasised: numbers of the rows that stand out, such as means.
      data: link to its CSV.
      folded: shown once asked for, under this title.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1
    emphasised: Sequence[int] = ()
    data: str | None = None
    folded: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Panels side by side, as many as the page is wide.

    Attributes:
      panels: SVG elements.
      caption: what they show, and how to read it.
      images: links to their PNGs, by name.
      data: links to the CSVs, by name.
      wide: of a matrix, which keeps its size and is moved sideways on a phone.
    """

    panels: Sequence[str]
    caption: str
    images: dict[str, str]
    data: dict[str, str]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Tile:
    """A small picture: its `data:` address, and a line below it."""

    source: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Rows of pictures in columns.

    Attributes:
      columns: their titles.
      rows: (title, a tile for each column or None).
      caption: what they show.
      images: links to the same in one PNG, by name.
      data: links to the CSVs, by name.
      scale: what the colours of maps mean: (text at the dark end, text at the bright end); empty without maps.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Tile | None]]]
    caption: str
    images: dict[str, str]
    data: dict[str, str]
    scale: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Legend:
    """Classes and their colours: (name, '#rrggbb')."""

    classes: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      anchor: its name in links.
      title: above it.
      blocks: what it consists of.
      of_paper: the paper's figure or table of the same kind.
    """

    anchor: str
    title: str
    blocks: Sequence[Note | Table | Figure | Tiles | Legend]
    of_paper: str = ""

    @property
    def missing(self) -> list[str]:
        return [block.text for block in self.blocks if isinstance(block, Note) and block.missing]


class Folder:
    """The folder that holds a page, its figures as PNG (`figures/`) and their data as CSV (`data/`)."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        """Writes data/<name>.csv and returns its link. None becomes an empty cell; floats keep all their digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return self._write(f"data/{name}.csv", text.getvalue())

    def read_table(self, name: str) -> list[dict[str, str]]:
        """The rows of data/<name>.csv by column; none where it is not there or not one of ours."""
        path = self.path / "data" / f"{name}.csv"
        return list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []

    def image(self, name: str, png: bytes) -> str:
        """Writes figures/<name>.png and returns its link."""
        return self._write(f"figures/{name}.png", png)

    def figure(self, panels: Sequence[Panel], caption: str, data: dict[str, str], *, wide: bool = False) -> Figure:
        """A figure of drawn panels, whose PNGs are written."""
        images = {panel.name: self.image(panel.name, panel.png) for panel in panels}
        return Figure([panel.svg for panel in panels], caption, images, data, wide)

    def _write(self, name: str, contents: str | bytes) -> str:
        write_atomically(self.path / name, contents)
        return name


def data_uri(contents: bytes, kind: str) -> str:
    """The address of a picture that stands in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(contents).decode()}"


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: a dash where there is none."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}"


def gain(value: float | None) -> str:
    """A difference for a table, with its sign."""
    if value is None or value != value:
        return "–"
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "\u2212")


def written(value: Any) -> str:
    """A setting's value as text; text itself without quotes, and a dash where there is none."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)
