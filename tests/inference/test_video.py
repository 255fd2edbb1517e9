"""Videos frame by frame: as many, at the same times, turned as their camera was."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from runs import IMAGES, picture, write_run

from proda_jax import load
from proda_jax.inference.predict import predict
from proda_jax.inference.video import Reader, Writer


def write_video(path: pathlib.Path, times: list[int], codec: str = "libx264", rate: int = 10) -> None:
    """Frames of moving blocks, shown at these times, thousandths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"bf": "0"})
        stream.pix_fmt, stream.height, stream.width = "yuv420p", 50, 96
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.roll(IMAGES[0], 5 * number, axis=1)[np.arange(50) % 48]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def frames_of(path: pathlib.Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        kind = "gray" if frames[0].format.name == "gray" else "rgb24"
        return [frame.time for frame in frames], [frame.to_ndarray(format=kind) for frame in frames]


@pytest.mark.parametrize("times", [[100 * i for i in range(7)], [0, 100, 150, 400, 900]], ids=["even", "uneven"])
def test_a_video_becomes_videos_of_the_same_frames_and_times(times, tmp_path):
    write_video(tmp_path / "drive.mp4", times)
    seen_at, frames = frames_of(tmp_path / "drive.mp4")
    assert len(frames) == len(times)
    segmenter = load(write_run(tmp_path / "run"), batch_size=2)
    predict(segmenter, str(tmp_path / "drive.mp4"), tmp_path / "out", ["ids", "colors", "overlays"])
    at, ids = frames_of(tmp_path / "out" / "ids" / "drive.mkv")
    np.testing.assert_allclose(at, seen_at, atol=1e-3)
    for frame, label in zip(frames, ids, strict=True):
        expected = segmenter(frame)
        assert expected.shape == label.shape and (expected != label).mean() < 1e-3
    for kind in ("colors", "overlays"):
        at, pictures = frames_of(tmp_path / "out" / kind / "drive.mp4")
        np.testing.assert_allclose(at, seen_at, atol=1e-3)
        for frame, label, shown in zip(frames, ids, pictures, strict=True):
            wanted = segmenter.colorize(label) if kind == "colors" else segmenter.overlay(frame, label)
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


def test_a_video_is_turned_as_its_camera_was(tmp_path):
    """The header's matrix for a quarter turn clockwise, in place of that for none."""
    write_video(tmp_path / "drive.mp4", [0, 100])
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    contents, w = (tmp_path / "drive.mp4").read_bytes(), (1 << 30).to_bytes(4, "big")
    at = contents.index(b"tkhd")
    straight, turned = (b"".join(rows) for rows in (
        [one, none, none, none, one, none, none, none, w],
        [none, one, none, (-(1 << 16)).to_bytes(4, "big", signed=True), none, none, none, none, w],
    ))  # fmt: skip
    assert contents.index(straight, at) - at < 60
    (tmp_path / "turned.mp4").write_bytes(contents[:at] + contents[at:].replace(straight, turned, 1))
    upright = [frame for frame, _ in Reader(tmp_path / "drive.mp4").frames()]
    for frame, (shown, _) in zip(upright, Reader(tmp_path / "turned.mp4").frames(), strict=True):
        np.testing.assert_array_equal(shown, np.rot90(frame, -1))
