"""Files in zip archives, read where they lie, as if the archives were unpacked."""

import zipfile
from collections.abc import Iterator

from etils import epath

from proda_jax.system.folders import reason_by_name


class Member:
    """A file in an archive: what preparation asks of a path.

    Attributes:
      name: its last part; `stem`: that without its ending.
    """

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
        self._archive, self._info = archive, info
        self.name = info.filename.rpartition("/")[2]
        self.stem = self.name.rpartition(".")[0]

    def read_bytes(self) -> bytes:
        """What it holds; several threads may read at once.

        Raises:
          OSError: the archive is damaged there.
        """
        try:
            return self._archive.read(self._info)
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    @property
    def state(self) -> tuple[int, int]:
        """Its length and its checksum, which tell it from a changed one wherever the archive lies."""
        return self._info.file_size, self._info.CRC

    def __str__(self) -> str:
        return f"{self._archive.filename}/{self._info.filename}"


def members(folder: epath.Path) -> Iterator[tuple[str, Member]]:
    """(place in its archive, file) of all files in the zip archives of a folder, in order.

    What `system.folders` passes over for its name is left out, here too.

    Raises:
      ValueError: an archive is none, or is cut off.
    """
    for path in sorted(path for path in folder.iterdir() if path.name.lower().endswith(".zip")):
        if reason_by_name(path.name):
            continue
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} cannot be used: {error}; fetch it again") from None
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.is_dir() and not any(map(reason_by_name, info.filename.split("/"))):
                yield info.filename, Member(archive, info)


def place_below(place: str, folder: str) -> str | None:
    """A file's place below a folder of its archive, which may have one more folder around everything; or None."""
    if not folder:
        return place
    for inner in (place, place.partition("/")[2]):
        if inner.startswith(f"{folder}/"):
            return inner.removeprefix(f"{folder}/")
    return None
