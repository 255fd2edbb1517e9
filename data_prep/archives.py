"""Files in zip and tar archives, read where they lie, as if the archives were unpacked."""

import functools
import tarfile
import zipfile
from collections.abc import Callable, Iterator

from etils import epath

from proda_jax.system.folders import reason_by_name

_WHOLE = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")  # of which no part is read alone


class Member:
    """A file in an archive: what preparation asks of a path.

    Attributes:
      name: its last part; `stem`: that without its ending.
      state: its length and what else tells it from a changed one wherever the archive lies: of a zip archive its
        checksum, of a tar archive, which has none, its time.
    """

    def __init__(self, archive: epath.Path, place: str, state: tuple[int, int], read: Callable[[], bytes]):
        self._archive, self._place, self._read, self.state = archive, place, read, state
        self.name = place.rpartition("/")[2]
        self.stem = self.name.rpartition(".")[0]

    def read_bytes(self) -> bytes:
        """What it holds; several threads may read at once.

        Raises:
          OSError: the archive is damaged there.
        """
        try:
            return self._read()
        except (zipfile.BadZipFile, tarfile.TarError) as error:
            raise OSError(str(error)) from error

    def __str__(self) -> str:
        return f"{self._archive}/{self._place}"


def members(folder: epath.Path) -> Iterator[tuple[str, Member]]:
    """(place in its archive, file) of all files in the archives of a folder, in order.

    What `system.folders` passes over for its name is left out, here too, and so are links in archives.

    Raises:
      ValueError: an archive is none, or is cut off.
    """
    of_kinds = {".zip": _in_zip, ".tar": _in_tar}
    for path in sorted(folder.iterdir()):
        if (of_kind := of_kinds.get(path.suffix.lower())) is None or reason_by_name(path.name) or path.is_dir():
            continue
        try:
            found = of_kind(path)
        except (zipfile.BadZipFile, tarfile.TarError) as error:
            raise ValueError(f"{path} cannot be used: {error}; fetch it again") from None
        for place, member in sorted(found, key=lambda one: one[0]):
            if not any(map(reason_by_name, place.split("/"))):
                yield place, member


def packed_as_a_whole(folder: epath.Path) -> list[epath.Path]:
    """The archives of a folder that have to be unpacked."""
    names = (path for path in folder.iterdir() if path.name.lower().endswith(_WHOLE)) if folder.is_dir() else ()
    return sorted(path for path in names if not reason_by_name(path.name))


def _in_zip(path: epath.Path) -> list[tuple[str, Member]]:
    archive = zipfile.ZipFile(path)
    return [
        (info.filename, Member(path, info.filename, (info.file_size, info.CRC), functools.partial(archive.read, info)))
        for info in archive.infolist() if not info.is_dir()
    ]  # fmt: skip


def _in_tar(path: epath.Path) -> list[tuple[str, Member]]:
    """The headers are read once, one after another; files later, each from where it lies."""
    with tarfile.open(path, "r:") as archive:
        infos = [info for info in archive if info.isreg()]
        if path.stat().length <= archive.offset:  # there are zeros after the last file
            raise tarfile.ReadError("it is cut off")
    return [
        (place := info.name.removeprefix("./"),
         Member(path, place, (info.size, int(info.mtime)), functools.partial(_extracted, path, info)))
        for info in infos
    ]  # fmt: skip


def _extracted(path: epath.Path, info: tarfile.TarInfo) -> bytes:
    """A file of a tar archive, which is opened anew, as others may read it at the same time."""
    with tarfile.open(path, "r:") as archive, archive.extractfile(info) as file:
        return file.read()


def place_below(place: str, folder: str) -> str | None:
    """A file's place below a folder of its archive, which may have one more folder around everything; or None."""
    if not folder:
        return place
    for inner in (place, place.partition("/")[2]):
        if inner.startswith(f"{folder}/"):
            return inner.removeprefix(f"{folder}/")
    return None
