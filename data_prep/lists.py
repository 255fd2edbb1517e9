"""Lists of files, as many data sets come with: a name a line, or an image and its label."""

import collections
import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterable

from etils import epath

from proda_jax.data_prep.base import IMAGE_SUFFIXES, LayoutError
from proda_jax.system.paths import expanded

_BOTH = re.compile(rf"(.+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s*[\s,;]\s*(.+\.png)", re.IGNORECASE)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # as Windows' editors and PowerShell begin a file
_UP = 3  # folders above the list in which its paths may begin


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a list: an image, and its label where it names one.

    Attributes:
      number: of the line, from 1.
      image, label: a name without ending, or a path below some folder; with '/', in Unicode's form NFC.
    """

    number: int
    image: str
    label: str | None


def read(path: epath.Path) -> list[Line]:
    """The lines of a list; empty ones and those that begin with '#' say nothing.

    Raises:
      LayoutError: it is not there, no text, or empty.
    """
    try:
        held = path.read_bytes()
        text = held.decode("utf-16" if held.startswith(_UTF_16) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"the list {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if (line := line.strip()) and not line.startswith("#"):
            both = _BOTH.fullmatch(line)
            image, label = both.groups() if both else (line, None)
            found.append(Line(number, _clean(image), label and _clean(label)))
    if not found:
        raise LayoutError(f"the list {path} names no file")
    return found


def _clean(text: str) -> str:
    text = _normal(text.strip().strip("\"'")).replace("\\", "/")
    return text.removeprefix("./")


class Names:
    """Files by all that a list may call them: their names, paths, and ends of paths that are of one file alone."""

    def __init__(self, files: dict[str, epath.Path], folders: Iterable[epath.Path]):
        """Learns what files are called.

        Args:
          files: {name: file}.
          folders: that were searched for them.
        """
        self._above = [above for folder in folders for above in (folder, *list(folder.parents)[:_UP])]
        self._known, short = {}, collections.defaultdict(set)
        for name, path in files.items():
            whole = _normal(str(path))
            self._known |= {whole: name, _stem(whole): name}
            for part in (path.name, path.stem, name.rpartition("/")[-1]):
                short[_normal(part)].add(name)
        self._known |= {part: names.pop() for part, names in short.items() if len(names) == 1}
        self._known |= {name: name for name in files}

    def find(self, called: str, places: Iterable[epath.Path]) -> str | None:
        """The name of the file that a line means: by its name, or by a path from one of `places` or folders above."""
        called = expanded(called)
        below = called.lstrip("/")
        for text in (called, below, *(str(place / below) for place in (*self._above, *places))):
            if text in self._known:
                return self._known[text]
        return None


def roots(path: epath.Path) -> list[epath.Path]:
    """Folders in which the paths of a list may begin: its own, and some above."""
    return [path.parent, *list(path.parent.parents)[:_UP]]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _stem(place: str) -> str:
    return os.path.splitext(place)[0]
