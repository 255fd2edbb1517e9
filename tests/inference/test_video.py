"""Videos frame by frame: as many, at the same times, as they are to be shown, in the colours that they mean."""

import errno
import itertools
import pathlib
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from runs import IMAGES, picture, write_run

from proda_jax import load
from proda_jax.data.pixels import Unreadable
from proda_jax.inference import video_colours
from proda_jax.inference.predict import predict
from proda_jax.inference.video import Reader, Writer, holes, is_video

SIZE = (50, 96)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run")), batch_size=2)


def blocks(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Colours in blocks, uint8 [*size, 3]."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3))
    return colours[np.arange(size[0]) * 6 // size[0]][:, np.arange(size[1]) * 8 // size[1]].astype(np.uint8)


def write_video(
    path: pathlib.Path, times: list[int], codec: str = "libx264", rate: int = 10, container: str | None = None,
    size: tuple[int, int] = SIZE, pixel_format: str = "yuv420p",
) -> pathlib.Path:  # fmt: skip
    """Frames of moving blocks, shown at these times, thousandths of a second."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, options={"bf": "0"})
        stream.pix_fmt, stream.height, stream.width = pixel_format, *size
        if codec != "mpeg4":
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.roll(IMAGES[0], 5 * number, axis=1)[np.arange(size[0]) % 48][:, np.arange(size[1]) % 96]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def frames_of(path: pathlib.Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        kind = frames[0].format.name if frames[0].format.name.startswith("gray") else "rgb24"
        return [frame.time for frame in frames], [frame.to_ndarray(format=kind) for frame in frames]


def read(path: pathlib.Path, **options) -> list[np.ndarray]:
    return [frame for frame, _ in Reader(path, **options).frames()]


@pytest.mark.parametrize("times", [[100 * i for i in range(7)], [0, 100, 150, 400, 900]], ids=["even", "uneven"])
def test_a_video_becomes_videos_of_the_same_frames_and_times(times, model, tmp_path):
    write_video(tmp_path / "drive.mp4", times)
    seen_at, frames = frames_of(tmp_path / "drive.mp4")
    assert len(frames) == len(times)
    kinds = ["ids", "label_ids", "colors", "overlays", "entropy"]
    predict(model, str(tmp_path / "drive.mp4"), tmp_path / "out", kinds)
    at, ids = frames_of(tmp_path / "out" / "ids" / "drive.mkv")
    np.testing.assert_allclose(at, seen_at, atol=1e-3)
    for frame, label in zip(frames, ids, strict=True):
        expected = model(frame)
        assert expected.shape == label.shape and (expected != label).mean() < 1e-3
    for kind in ("colors", "overlays"):
        at, pictures = frames_of(tmp_path / "out" / kind / "drive.mp4")
        np.testing.assert_allclose(at, seen_at, atol=1e-3)
        for frame, label, shown in zip(frames, ids, pictures, strict=True):
            wanted = model.colorize(label) if kind == "colors" else model.overlay(frame, label)
            assert np.abs(shown.astype(int) - wanted).mean() < 25  # lossy, with colours at half resolution
    with av.open(str(tmp_path / "out" / "overlays" / "drive.mp4")) as container:
        assert 0.09 < container.duration / 1e6 - times[-1] / 1000 < 0.25  # the last frame lasts as long as most do


def test_a_video_of_odd_size_is_shown_whole(tmp_path):
    write_video(tmp_path / "drive.mp4", [0, 100])
    reader = Reader(tmp_path / "drive.mp4")
    for grey, size in ((False, (34, 36)), (True, (33, 35))):
        with Writer(tmp_path / "odd", reader, grey=grey) as writer:
            writer.add(picture((33, 35))[..., 0] if grey else picture((33, 35)), None)
            writer.add(picture((33, 35))[..., 0] if grey else picture((33, 35)), None)
        at, frames = frames_of(writer.path)
        assert [frame.shape[:2] for frame in frames] == [size] * 2 and at == [0, pytest.approx(0.1)]


def test_grey_of_16_bits_is_kept_bit_by_bit(tmp_path):
    reader = Reader(write_video(tmp_path / "drive.mp4", [0, 100]))
    values = np.random.default_rng(0).integers(0, 2**16, (34, 36)).astype(np.uint16)
    with Writer(tmp_path / "deep", reader, grey=True) as writer:
        writer.add(values, None)
    np.testing.assert_array_equal(frames_of(writer.path)[1][0], values)


# What is read


def write_deep(path: pathlib.Path, frames: list[np.ndarray]) -> pathlib.Path:
    """Grey [height, width] or RGB [height, width, 3] of 16 bits, bit by bit."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        grey = frames[0].ndim == 2
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "gray16le" if grey else "gbrp16le"
        for values in frames:
            frame = av.VideoFrame.from_ndarray(values, format="gray16le" if grey else "rgb48le")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("shape", [(48, 96), (48, 96, 3)])
def test_a_video_of_16_bits_is_read_as_an_image_of_16_bits_is(shape, tmp_path):
    """12 bits in 16 are never nearly black in silence; one that was bright once may be dark."""
    bright = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    black, dark = np.zeros_like(bright), bright >> 4
    as_images = [np.broadcast_to((values >> 8)[:, :, None] if len(shape) == 2 else values >> 8, (48, 96, 3))
                 for values in (black, bright, dark)]  # fmt: skip
    np.testing.assert_array_equal(read(write_deep(tmp_path / "a.mkv", [black, bright, dark])), as_images)
    write_deep(tmp_path / "b.mkv", [black, dark])
    with pytest.raises(Unreadable, match="its 16 bits hold no value above 40.., .*value_range 0,4095 takes them as 12"):
        read(tmp_path / "b.mkv")
    found = read(tmp_path / "b.mkv", value_range=(0, 4095))
    np.testing.assert_array_equal(found, [as_images[0], as_images[1]])  # whose upper 8 bits are those of 12


def test_a_range_that_a_video_of_10_bits_has_no_use_for_is_said(tmp_path):
    write_video(tmp_path / "a.mp4", [0, 100], pixel_format="yuv420p10le")
    reader = Reader(tmp_path / "a.mp4", value_range=(0, 4095))
    frames = [frame for frame, _ in reader.frames()]
    np.testing.assert_array_equal(frames, read(tmp_path / "a.mp4"))
    assert reader.notes == ["it has 10 bits, and says what is white: value_range is for files of 16"]


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [("dash.ts", "libx264", "mpegts"), ("cam.mts", "libx264", "mpegts"), ("old.wmv", "wmv2", "asf"),
     ("web.flv", "libx264", "flv"), ("phone.3gp", "libx264", "3gp"), ("disc.vob", "mpeg2video", "vob"),
     ("raw.y4m", "wrapped_avframe", "yuv4mpegpipe"), ("no_ending", "libx264", "mov"),
     ("x.h264", "libx264", "h264"), ("a.mjpeg", "mjpeg", "mjpeg"), ("cast.mxf", "mpeg2video", "mxf")],
)  # fmt: skip
def test_what_pyav_reads_is_read(name, codec, container, tmp_path):
    try:
        with av.open(str(tmp_path / name), "w", format=container) as file:
            stream = file.add_stream(codec, rate=25)
            stream.height, stream.width = SIZE
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for _ in range(5):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(blocks(SIZE), format="rgb24")))
            file.mux(stream.encode())
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"this PyAV writes no such video ({error})")
    frames = read(tmp_path / name)
    assert len(frames) == 5 and all(np.abs(frame.astype(int) - blocks(SIZE)).mean() < 25 for frame in frames)
    assert is_video(tmp_path / name) == (container != "mjpeg")  # JPEG images in a row may be anything


def test_the_picture_of_an_album_is_no_video(tmp_path):
    write_video(tmp_path / "cover.mp4", [0])
    with av.open(str(tmp_path / "cover.mp4")) as source:
        picture_of = next(source.decode(video=0))
    with av.open(str(tmp_path / "song.mp4"), "w") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        stream.disposition = 1 << 10  # attached_pic
        file.mux(stream.encode(picture_of))
        file.mux(stream.encode())
    assert not is_video(tmp_path / "song.mp4")
    with pytest.raises(Unreadable, match="no moving pictures"):
        Reader(tmp_path / "song.mp4")


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_what_is_whole_of_a_damaged_video_is_read_and_the_rest_is_said(container, tmp_path):
    path = write_video(tmp_path / "a", [40 * i for i in range(40)], rate=25, container=container, size=(96, 192))
    contents = bytearray(path.read_bytes())
    for place in range(len(contents) // 3, len(contents) // 2):
        if place % 188 > 20:  # headers of MPEG-TS stay
            contents[place] = 0xFF
    path.write_bytes(contents)
    reader = Reader(path)
    frames = list(reader.frames())
    assert 5 < len(frames) < 40
    assert len(reader.notes) == 1 and f"places, and {len(frames)} of about 40 frames are there" in reader.notes[0]


@pytest.mark.parametrize(("times", "expected"), [
    ([*range(0, 100, 4), *range(120, 200, 4)], 1),
    ([*range(0, 100, 4), *range(120, 200, 4), *range(230, 400, 4)], 2),
    ([*range(0, 100, 4), *range(108, 200, 4)], 0),  # a camera left out one or two
    ([0, 4, 8, 30, 31, 32, 60, 65, 70, 90, 91, 120], 0),  # uneven as a whole
    ([*range(0, 100, 4), *range(0, 100, 4)], 0), ([*range(0, 100, 4), *range(9000, 9100, 4)], 0),  # times begin anew
    ([0, 4, 8, 40, 44], 0), ([], 0),
])  # fmt: skip
def test_holes_are_where_even_times_lack_five_frames_or_more(times, expected):
    assert holes(times) == expected


def test_a_transport_stream_that_lacks_frames_says_so(tmp_path):
    whole, path = write_video(tmp_path / "a.ts", [40 * i for i in range(40)], rate=25), tmp_path / "b.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and not 10 <= number < 17:
                packet.stream = stream
                file.mux(packet)
    reader = Reader(path)
    frames = list(reader.frames())
    assert 20 < len(frames) <= 33 and f"places, and {len(frames)} of about 40 frames are there" in reader.notes[0]


def test_a_video_without_a_frame_is_named(model, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    cut = write_video(tmp_path / "b.mkv", [40 * i for i in range(9)], "mpeg4", 25)
    cut.write_bytes(cut.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"2 of 2 files could not .*a.mp4 \(it is no video.*b.mkv \(it holds no frame"):
        predict(model, str(tmp_path / "[ab].*"), tmp_path / "out", ["ids"])
    assert not list((tmp_path / "out").rglob("*.mkv*"))


# What changes midway


def joined(path: pathlib.Path, *parts: pathlib.Path) -> pathlib.Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_labels_are_never_interpolated_where_the_size_changes(model, tmp_path, capsys):
    sizes = ((96, 192), (48, 96), (40, 40), (96, 192))
    parts = [write_video(tmp_path / f"{i}.ts", [0, 100, 200], size=size) for i, size in enumerate(sizes)]
    changing = joined(tmp_path / "changes.mpg", *parts)
    frames = read(changing)
    assert [frame.shape[:2] for frame in frames] == [size for size in sizes for _ in range(3)]
    predict(model, str(changing), tmp_path / "out", ["ids", "overlays", "confidence"])
    at, ids = frames_of(tmp_path / "out" / "ids" / "changes.mkv")
    assert len(ids) == 12 and all(later > earlier for earlier, later in zip(at, at[1:], strict=False))
    for frame, label in zip(frames, ids, strict=True):
        own = model(frame)
        rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip((96, 192), own.shape, strict=True))
        assert label.shape == (96, 192) and (label != own[rows][:, columns]).mean() < 1e-3
        assert set(np.unique(label)) <= set(range(len(model.classes)))
    shown = frames_of(tmp_path / "out" / "overlays" / "changes.mp4")[1]
    assert [frame.shape for frame in shown] == [(96, 192, 3)] * 12
    assert capsys.readouterr().err.count("its frames change their size") == 1


def test_the_order_of_frames_does_not_depend_on_their_sizes(model, tmp_path):
    """With batches of two, frames of another size would be waited for."""
    parts = [write_video(tmp_path / f"{i}.ts", [0], size=[(96, 192), (48, 96)][i % 2]) for i in range(7)]
    frames = read(joined(tmp_path / "changes.ts", *parts))
    assert len(frames) == 7
    predict(model, str(tmp_path / "changes.ts"), tmp_path / "out", ["ids"])
    for frame, label in zip(frames, frames_of(tmp_path / "out" / "ids" / "changes.mkv")[1], strict=True):
        assert (label[:: 96 // len(frame), :: 192 // frame.shape[1]] != model(frame)).mean() < 1e-3


def test_pixel_format_and_rate_may_change(model, tmp_path):
    first = write_video(tmp_path / "a.ts", [0, 100, 200])
    second = write_video(tmp_path / "b.ts", [0, 40, 80, 120], rate=25, pixel_format="yuv444p")
    changing = joined(tmp_path / "changes.ts", first, second)
    frames = read(changing)
    assert len(frames) == 7
    predict(model, str(changing), tmp_path / "out", ["ids"])
    at, ids = frames_of(tmp_path / "out" / "ids" / "changes.mkv")
    assert len(ids) == 7 and all(later > earlier for earlier, later in zip(at, at[1:], strict=False))
    for frame, label in zip(frames, ids, strict=True):
        assert (label != model(frame)).mean() < 1e-3


# How it is to be shown


MATRICES = {  # a, b, c, d: a point (x, y) is shown at (a x + c y, b x + d y)
    "as it is": (1, 0, 0, 1), "clockwise": (0, 1, -1, 0), "on its head": (-1, 0, 0, -1), "to the left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1), "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0), "across": (0, -1, -1, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", MATRICES)
def test_the_whole_display_matrix_is_followed(kind, tmp_path):
    """Pixel by pixel as the format's definition has it; the header's matrix stands in place of that for none."""
    a, b, c, d = MATRICES[kind]
    write_video(tmp_path / "drive.mp4", [0, 100])

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    contents = (tmp_path / "drive.mp4").read_bytes()
    at = contents.index(b"tkhd")
    assert contents.index(matrix(1, 0, 0, 1), at) - at < 60
    turned = contents[:at] + contents[at:].replace(matrix(1, 0, 0, 1), matrix(a, b, c, d), 1)
    (tmp_path / "turned.mp4").write_bytes(turned)
    stored, shown = read(tmp_path / "drive.mp4"), read(tmp_path / "turned.mp4")
    y, x = np.indices(SIZE)
    across, down = a * x + c * y, b * x + d * y
    for before, after in zip(stored, shown, strict=True):
        assert after.shape == (np.ptp(down) + 1, np.ptp(across) + 1, 3)
        np.testing.assert_array_equal(after[down - down.min(), across - across.min()], before)


# Colours

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}  # of red and blue


def coded(rgb: np.ndarray, matrix: str, full: bool) -> np.ndarray:
    """Y, Cb, Cr of 8 bits, uint8 [3, height, width], by the formulas of ITU-R BT.601, BT.709 and BT.2020."""
    red, green, blue = (rgb[..., i] / 255 for i in range(3))
    of_red, of_blue = WEIGHTS[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = (blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red))
    planes = [255 * luma, *(128 + 255 * value for value in chroma)] if full else [
        16 + 219 * luma, *(128 + 224 * value for value in chroma)
    ]  # fmt: skip
    return np.clip(np.round(planes), 0, 255).astype(np.uint8)


def write_colours(path: pathlib.Path, rgb: np.ndarray, matrix: str, *, tagged: bool, full: bool = False) -> None:
    """A lossless video of one frame whose colours are coded so."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv444p"
        frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], "yuv444p")
        for holder in (stream.codec_context, frame) if tagged else ():
            holder.colorspace, holder.color_range = video_colours.MATRICES[matrix], 2 if full else 1
        for plane, values in zip(frame.planes, coded(rgb, matrix, full), strict=True):
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] = values
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def worst(path: pathlib.Path, rgb: np.ndarray, **options) -> int:
    return int(np.abs(read(path, **options)[0].astype(int) - rgb).max())


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("size", [(96, 192), (720, 1280)])
def test_a_tag_of_colours_is_followed(matrix, size, tmp_path):
    for full in (False, True):
        write_colours(tmp_path / "a.mp4", blocks(size), matrix, tagged=True, full=full)
        assert worst(tmp_path / "a.mp4", blocks(size), untagged="bt601") <= 1


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((96, 192), "bt601"), ((480, 720), "bt601"), ((576, 1024), "bt601"), ((576, 1280), "bt709"), ((720, 960), "bt709"),
     ((1080, 1920), "bt709")],
)  # fmt: skip
def test_untagged_colours_mean_what_their_size_says(size, matrix, tmp_path):
    write_colours(tmp_path / "a.mp4", blocks(size), matrix, tagged=False)
    assert worst(tmp_path / "a.mp4", blocks(size)) <= 1
    other = {"bt601": "bt709", "bt709": "bt601"}[matrix]
    assert worst(tmp_path / "a.mp4", blocks(size), untagged=other) > 15  # the setting acts
    write_colours(tmp_path / "b.mp4", blocks(size), other, tagged=False)
    assert worst(tmp_path / "b.mp4", blocks(size), untagged=other) <= 1


@pytest.mark.parametrize("size", [(96, 192), (720, 1280)])
def test_written_videos_say_what_their_colours_mean(size, tmp_path):
    rgb = blocks(size)
    write_colours(tmp_path / "a.mp4", rgb, "bt709", tagged=True)
    with Writer(tmp_path / "b", Reader(tmp_path / "a.mp4"), grey=False) as writer:
        writer.add(rgb, 0)
    with av.open(str(writer.path)) as file:
        frame = next(file.decode(video=0))
        assert frame.colorspace == {96: 6, 720: 1}[size[0]] and frame.color_range == 1
    differences = np.abs(read(writer.path)[0].astype(int) - rgb)
    inside = differences[size[0] // 12 :: size[0] // 6, size[1] // 16 :: size[1] // 8]
    assert inside.shape == (6, 8, 3) and np.median(inside) <= 2 and inside.max() <= 16  # of each block's middle


def test_brightness_of_high_dynamic_range_is_said_to_be_read_as_it_is(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p10le"
        stream.codec_context.color_trc = 16
        frame = av.VideoFrame.from_ndarray(blocks(SIZE), format="rgb24").reformat(format="yuv420p10le")
        frame.color_trc = 16
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    reader = Reader(tmp_path / "a.mp4")
    assert len(list(reader.frames())) == 1
    assert reader.notes == ["its brightness is coded for HDR (PQ), which is read as it is: colours look pale"]


def test_frames_are_read_and_written_while_others_are_predicted(model, tmp_path, monkeypatch):
    """Each waits for what comes after it in the other's row, which never came if one thread did all in turn."""
    write_video(tmp_path / "drive.mp4", [100 * i for i in range(6)])
    frames, add, predicted = Reader.frames, Writer.add, type(model).predict
    all_read, second_batch, in_time, order = threading.Event(), threading.Event(), [], []

    def read_all(reader):
        yield from frames(reader)
        all_read.set()

    def predict_after_reading(*arguments, **options):
        in_time.append(all_read.wait(60))
        if len(in_time) == 2:
            second_batch.set()
        return predicted(*arguments, **options)

    def add_after_the_second_batch(writer, pixels, time):
        in_time.append(second_batch.wait(60))
        order.append(time)
        add(writer, pixels, time)

    monkeypatch.setattr(Reader, "frames", read_all)
    monkeypatch.setattr(Writer, "add", add_after_the_second_batch)
    monkeypatch.setattr(type(model), "predict", predict_after_reading)
    predict(model, str(tmp_path / "drive.mp4"), tmp_path / "out", ["ids"])
    assert in_time == [True] * (3 + 6) and len(order) == 6 and order == sorted(order)


def test_a_video_that_cannot_be_written_is_named_and_leaves_nothing(model, tmp_path, monkeypatch):
    write_video(tmp_path / "drive.mp4", [100 * i for i in range(6)])
    add, count = Writer.add, itertools.count()

    def add_twice(writer, pixels, time):
        if next(count) == 2:
            raise OSError(errno.EIO, "Input/output error")
        add(writer, pixels, time)

    monkeypatch.setattr(Writer, "add", add_twice)
    with pytest.raises(ValueError, match="1 of 1 files could not be predicted: .*drive.mp4.* .Input/output error"):
        predict(model, str(tmp_path / "drive.mp4"), tmp_path / "out", ["ids"])
    assert not [path for path in (tmp_path / "out" / "ids").iterdir()]
