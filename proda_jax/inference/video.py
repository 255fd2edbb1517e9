"""Videos frame by frame: read, and written with the times of another (PyAV, which is imported on first use)."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from proda_jax.data import pixels
from proda_jax.data.pixels import Range, Unreadable, check_av
from proda_jax.inference import video_colours
from proda_jax.system.files import is_remote, unfinished_name

if TYPE_CHECKING:
    import av

ENDINGS = (  # of what is called a video, whether it can be read or not; '.ts' is a language's, too
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2ts", ".mts", ".wmv", ".asf", ".flv", ".3gp",
    ".3g2", ".ogv", ".vob", ".mxf", ".mjpeg", ".mjpg", ".y4m",
)  # fmt: skip
# Formats of FFmpeg that are none of a video's: lists of other files and addresses, which it would open; devices; texts;
# pixels without a header, which fit every file; and images, which Pillow reads
_NO_VIDEOS = (
    "hls", "dash", "webm_dash_manifest", "imf", "concat", "sdp", "rtsp", "rtp", "sap", "mpjpeg", "lavfi", "alsa",
    "fbdev", "kmsgrab", "oss", "video4linux2", "v4l2", "x11grab", "tty", "bin", "adf", "idf", "xbin", "data",
    "rawvideo", "bitpacked", "v210", "v210x", "image2", "image2pipe", "ico", "gif", "apng",
)  # fmt: skip
# what every player shows; frames that refer to later ones (bf) would blur when each ends
_COLOR = {"ending": ".mp4", "container": "mp4", "codec": "libx264", "format": "yuv420p"}
_COLOR["options"] = {"crf": "18", "preset": "veryfast", "bf": "0"}
_GREY = {"ending": ".mkv", "container": "matroska", "codec": "ffv1", "options": {}}  # bit by bit


def is_video(path: epath.PathLike) -> bool:
    """Whether a file of this machine holds moving pictures, whatever its name."""
    try:
        Reader(path, sure=False).close()
    except Unreadable:
        return False
    return True


class Reader:
    """An opened video.

    Attributes:
      rate: frames a second, a fraction.
      count: about how many frames there are, or 0.
      time_base: seconds of one unit of the frames' times, a fraction.
      notes: what was odd about it, once its frames were read.
    """

    def __init__(
        self, path: epath.PathLike, untagged: str = video_colours.AUTO, value_range: Range | None = None, *,
        sure: bool = True,
    ):  # fmt: skip
        """Opens the file.

        Args:
          path: of a file on this machine.
          untagged: what its colours are if it does not say so, see `video_colours.settle`.
          value_range: values that become black and white where it has 16 bits, see `pixels.read`.
          sure: whether its name says that it is a video, as that of a row of JPEG images has to.

        Raises:
          Unreadable: it is no video, or is not on this machine.
        """
        check_av("a video")
        import av

        if is_remote(path):
            raise Unreadable("videos are read from this machine's disks only: copy it first")
        options = {"protocol_whitelist": "file", "format_whitelist": _formats(sure)}
        try:
            self._container = av.open(str(path), options=options)
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Unreadable(f"it is no video that can be read ({reason})") from error
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            self.close()
            raise Unreadable("it holds no moving pictures")
        self._stream = self._container.streams.best("video") or streams[0]
        if self._stream not in streams:
            self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate or 25
        self.time_base = self._stream.time_base
        seconds = (self._container.duration or 0) / av.time_base
        self.count = self._stream.frames or round(seconds * self.rate)
        self.notes: list[str] = []
        self._untagged, self._range = untagged, value_range

    def frames(self) -> Iterator[tuple[np.ndarray, int | None]]:
        """(uint8 [height, width, 3], RGB, time in units of `time_base`) of each frame, as it is to be shown.

        Frames may differ in size.

        Raises:
          Unreadable: it has 16 bits, which would come out nearly black.
        """
        damaged, times, read, size = 0, [], 0, None
        for frame in self._decoded():
            if frame is None:
                damaged += 1
                continue
            read, damaged = read + 1, damaged + frame.is_corrupt
            times += [] if frame.pts is None else [frame.pts]
            for note in video_colours.settle(frame, self._untagged):
                self._note(note)
            shown = upright(self._rgb(frame), _matrix(frame))
            if size not in (None, shown.shape[:2]):
                self._note("its frames change their size: results keep the first one's, labels by the nearest pixel")
            size = shown.shape[:2]
            yield shown, frame.pts
        missing = self.count - read
        # a guess from times is far off where these begin anew
        lost = missing if self._stream.frames or 5 + 0.1 * self.count < missing < 0.5 * self.count else 0
        damaged = damaged or holes(times)
        if damaged or lost > 0:
            places = f"in {damaged or 'some'} places"
            self._note(f"it is damaged {places}, and {read} of about {self.count} frames are there")

    def _decoded(self) -> Iterator["av.VideoFrame | None"]:
        """The frames; None for a packet of which none could be made."""
        import av

        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    yield None
        except av.FFmpegError:  # of the container: nothing follows
            yield None

    def _rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        """The pixels of a frame; of 16 bits, which FFmpeg would cut to the upper 8, as those of an image file."""
        bits, grey = frame.format.components[0].bits, len(frame.format.components) < 3
        if bits != 16:
            if self._range and bits > 8:
                self._note(f"it has {bits} bits, and says what is white: value_range is for files of 16")
            return frame.to_ndarray(format="rgb24")
        values = frame.to_ndarray(format="gray16le" if grey else "rgb48le")
        shown = pixels.to_bytes(values, self._range)
        if self._range is None and values.max() >= pixels.DARK:  # frames after it may be as dark as they like
            self._range = (0, 2**16 - 1)
        return np.repeat(shown[..., None], 3, axis=-1) if grey else shown

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def close(self) -> None:
        self._container.close()


def holes(times: Sequence[int]) -> int:
    """How often five frames or more are missing between two, by the times of frames that are even otherwise.

    FFmpeg leaves out without a word what it cannot find the beginning of, as in a damaged MPEG transport stream. Times
    that go back or on by half of the video begin anew there.
    """
    if len(times) < 10:
        return 0
    steps = np.diff(times)
    usual = np.median(steps)
    if (abs(steps - usual) <= 0.1 * usual).mean() < 0.9:
        return 0
    return int(((steps > 5 * usual) & (steps < 0.5 * len(times) * usual)).sum())


class Writer:
    """A video of the times of another, which appears once it is complete.

    Grey frames [height, width] of 8 or 16 bits are kept bit by bit (FFV1 in Matroska), colours [height, width, 3], RGB,
    as H.264 in MP4, whose height and width are even: the last row and column are there twice if need be.
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
        self._format = None if grey else kind["format"]
        self._stream.codec_context.time_base = like.time_base
        self._spacing, self._last = max(round(1 / (like.rate * like.time_base)), 1), None

    def add(self, pixels: np.ndarray, time: int | None) -> None:
        """Adds a frame of the first one's size.

        Where its time is not known, or not after the last one's, it follows at the video's rate.
        """
        if pixels.ndim == 3:
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._last is None:
            self._begin(pixels)
        if self._last is not None and (time is None or time <= self._last):
            time = self._last + self._spacing
        self._last = time or 0
        given = "rgb24" if pixels.ndim == 3 else self._stream.pix_fmt
        with _system_errors() as av:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=given)
            if pixels.ndim == 3:
                frame = video_colours.encoded(frame, self._format)
            frame.pts, frame.time_base = self._last, self._stream.codec_context.time_base
            frame.duration = self._spacing
            self._container.mux(self._stream.encode(frame))

    def _begin(self, pixels: np.ndarray) -> None:
        """Says what all frames are like."""
        self._stream.height, self._stream.width = pixels.shape[:2]
        self._stream.pix_fmt = self._format or ("gray" if pixels.dtype == np.uint8 else "gray16le")
        if pixels.ndim == 3:
            video_colours.tag(self._stream.codec_context, pixels.shape[:2])

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
            with contextlib.suppress(Exception):  # the first error counts
                self._container.close()
            self._unfinished.unlink(missing_ok=True)


def upright(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Pixels [height, width, 3] as a display matrix wants them shown: turned by quarters, mirrored, or both.

    Args:
      pixels: as they are stored.
      matrix: int32 [3, 3] as ISO/IEC 14496-12 (8.3.2) has it: a point (x, y) is shown at x' = m00 x + m10 y, y' = m01 x
        + m11 y, times 2**-16; None: as they are. Of another angle the nearest quarter is taken.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix[:2, :2]
    if abs(int(a)) + abs(int(d)) >= abs(int(b)) + abs(int(c)):
        across, down = a, d
    else:  # rows are shown as columns
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _matrix(frame: "av.VideoFrame") -> np.ndarray | None:
    """A frame's display matrix, int32 [3, 3].

    PyAV's `frame.rotation` (18.1) tells its angle alone: -180 for a mirror, 0 for an image upside down.
    """
    held = frame.side_data.get("DISPLAYMATRIX")
    return None if held is None else np.frombuffer(bytes(held), np.int32).reshape(3, 3)


def _is_cover(stream: "av.video.stream.VideoStream") -> bool:
    """Whether it is a picture of an album rather than a video."""
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


@functools.cache
def _formats(sure: bool) -> str:
    """Names of the formats that videos are read in, for FFmpeg."""
    from av.format import ContainerFormat, formats_available

    names = set()
    for name in formats_available:
        with contextlib.suppress(ValueError):  # those that are only written
            names |= set(ContainerFormat(name, "r").name.split(","))
    left_out = {*_NO_VIDEOS, *(() if sure else ("mjpeg",)), *(name for name in names if name.endswith("_pipe"))}
    return ",".join(sorted(names - left_out))


@contextlib.contextmanager
def _system_errors() -> Iterator:
    """PyAV; its errors become the system's."""
    import av

    try:
        yield av
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
