"""Videos frame by frame: read, and written with the times of another (PyAV, which is imported on first use)."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from etils import epath

from proda_jax.inference.images import Unreadable
from proda_jax.system.extras import need
from proda_jax.system.files import is_remote, unfinished_name

# what every player shows; frames that refer to later ones (bf) would blur when each ends
_COLOR = {"ending": ".mp4", "container": "mp4", "codec": "libx264", "format": "yuv420p"}
_COLOR["options"] = {"crf": "18", "preset": "veryfast", "bf": "0"}
_GREY = {"ending": ".mkv", "container": "matroska", "codec": "ffv1", "format": "gray", "options": {}}  # bit by bit


class Reader:
    """An opened video.

    Attributes:
      rate: frames a second, a fraction.
      count: about how many frames there are, or 0.
      time_base: seconds of one unit of the frames' times, a fraction.
    """

    def __init__(self, path: epath.PathLike):
        """Opens the file.

        Raises:
          Unreadable: it is no video, or is not on this machine.
        """
        need(f"{path}: a video", "video", "av")
        import av

        if is_remote(path):
            raise Unreadable("videos are read from this machine's disks only: copy it first")
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise Unreadable(f"it is no video that can be read ({error.strerror})") from error
        if not self._container.streams.video:
            self.close()
            raise Unreadable("it holds no pictures")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate or 25
        self.time_base = self._stream.time_base
        seconds = (self._container.duration or 0) / av.time_base
        self.count = self._stream.frames or round(seconds * self.rate)

    def frames(self) -> Iterator[tuple[np.ndarray, int | None]]:
        """(uint8 [height, width, 3], time in units of `time_base`) of each frame, turned as it is to be shown.

        Raises:
          Unreadable: the file is damaged.
        """
        import av

        try:
            for frame in self._container.decode(self._stream):
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round((frame.rotation or 0) / 90))
                yield np.ascontiguousarray(upright), frame.pts
        except av.FFmpegError as error:
            raise Unreadable(f"it is damaged ({error.strerror})") from error

    def close(self) -> None:
        self._container.close()


class Writer:
    """A video of the times of another, which appears once it is complete.

    Grey frames [height, width] are kept bit by bit (FFV1 in Matroska), colours [height, width, 3] as H.264 in MP4,
    whose height and width are even: the last row and column are there twice if need be.
    """

    def __init__(self, path_without_ending: epath.Path, like: Reader, *, grey: bool):
        """Opens an unfinished file.

        Raises:
          ValueError: the place is not on this machine.
          OSError: it cannot be written to.
        """
        kind = _GREY if grey else _COLOR
        self.path = path_without_ending.with_name(path_without_ending.name + kind["ending"])
        if is_remote(self.path):
            raise ValueError(f"{self.path}: videos are written to this machine's disks only")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = unfinished_name(self.path)
        with _system_errors() as av:
            self._container = av.open(str(self._unfinished), "w", format=kind["container"])
            self._stream = self._container.add_stream(kind["codec"], rate=like.rate, options=kind["options"])
        self._stream.pix_fmt, self._format = kind["format"], "gray" if grey else "rgb24"
        self._stream.codec_context.time_base = like.time_base
        self._spacing, self._last = max(round(1 / (like.rate * like.time_base)), 1), None

    def add(self, pixels: np.ndarray, time: int | None) -> None:
        """Adds a frame; where its time is not known, or not after the last one's, it follows at the video's rate."""
        if self._format == "rgb24":
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._last is None:
            self._stream.height, self._stream.width = pixels.shape[:2]
        if self._last is not None and (time is None or time <= self._last):
            time = self._last + self._spacing
        self._last = time or 0
        with _system_errors() as av:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=self._format)
            frame.pts, frame.time_base = self._last, self._stream.codec_context.time_base
            frame.duration = self._spacing
            self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Completes the file, or leaves nothing behind where something went wrong."""
        try:
            if kind is None:
                with _system_errors():
                    self._container.mux(self._stream.encode())
                    self._container.close()
                self._unfinished.replace(self.path)
        finally:
            self._container.close()
            self._unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _system_errors() -> Iterator[ModuleType]:
    """PyAV; its errors become the system's."""
    import av

    try:
        yield av
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
