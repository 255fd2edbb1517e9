"""Which files of a folder are somebody's images: one rule, for preparation and for prediction.

A folder is searched with all folders in it. What is passed over is counted by reason, and the first of each is named.
"""

import collections
import dataclasses
import os
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator

from etils import epath

from proda_jax.system.files import is_remote

HIDDEN = "hidden"
SYSTEM = "thumbnails, waste baskets and notes of a system"
SEARCHED = "links to folders that are searched anyway"
NOWHERE = "links to nothing"
NO_FILE = "neither files nor folders"
NOT_UTF8 = "with names that are not UTF-8: rename them"
TWIN = "with the name of another file in another Unicode form: rename or remove them"
CLOSED = "folders that cannot be listed"
LOST = (NOWHERE, NOT_UTF8, TWIN, CLOSED)  # reasons that somebody is going to miss a file for

_SYSTEM_NAMES = {  # in lower case: Synology, QNAP, macOS archives, Windows, ext4
    "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "recycler", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


class PassedOver:
    """What was passed over: how many for each reason, and the first of them."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, path: epath.PathLike) -> None:
        """Counts one more file, or folder with all that is in it."""
        self.counts[reason] += 1
        self.first.setdefault(reason, shown(path))

    def add_other(self, path: epath.PathLike) -> None:
        """Counts a file for its ending."""
        ending = os.path.splitext(os.fspath(path))[1].lower()
        self.add(f"that end in {shown(ending)}" if ending else "without an ending", path)

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def lost(self) -> int:
        """How many somebody is going to miss."""
        return sum(self.counts[reason] for reason in LOST)

    def lines(self) -> list[str]:
        """A line for each reason, such as '3 hidden, such as photos/.trash'; the most serious and frequent first."""
        reasons = sorted(self.counts, key=lambda reason: (reason not in LOST, -self.counts[reason], reason))
        return [f"{self.counts[reason]} {reason}, such as {self.first[reason]}" for reason in reasons]

    def __str__(self) -> str:
        return "; ".join(self.lines())


@dataclasses.dataclass
class Listing:
    """What a folder holds.

    Attributes:
      files: files with the endings that were asked for: {place below the folder, with '/' and in Unicode's form NFC:
        file}, in order of these names.
      others: the same for files with other endings.
      passed_over: all else.
    """

    files: dict[str, epath.Path]
    others: dict[str, epath.Path]
    passed_over: PassedOver

    def everything_passed_over(self) -> PassedOver:
        """What was passed over, files with other endings among it."""
        total = PassedOver()
        total.counts.update(self.passed_over.counts)
        total.first.update(self.passed_over.first)
        for path in self.others.values():
            total.add_other(path)
        return total


def listing(
    folder: epath.PathLike,
    endings: Collection[str],
    closed: Collection[str] = (),
    enter: Callable[[str], bool] = lambda below: True,
) -> Listing:
    """The files of a folder and of all folders in it.

    Files and folders whose names say that they are nobody's images are passed over, see `reason_by_name`. Links are
    followed, but no folder is searched twice, so a link that leads back ends nowhere. In a bucket nothing is asked of a
    file that has one of the endings.

    Args:
      folder: where to begin; may be in a bucket.
      endings: of the files that are wanted, in lower case, such as '.png'; files have them in upper case, too.
      closed: absolute paths of folders that are not searched, and not counted either.
      enter: whether a folder within it is searched, by its place below, such as 'sub/deep'; nor are others counted.

    Raises:
      OSError: the folder itself cannot be listed.
    """
    found = Listing({}, {}, PassedOver())
    if is_remote(folder):
        entries = _in_bucket(epath.Path(folder), "", endings, enter, found.passed_over)
    else:
        entries = _on_disk(os.fspath(folder), set(map(os.fspath, closed)), enter, found.passed_over)
    for below, path in sorted(entries):
        name = unicodedata.normalize("NFC", below)
        if name in found.files or name in found.others:
            found.passed_over.add(TWIN, path)
        else:
            wanted = os.path.splitext(name)[1].lower() in endings
            (found.files if wanted else found.others)[name] = epath.Path(path)
    return found


def reason_by_name(name: str) -> str | None:
    """Why a file or folder of this name is passed over, whatever it holds; None: it is not."""
    if name.startswith("."):  # '._a.jpg', which macOS writes beside a file, and '.thumbnails', too
        return HIDDEN
    if name.lower() in _SYSTEM_NAMES:
        return SYSTEM
    return None if _is_utf8(name) else NOT_UTF8


def shown(path: epath.PathLike) -> str:
    """A path to print: bytes that are no UTF-8 as \\xdf and the like."""
    return os.fsencode(path).decode("utf8", "backslashreplace")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the system's names have surrogates for bytes that are none
        return False
    return True


def _on_disk(
    folder: str, closed: set[str], enter: Callable[[str], bool], passed_over: PassedOver
) -> Iterator[tuple[str, str]]:
    """(place below the folder, path) of every file; links to folders are looked at once all real folders were."""
    searched: set[str] = set()  # real paths
    waiting = collections.deque([(folder, "")])
    linked: collections.deque[tuple[str, str]] = collections.deque()
    base = os.path.realpath(folder)
    while waiting or linked:
        is_link = not waiting
        path, below = (waiting or linked).popleft()
        real = os.path.realpath(path)
        if os.path.abspath(path) in closed or real in closed:
            continue
        leads_back = is_link and (_contains(real, base) or _contains(real, os.path.realpath(os.path.dirname(path))))
        if leads_back or real in searched:
            passed_over.add(SEARCHED, path)
            continue
        searched.add(real)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise
            passed_over.add(CLOSED, f"{shown(path)} ({error.strerror})")
            continue
        for entry in entries:
            if reason := reason_by_name(entry.name):
                passed_over.add(reason, entry.path)
                continue
            kind = _kind(entry)
            if kind == stat.S_IFDIR:
                if enter(below + entry.name):
                    (linked if entry.is_symlink() else waiting).append((entry.path, f"{below}{entry.name}/"))
            elif kind == stat.S_IFREG:
                yield below + entry.name, entry.path
            else:
                passed_over.add(NO_FILE if kind else NOWHERE, entry.path)


def _contains(folder: str, path: str) -> bool:
    return os.path.commonpath((folder, path)) == folder


def _kind(entry: os.DirEntry) -> int | None:
    """The kind of file that an entry is or leads to, of `stat`; None where a link leads to nothing."""
    if not entry.is_symlink():
        if entry.is_dir():
            return stat.S_IFDIR
        if entry.is_file():
            return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError:  # a link in a circle, too
        return None


def _in_bucket(
    folder: epath.Path, below: str, endings: Collection[str], enter: Callable[[str], bool], passed_over: PassedOver
) -> Iterator[tuple[str, str]]:
    for path in folder.iterdir():
        if reason := reason_by_name(path.name):
            passed_over.add(reason, path)
        elif path.suffix.lower() in endings or not path.is_dir():  # asking takes long in a bucket
            yield below + path.name, os.fspath(path)
        elif enter(below + path.name):
            yield from _in_bucket(path, f"{below}{path.name}/", endings, enter, passed_over)
