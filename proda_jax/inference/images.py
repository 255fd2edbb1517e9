"""Which images and videos are to be predicted, what their results are called, and PNG files."""

import dataclasses
import fnmatch
import hashlib
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image

from proda_jax.data import pixels
from proda_jax.inference import video
from proda_jax.system.files import is_remote
from proda_jax.system.folders import Listing, PassedOver, listing, shown
from proda_jax.system.paths import expanded

LONGEST = 255 - len(".png")  # bytes of a file's name that disks allow, without the ending of a result


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: where it is.
      name: what its results are called, without an ending: its place below what was searched.
      is_video: whether it has frames.
    """

    path: epath.Path
    name: str
    is_video: bool = False


def find(pattern: str, output: epath.PathLike, kinds: Sequence[str] = ()) -> tuple[list[Input], PassedOver]:
    """The images and videos that a pattern means, in order of their names, and what was passed over.

    Images are known by their endings, videos by what the files hold.

    Args:
      pattern: a file, a folder, which is searched with all folders in it by the rule of `folders.listing`, or a pattern
        such as 'photos/*/left_*.png': '*' and '?' are parts of a name, '**' any folders, and '[0-9]' one of these, but
        where there is a folder of such a name.
      output: folder of results, which is not searched; where the input is in it, the folders of results there are not.
      kinds: names of these.

    Raises:
      ValueError: there is no such file, or none that is an image or a video.
    """
    pattern = os.fspath(expanded(pattern))
    path, output = epath.Path(pattern), epath.Path(os.path.abspath(output) if not is_remote(output) else output)
    is_folder = path.is_dir()
    if path.exists() and not is_folder:
        return [Input(path, *_names({path.name: path}), is_video=_holds_video(path))], PassedOver()
    base, parts = (path, []) if is_folder else _divided(pattern)
    try:
        found = listing(base, pixels.ENDINGS, _closed(output, base, kinds), lambda below: _leads_on(below, parts))
    except FileNotFoundError:
        found = Listing({}, {}, PassedOver())
    files, videos = _chosen(found.files, parts), set()
    for name, file in _chosen(found.others, parts).items():
        if _holds_video(file):
            videos.add(name)
        elif not (parts and epath.Path(parts[-1]).suffix == epath.Path(name).suffix != ""):  # it was asked for by name
            found.passed_over.add_other(file)
            continue
        files[name] = file
    files = dict(sorted(files.items()))
    if not files:
        passed = f"; passed over: {found.passed_over}" if found.passed_over else ""
        raise ValueError(f"--input={shown(pattern)}: no file that is an image ({', '.join(pixels.ENDINGS)}) or a video"
                         f"{passed}")  # fmt: skip
    named = zip(files.items(), _names(files), strict=True)
    return [Input(file, own, is_video=name in videos) for (name, file), own in named], found.passed_over


def _holds_video(path: epath.Path) -> bool:
    """Whether a file is a video: by its ending, which a damaged one has too, or by what it holds."""
    ending = path.suffix.lower()
    return ending in video.ENDINGS or ending not in pixels.ENDINGS and video.is_video(path)


def _closed(output: epath.Path, base: epath.Path, kinds: Sequence[str]) -> set[str]:
    """Folders of results, which are not searched below `base`."""
    base = base if is_remote(base) else epath.Path(os.path.abspath(base))
    inside = output in (base, *base.parents)
    return {os.fspath(output / kind) for kind in kinds} if inside else {os.fspath(output)}


# Patterns


def _divided(pattern: str) -> tuple[epath.Path, list[str]]:
    """The folder in which a pattern begins, and its parts below."""
    parts = epath.Path(pattern).parts
    for number, part in enumerate(parts):
        if not _is_magic(part):
            continue
        folder = epath.Path(*parts[:number])
        if number == len(parts) - 1 or not (folder / part).is_dir():
            return folder, [unicodedata.normalize("NFC", part) for part in parts[number:]]
    raise ValueError(f"--input={shown(pattern)}: there is nothing of that name; expected an image, a video, a folder "
                     "or a pattern such as 'photos/*.png'")  # fmt: skip


def _is_magic(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _matches(name: str, part: str) -> bool:
    """Whether a part of a path fits a part of a pattern, whose brackets may be meant as they are."""
    return any(fnmatch.fnmatchcase(name, meant) for meant in (part, part.replace("[", "[[]")))


def _leads_on(below: str, parts: Sequence[str]) -> bool:
    """Whether files in a folder at this place may fit a pattern, or lie in one that fits."""
    for name, part in zip(below.split("/"), parts, strict=False):
        if part == "**":
            return True
        if not _matches(name, part):
            return False
    return True


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a file's place fits a pattern, or that of a folder which it is in."""
    if not parts:
        return True
    if not names:
        return False
    if parts[0] == "**":
        return _fits(names, parts[1:]) or _fits(names[1:], parts)
    return _matches(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _chosen(files: Mapping[str, epath.Path], parts: Sequence[str]) -> dict[str, epath.Path]:
    return {name: path for name, path in files.items() if _fits(name.split("/"), parts)}


# Names of results


def _names(files: Mapping[str, epath.Path]) -> list[str]:
    """A name for each file's results: its place, with its ending only where two would share it otherwise.

    One that no disk would allow is cut, and ends in a digest.
    """
    names = [name.removesuffix(file.suffix) for name, file in files.items()]
    while True:
        count = Counter(name.casefold() for name in names)  # some file systems know no capitals
        apart = [own if count[name.casefold()] > 1 else name for own, name in zip(files, names, strict=True)]
        if apart == names:
            return [_shortened(name) for name in names]
        names = apart


def _shortened(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    encoded = os.fsencode(last)
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{folder}{slash}{encoded[: LONGEST - 17].decode('utf8', 'ignore')}-{digest}"


def png(values: np.ndarray) -> bytes:
    """A PNG file of uint8 or uint16 [height, width], grey, or uint8 [height, width, 3], RGB."""
    contents = io.BytesIO()
    # a third of the default level's time, for an eighth more bytes
    Image.fromarray(values).save(contents, "PNG", compress_level=3)
    return contents.getvalue()
