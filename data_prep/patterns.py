"""Which of a user's files are meant: folders, and patterns whose '*' is what an image and its label have in common."""

import dataclasses
import functools
import os
import re
from collections.abc import Collection, Iterable, Sequence

from etils import epath

from proda_jax.data_prep.base import IMAGE_SUFFIXES, LayoutError, resolved
from proda_jax.system.folders import Listing, listing


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Files of a folder and the folders in it, and what each has in common with its counterpart.

    Attributes:
      root: the folder before the first part with a '*'.
      parts: what follows, of folders and at last of files without their ending: '*' stands for any part of a name, '**'
        for any folders or none.
      endings: of the files, in lower case.
      any_ending: whether it says nothing of endings, so that a file of a kind that is not read may be meant, too.
    """

    root: epath.Path
    parts: tuple[str, ...]
    endings: tuple[str, ...]
    any_ending: bool

    @classmethod
    def parse(cls, text: str, endings: tuple[str, ...]) -> "Pattern":
        """Reads a folder, a file, or a pattern such as 'day*/**/*_rgb.png'.

        Files are looked for in all folders below, too: 'photos/*_rgb.png' means 'photos/**/*_rgb.png'.
        """
        root, parts = resolved(text), []
        while "*" in str(root):
            parts.insert(0, root.name)
            root = root.parent
        if not parts and _has_ending(root) and not root.is_dir():  # a single file
            root, parts = root.parent, [root.name]
        if not parts or parts[-1] == "**" or not ("*" in parts[-1] or _has_ending(epath.Path(parts[-1]))):
            parts.append("*")  # a folder
        parts[-1] = parts[-1].removesuffix(".*")
        any_ending = not _has_ending(epath.Path(parts[-1]))
        if not any_ending:
            parts[-1], ending = os.path.splitext(parts[-1])
            endings = (ending.lower(),)
        if "*" in parts[-1] and parts[-2:-1] != ["**"]:
            parts.insert(len(parts) - 1, "**")
        return cls(root, tuple(parts), endings, any_ending)

    def listing(self) -> Listing:
        """What lies below the root.

        Raises:
          LayoutError: there is no such folder, or it cannot be read.
        """
        if not self.root.is_dir():
            raise LayoutError(f"there is no folder {self.root}")
        try:
            return listing(self.root, self.endings)
        except OSError as error:
            raise LayoutError(f"{self.root} cannot be read: {error.strerror or error}") from None

    def name(self, below: str) -> str | None:
        """What a file has in common with its counterpart: what its place below the root has for each '*'; or None."""
        stem = os.path.splitext(below)[0]
        found = _expression(self.parts).fullmatch(stem)
        if not found:
            return None
        return "/".join(filter(None, (part.strip("/") for part in found.groups()))) or os.path.basename(stem)

    def __str__(self) -> str:
        return f"{self.root}/{'/'.join(self.parts)}{{{','.join(self.endings)}}}"


def _has_ending(path: epath.Path) -> bool:
    """Whether a path is meant as that of a file, not of a folder."""
    return path.suffix.lower() in IMAGE_SUFFIXES


@functools.cache
def _expression(parts: Sequence[str]) -> re.Pattern:
    """For places without their ending; each '*' and '**' is a group."""
    text = ""
    for part in parts[:-1]:
        folder = "([^/]*)".join(map(re.escape, part.split("*")))
        text += "((?:[^/]+/)*?)" if part == "**" else f"{folder}/"
    return re.compile(text + "([^/]*)".join(map(re.escape, parts[-1].split("*"))))


def named(pattern: Pattern, places: Collection[str]) -> dict[str, str]:
    """{name: place below the root} of the files that a pattern means.

    Raises:
      LayoutError: two files have the same name.
    """
    found: dict[str, str] = {}
    for place in places:
        name = pattern.name(place)
        if name is None:
            continue
        if name in found:
            one, two = (pattern.root / place for place in (found[name], place))
            raise LayoutError(f"{one} and {two} are two files of the same name: remove or rename one")
        found[name] = place
    return found


def told_apart(patterns: Sequence[Pattern]) -> list[str]:
    """What names of several patterns begin with where they would be the same otherwise: the ends of their folders."""
    folders = [[*pattern.root.parts, *pattern.parts[:-1]] for pattern in patterns]
    folders = [[part for part in parts if "*" not in part] for parts in folders]
    for length in range(1, max(map(len, folders)) + 1):
        ends = ["/".join(parts[-length:]) for parts in folders]
        if len(set(ends)) == len(ends):
            return ends
    return [str(number) for number in range(1, len(patterns) + 1)]


def as_texts(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """One folder or pattern, or several, as the settings have them."""
    return () if not given else (given,) if isinstance(given, str) else tuple(map(str, given))
