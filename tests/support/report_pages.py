"""What the pages of reports hold, read as a reader would: tables, links, files of data."""

import csv
import html.parser
import io
import json
import pathlib

import numpy as np


class Tables(html.parser.HTMLParser):
    """The tables of a page: rows of cells."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self._cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.found[-1][-1].append(self._cell.strip())
            self._cell = None


def table_of(page: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the table whose titles begin like that."""
    tables = [t for t in Tables(page).found if t[0][: len(columns)] == list(columns)]
    assert tables, columns
    return [dict(zip(tables[0][0], row, strict=True)) for row in tables[0][1:]]


def rows_of(path: pathlib.Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of a workdir's report."""
    return list(csv.DictReader(io.StringIO((path / "report" / "data" / f"{name}.csv").read_text())))


def lines_of(path: pathlib.Path) -> list[dict]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_two(name: str, features: np.ndarray) -> np.ndarray:
    """In place of UMAP, which takes long to compile."""
    return features[:, :2].astype(np.float32)
