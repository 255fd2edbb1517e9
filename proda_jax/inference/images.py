"""Image files of any kind as arrays, and which files a pattern means (Pillow)."""

import dataclasses
import glob
import io
import os
from collections import Counter
from collections.abc import Sequence, Set

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from proda_jax.system.files import is_remote

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class Unreadable(ValueError):
    """Why a file cannot be read; the message does not name it."""


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: where it is.
      name: what its results are called, without an ending: its place below what was searched.
    """

    path: epath.Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


def find(pattern: str, output: epath.PathLike, kinds: Sequence[str] = ()) -> list[Input]:
    """The images and videos that a pattern means, in order of their names.

    Args:
      pattern: a file, a folder, which is searched with all folders in it, or a pattern such as 'photos/*/left_*.png'.
        Hidden files and folders are passed over, and in folders files that are neither images nor videos by name.
      output: folder of results, which is not searched; where the input is in it, the folders of results there are not.
      kinds: names of these.

    Raises:
      ValueError: there is no such file, or none that is an image or a video.
    """
    path, output = epath.Path(pattern), epath.Path(os.path.abspath(output) if not is_remote(output) else output)
    if path.is_dir():
        base, files = path, _below(path, _closed(output, path, kinds))
    elif path.exists():
        base, files = path.parent, [path]
    else:
        base, files = _matching(pattern, output, kinds)
    if not files:
        raise ValueError(f"--input={pattern}: no file ends in {', '.join((*IMAGES, *VIDEOS))}")
    return [Input(file, name) for file, name in zip(files, _names(files, base), strict=True)]


def _closed(output: epath.Path, base: epath.Path, kinds: Sequence[str]) -> set[epath.Path]:
    """Folders of results, which are not searched below `base`."""
    base = epath.Path(os.path.abspath(base))
    return {output / kind for kind in kinds} if output in (base, *base.parents) else {output}


def _below(folder: epath.Path, closed: Set[epath.Path]) -> list[epath.Path]:
    """The images and videos in a folder and the folders in it, links to folders and closed ones aside."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            found += [path] * path.name.lower().endswith((*IMAGES, *VIDEOS))
        elif not os.path.islink(path) and epath.Path(os.path.abspath(path)) not in closed:
            found += _below(path, closed)
    return found


def _matching(pattern: str, output: epath.Path, kinds: Sequence[str]) -> tuple[epath.Path, list[epath.Path]]:
    """The folder in which a pattern begins, and the files that match it or are in folders that do."""
    if is_remote(pattern) or not glob.has_magic(pattern):
        raise ValueError(f"--input={pattern}: there is nothing of that name; expected an image, a video, a folder or a "
                         "pattern such as 'photos/*.png'")  # fmt: skip
    parts = epath.Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base, found = epath.Path(*parts[:fixed]), []
    closed = _closed(output, base, kinds)
    for path in map(epath.Path, sorted(glob.glob(pattern, recursive=True))):
        if closed & {whole := epath.Path(os.path.abspath(path)), *whole.parents}:
            continue
        found += _below(path, closed) if path.is_dir() else [path]
    return base, sorted(set(found))


def _names(files: list[epath.Path], base: epath.Path) -> list[str]:
    """A name for each file's results: its own, with its ending only where two would share it otherwise."""
    whole = [file.relative_to(base).as_posix() for file in files]
    names = [name.removesuffix(file.suffix) for name, file in zip(whole, files, strict=True)]
    while True:
        count = Counter(name.casefold() for name in names)  # some file systems know no capitals
        apart = [own if count[name.casefold()] > 1 else name for own, name in zip(whole, names, strict=True)]
        if apart == names:
            return names
        names = apart


def read(path: epath.PathLike) -> np.ndarray:
    """The pixels of an image file, see `pixels`.

    Raises:
      Unreadable: it is damaged, or no image.
    """
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes())) as image:
            return pixels(image)
    except UnidentifiedImageError:
        raise Unreadable("it is no image of a kind that Pillow knows") from None
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        raise Unreadable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def pixels(image: Image.Image) -> np.ndarray:
    """An image as a network sees it, uint8 [height, width, 3].

    Grey is repeated, colours of palettes are looked up, alpha is dropped, of several pages the first is taken, and of
    16 bits the upper 8, as in training data. The camera's orientation is followed, which training data should not need.

    Raises:
      ValueError: it has 32 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: convert it to 8 or 16")
    if image.mode.startswith("I;16"):  # of which convert() would cut off all above 255
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")  # palettes with transparency have no way straight to RGB
    return np.array(image.convert("RGB"))


def png(values: np.ndarray) -> bytes:
    """A PNG file of uint8 [height, width], grey, or [height, width, 3], colour."""
    contents = io.BytesIO()
    # a third of the default level's time, for an eighth more bytes
    Image.fromarray(values).save(contents, "PNG", compress_level=3)
    return contents.getvalue()
