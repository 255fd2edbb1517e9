"""A bucket that is a local folder."""

from etils.epath import backend


class FakeBucket:
    """A file system whose gs://bucket is a local folder; knows no seeking, as object storage does not."""

    def __init__(self, folder):
        self._local, self._folder = backend.os_backend, str(folder)

    def _inside(self, path) -> str:
        return str(path).replace("gs://bucket", self._folder)

    def __getattr__(self, name: str):
        function = getattr(self._local, name)

        def translated(*arguments, **options):
            return function(*map(self._inside, arguments), **options)

        return translated

    def open(self, path, mode: str):
        file = self._local.open(self._inside(path), mode)
        if "w" in mode:
            file.seek = None
        return file

    def glob(self, path) -> list[str]:
        return [found.replace(self._folder, "gs://bucket") for found in self._local.glob(self._inside(path))]
