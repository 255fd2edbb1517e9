"""Prediction from a checkpoint alone: which one is opened, labels of images of every size, files and videos."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import jax
import numpy as np
import pytest
from PIL import Image
from runs import BEST, LAST, variables_of, write_run
from tiny import IMAGE, blocks, tiny_config, tiny_model

from proda_jax import evaluate, load, windows
from proda_jax.averaging import averaged_probabilities
from proda_jax.card import Card
from proda_jax.data.label_spaces import label_space
from proda_jax.models import weights
from proda_jax.models.torch_names import to_torch
from proda_jax.predict import grouped, predict

ROOT = pathlib.Path(__file__).parents[1]
IMAGES = blocks(3, 7)[0]

pytestmark = pytest.mark.usefixtures("compiled_programs")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(workdir):
    return load(workdir)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(network, variables, images):
    return evaluate.predict(network, variables, images)


def labels_of(stage: str, step: int) -> np.ndarray:
    """What evaluation says of the images."""
    return np.asarray(evaluated(tiny_model(tiny_config()), variables_of(stage, step), IMAGES))


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


# Which network is opened


@pytest.mark.parametrize(
    ("place", "options", "network"),
    [
        ("", {}, ("stage1", LAST)),
        ("", {"checkpoint": "best"}, ("stage1", BEST)),
        ("", {"stage": "source"}, ("source", LAST)),
        ("", {"stage": "stage2"}, ("stage2", LAST)),
        ("source", {}, ("source", LAST)),
        ("source/checkpoints", {"checkpoint": "best"}, ("source", BEST)),
        ("source/checkpoints/2", {}, ("source", BEST)),
    ],
)
def test_a_network_is_opened_from_its_checkpoint_alone(place, options, network, workdir):
    opened = load(workdir / place, **options)
    assert opened.origin.endswith(f"{network[0]}/checkpoints/{network[1]}") and opened.card.stage == network[0]
    assert opened.classes == label_space("camvid11").classes
    np.testing.assert_array_equal(opened.colors, label_space("camvid11").colors)
    np.testing.assert_array_equal(opened(IMAGES[0]), labels_of(*network)[0])


def test_a_checkpoint_may_be_moved_and_renamed_and_is_left_as_it_is(workdir, tmp_path):
    shutil.copytree(workdir / "source" / "checkpoints" / str(LAST), tmp_path / "streets")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    np.testing.assert_array_equal(load(tmp_path / "streets")(IMAGES[0]), labels_of("source", LAST)[0])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_card_says_what_the_network_needs():
    config = tiny_config()
    config.data.label_space, config.data.classes = "custom", ("sand", "sea")
    card = Card.of(config, "source", extra_norm=True)
    again = Card.from_json(json.loads(json.dumps(card.as_json())), "a file")
    assert again == Card.from_json(card.as_json(), "a file") and again.classes == ("sand", "sea")
    assert again.image_size == IMAGE and (again.task, again.stage, again.label_space) == ("tiny", "source", "custom")
    expected = tiny_model(config, extra_norm=True).clone(classes=2)
    assert again.network() == card.network() == expected
    with pytest.raises(ValueError, match="the card of a file lacks colors.*another version"):
        Card.from_json({name: value for name, value in card.as_json().items() if name != "colors"}, "a file")


def unfinished(workdir: pathlib.Path) -> None:
    (workdir / "results.json").write_text(json.dumps({"stages": []}))


@pytest.mark.parametrize(
    ("change", "place", "options", "message"),
    [
        (None, "absent", {}, "there is no such folder"),
        (None, "data", {}, "expected the workdir of a run, a stage's folder or a checkpoint; it holds none"),
        (None, "", {"stage": "stage9"}, "expected checkpoints of a stage.*with checkpoints: source, stage1, stage2"),
        (None, "source/checkpoints/2", {"checkpoint": "best"}, "one checkpoint already"),
        (None, "source/checkpoints", {"stage": "source"}, "checkpoints of one stage: leave out the stage"),
        (unfinished, "", {}, "no complete stage yet: name one that is not as --stage, of source, stage1, stage2"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_with_what_there_is(change, place, options, message, workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "data").mkdir()
    if change:
        change(copy)
    with pytest.raises(ValueError, match=message):
        load(copy / place, **options)


def test_a_damaged_checkpoint_is_named(workdir, tmp_path):
    copy = shutil.copytree(workdir / "source", tmp_path / "source")
    largest = max((copy / "checkpoints" / str(LAST) / "network").rglob("*"), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(ValueError, match=f"checkpoint .*checkpoints/{LAST} cannot be read .*use another one"):
        load(copy)
    assert load(copy, checkpoint="best").origin.endswith(f"/{BEST}")


def test_a_checkpoint_of_an_older_version_needs_the_configuration(tmp_path):
    workdir, config = write_run(tmp_path, cards=False), tiny_config()
    with pytest.raises(ValueError, match="older version.*--config=configs/gta5.py"):
        load(workdir)
    opened = load(workdir, config=config)
    assert opened.card == Card.of(config, "stage1", extra_norm=False)
    np.testing.assert_array_equal(opened(IMAGES[0]), labels_of("stage1", LAST)[0])
    config.model.width = 16
    with pytest.raises(ValueError, match=r"another network than.*in \d+ of \d+ arrays: batch_stats.*is \(8,\), not"):
        load(workdir, config=config)


def test_a_file_of_weights_needs_the_configuration(tmp_path):
    variables = variables_of("source", LAST)
    weights.save(weights.Weights(to_torch(variables)), tmp_path / "network.npz")
    config = tiny_config()
    with pytest.raises(ValueError, match="no network to load"):
        load(config=config)
    config.init_from = str(tmp_path / "network.npz")
    opened = load(config=config)
    assert opened.origin == config.init_from and opened.card.stage == "network.npz"
    np.testing.assert_array_equal(opened(IMAGES[0]), labels_of("source", LAST)[0])


def test_using_a_network_needs_neither_data_nor_tensorflow(workdir, tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    script = f"""
        import sys
        import proda_jax
        assert not {{"jax", "flax", "orbax", "numpy"}} & set(sys.modules)
        sys.modules["tensorflow"] = None
        model = proda_jax.load({str(workdir)!r})
        labels = model({str(tmp_path / "a.png")!r})
        assert "PIL" in sys.modules and not {{"av", "tensorflow_datasets"}} & set(sys.modules)
        print(labels.dtype, labels.shape, labels.sum())
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0] == f"uint8 {IMAGE} {labels_of('stage1', LAST)[0].sum()}"


# One image


def test_labels_are_those_of_evaluation(model):
    for image, labels in zip(IMAGES, labels_of("stage1", LAST), strict=True):
        np.testing.assert_array_equal(model(image), labels)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 1.0), True)])
def test_labels_are_those_of_the_mean_prediction_at_the_images_own_size(scales, flip, workdir):
    segmenter = load(workdir, scales=scales, flip=flip)
    network = tiny_model(tiny_config())
    mean = jax.jit(functools.partial(averaged_probabilities, network, scales=scales, flip=flip), static_argnums=2)
    for size in ((5, 10), (300, 600)):
        image = picture(size)
        seen = np.asarray(Image.fromarray(image).resize(IMAGE[::-1], Image.Resampling.BILINEAR))
        expected = np.asarray(mean(variables_of("stage1", LAST), seen[None], size)[0])
        np.testing.assert_allclose(segmenter.probabilities(image), expected, atol=1e-5)
        found = segmenter.predict([image])[0]
        second, most = np.sort(expected, axis=-1)[..., -2:].transpose(2, 0, 1)
        clear = most - second > 1e-5  # not a matter of rounding
        np.testing.assert_array_equal(found.labels[clear], expected.argmax(-1)[clear])
        assert clear.mean() > 0.99 and len(np.unique(found.labels)) > 1
        np.testing.assert_allclose(found.confidence, 255 * most, atol=0.51)


def test_an_image_may_be_an_array_a_picture_or_a_file(model, tmp_path):
    labels = model(IMAGES[0])
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    for same in (Image.fromarray(IMAGES[0]), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(model(same), labels)
    for wrong in (IMAGES[0].astype(np.float32), IMAGES[0][..., 0], IMAGES, np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"expected an image as uint8 \[height, width, 3\], not"):
            model(wrong)
    with pytest.raises(ValueError, match=f"{tmp_path}/absent.png cannot be read: No such file"):
        model(tmp_path / "absent.png")


def test_colours_and_overlays(model):
    labels = model(IMAGES[0])
    colors = model.colorize(labels)
    np.testing.assert_array_equal(colors, label_space("camvid11").colors[labels])
    np.testing.assert_array_equal(model.colorize(np.array([[250, 11]])), np.zeros((1, 2, 3)))
    expected = 0.25 * colors.astype(float) + 0.75 * IMAGES[0]
    np.testing.assert_allclose(model.overlay(IMAGES[0], opacity=0.25), expected, atol=1)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (300, 301)])
def test_images_of_any_size_get_labels_of_that_size(size, model):
    assert model(picture(size)).shape == size


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 66)])
def test_images_as_they_are_may_have_any_size(size, workdir):
    assert load(workdir, resize=0)(picture(size)).shape == size


def test_the_network_sees_images_at_the_width_it_knows_and_their_own_shape(model, workdir):
    assert model.network_size(IMAGE) == model.network_size((480, 960)) == IMAGE  # exactly, where the shape is known
    seen = {model.network_size((height, 960)) for height in range(1, 2000)}
    assert len(seen) < 30  # programs
    for height in range(240, 2000):
        rows, columns = model.network_size((height, 960))
        assert columns == 96 and abs(rows - height / 10) <= 4
    assert load(workdir, resize=0).network_size((31, 33)) == (31, 33)
    assert load(workdir, resize=192).network_size((480, 960)) == (96, 192)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"resize": -1}, "resize = -1"), ({"window": 8}, "window = 8"), ({"scales": ()}, "scales = "),
     ({"scales": (0.0,)}, "positive numbers"), ({"batch_size": 0}, "batch_size = 0")],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(option, message, workdir):
    with pytest.raises(ValueError, match=message):
        load(workdir, **option)


@pytest.mark.parametrize("devices_used", [1, 4])
def test_a_batch_predicts_as_one_image_does(devices_used, model, workdir):
    images = [*IMAGES, picture((50, 101)), picture((96, 192)), picture((49, 97))]
    together = load(workdir, batch_size=2, devices_used=devices_used)
    assert {together.network_size(image.shape[:2]) for image in images} == {IMAGE}
    for image, found in zip(images, together.predict(images), strict=True):
        alone = model.predict([image])[0]
        np.testing.assert_allclose(found.confidence.astype(int), alone.confidence, atol=1)
        assert (found.labels != alone.labels).mean() < 1e-3  # rounding


# Windows


@pytest.mark.parametrize(("size", "window"), [(100, 40), (101, 40), (41, 40), (40, 40), (30, 40), (1000, 333)])
def test_windows_reach_everywhere_and_overlap_by_a_quarter(size, window):
    starts = windows.starts(size, window)
    assert starts[0] == 0 and starts[-1] + min(window, size) == size
    assert all(0 < later - start <= 0.75 * window + 0.5 for start, later in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(("size", "window", "batch"), [((50, 70), 20, 3), ((33, 90), 40, 1), ((10, 10), 40, 2)])
def test_windows_blend_to_the_mean_that_their_weights_say(size, window, batch):
    """Against a sum over every window at once; each predicts its own pixels, plus its number."""
    image = np.random.default_rng(0).random((*size, 2)).astype(np.float32)
    calls = []

    def predict(parts: np.ndarray) -> np.ndarray:
        assert len(parts) <= batch
        calls.extend(parts)
        return parts + np.arange(len(calls) - len(parts), len(calls))[:, None, None, None]

    bands = list(windows.blended(image, window, batch, predict))
    total, weights = np.zeros_like(image), np.zeros((*size, 1))
    rows, columns = min(window, size[0]), min(window, size[1])
    down, across = (np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (rows, columns))
    places = [(top, left) for top in windows.starts(size[0], window) for left in windows.starts(size[1], window)]
    for number, (top, left) in enumerate(places):
        place = (slice(top, top + rows), slice(left, left + columns))
        weight = np.outer(down, across)[..., None]
        total[place] += weight * (number + image[place])
        weights[place] += weight
    np.testing.assert_allclose(np.concatenate(bands), total / weights, rtol=1e-5)


def test_a_window_that_covers_the_image_changes_nothing(model, workdir):
    image = picture((60, 120))
    covering = load(workdir, window=96)
    np.testing.assert_array_equal(covering(image), model(image))
    np.testing.assert_array_equal(covering.probabilities(image), model.probabilities(image))


def test_a_larger_image_is_predicted_in_windows(workdir):
    image = picture((40, 150))
    windowed, whole = load(workdir, resize=0, window=64), load(workdir, resize=0)
    probabilities = windowed.probabilities(image)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities[:, :8], whole.probabilities(image[:, :64])[:, :8], atol=1e-5)  # one window
    found = windowed.predict([image])[0]
    np.testing.assert_array_equal(found.labels, probabilities.argmax(-1))
    np.testing.assert_allclose(found.confidence, 255 * probabilities.max(-1), atol=0.51)


def test_labels_from_windows_are_brought_to_the_images_own_size(workdir):
    image, windowed = picture((96, 192)), load(workdir, window=64)  # of 96 columns that the network sees
    probabilities = windowed.probabilities(image)
    assert probabilities.shape == (96, 192, 11)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    seen = load(workdir, resize=0, window=64).probabilities(windowed.resized(image))
    np.testing.assert_allclose(probabilities[1::2, 1::2][:-1, :-1], (  # a quarter of the way to the next pixel
        0.5625 * seen[:-1, :-1] + 0.1875 * (seen[1:, :-1] + seen[:-1, 1:]) + 0.0625 * seen[1:, 1:]
    ), atol=1e-5)  # fmt: skip
    found = windowed.predict([image])[0]
    np.testing.assert_array_equal(found.labels, probabilities.argmax(-1))
    np.testing.assert_allclose(found.confidence, 255 * probabilities.max(-1), atol=0.51)


def test_windows_are_used_by_themselves_where_an_image_is_too_large(model, monkeypatch):
    assert not model.is_windowed((1024, 4096)) and model.is_windowed((1024, 4097))
    monkeypatch.setattr("proda_jax.segmenter.MOST_PIXELS", 48 * 96 - 1)
    monkeypatch.setattr("proda_jax.segmenter.WINDOW", 48)
    assert model.is_windowed(IMAGE) and model(IMAGES[0]).shape == IMAGE


# Files


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for i, name in enumerate(("a.png", "a.jpg", "sub/b.webp", "sub/c.tif", "d.bmp")):
        Image.fromarray(picture([(48, 96), (48, 96), (60, 120), (96, 192), (7, 5)][i], i)).save(folder / name)
    return folder


def test_results_of_a_folder_lie_as_its_images_do(photos, workdir, tmp_path, capsys):
    segmenter = load(workdir, devices_used=None, batch_size=1)
    written = ("ids", "colors", "overlays", "confidence")
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "d.png").write_text("of an earlier run")
    predict(segmenter, str(photos), tmp_path, written)
    names = {"a.png": "a.png", "a.jpg": "a.jpg", "sub/b.webp": "sub/b", "sub/c.tif": "sub/c", "d.bmp": "d"}
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"{kind}/{name}.png" for kind in written for name in names.values()} | {"card.json"}
    alone = load(workdir)
    for file, name in names.items():
        prediction = alone.predict([photos / file])[0]
        ids, colors, overlay, confidence = (np.asarray(Image.open(tmp_path / kind / f"{name}.png")) for kind in written)
        assert ids.dtype == np.uint8 and (ids != prediction.labels).mean() < 1e-3
        np.testing.assert_array_equal(colors, label_space("camvid11").colors[ids])
        np.testing.assert_array_equal(overlay, alone.overlay(photos / file, ids))
        np.testing.assert_allclose(confidence.astype(int), prediction.confidence, atol=1)
    assert json.loads((tmp_path / "card.json").read_text())["classes"] == list(alone.classes)
    assert "5 images and frames in" in capsys.readouterr().out


def test_files_that_cannot_be_read_are_named_and_the_others_predicted(photos, model, tmp_path, capsys):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "worse.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"2 of 7 files could not be read: .*bad.png \(it is no.*worse.mp4 \(it is no"):
        predict(model, str(folder), tmp_path / "out")
    assert len(list((tmp_path / "out" / "ids").rglob("*.png"))) == 5
    assert not list((tmp_path / "out").rglob("*worse*"))
    assert f"{folder / 'bad.png'} is left out" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused(photos, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output = .*file/out cannot be written to"):
        predict(model, str(photos), tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ids").write_text("")
    with pytest.raises(ValueError, match=r"--output=.*out cannot be written to any more \(.*ids"):
        predict(model, str(photos), tmp_path / "out")
    with pytest.raises(ValueError, match="--write=labels: expected some of ids, colors, overlays, confidence"):
        predict(model, str(photos), tmp_path / "new", ["ids", "labels"])
    assert not (tmp_path / "new").exists()


def test_images_of_one_size_go_together_and_few_wait(monkeypatch):
    sizes = "aabacabbcaz"
    groups = list(grouped(enumerate(sizes), lambda item: item[1], lambda key: {"a": 2, "b": 3}.get(key, 9)))
    assert sorted(item for group in groups for item in group) == list(enumerate(sizes))
    assert [[number for number, _ in group] for group in groups] == [[0, 1], [3, 5], [2, 6, 7], [4, 8], [9], [10]]
    monkeypatch.setattr("proda_jax.predict.WAITING", 3)
    groups = list(grouped("xxyyz", lambda item: item, lambda key: 3 if key == "x" else 1))
    assert groups == [["y"], ["y"], ["z"], ["x", "x"]]
    assert list(map(len, grouped("abcdefgh", lambda item: item, lambda key: 2))) == [1] * 8


# Videos


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
def test_a_video_becomes_videos_of_the_same_frames_and_times(times, workdir, tmp_path):
    write_video(tmp_path / "drive.mp4", times)
    seen_at, frames = frames_of(tmp_path / "drive.mp4")
    assert len(frames) == len(times)
    segmenter = load(workdir, batch_size=2)
    predict(segmenter, str(tmp_path / "drive.mp4"), tmp_path / "out", ["ids", "colors", "overlays"])
    at, ids = frames_of(tmp_path / "out" / "ids" / "drive.mkv")
    np.testing.assert_allclose(at, seen_at, atol=1e-3)
    for frame, label in zip(frames, ids, strict=True):
        assert (load_labels := segmenter(frame)).shape == label.shape
        assert (load_labels != label).mean() < 1e-3
    for kind in ("colors", "overlays"):
        at, pictures = frames_of(tmp_path / "out" / kind / "drive.mp4")
        np.testing.assert_allclose(at, seen_at, atol=1e-3)
        for frame, label, shown in zip(frames, ids, pictures, strict=True):
            wanted = segmenter.colorize(label) if kind == "colors" else segmenter.overlay(frame, label)
            assert np.abs(shown.astype(int) - wanted).mean() < 25  # lossy, with colours at half resolution
    with av.open(str(tmp_path / "out" / "overlays" / "drive.mp4")) as container:
        assert 0.09 < container.duration / 1e6 - times[-1] / 1000 < 0.25  # the last frame lasts as long as most do


def test_a_video_of_odd_size_is_shown_whole(model, tmp_path):
    from proda_jax.video import Reader, Writer

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
    from proda_jax.video import Reader

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


# The command


def run_main(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "main.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_predicts_and_says_what_failed(photos, workdir, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"no image")
    flags = (f"--workdir={workdir}", f"--input={folder}", f"--output={tmp_path / 'out'}", "--checkpoint=best")
    result = run_main("--mode=predict", *flags, "--stage=source", "--flip", "--write=ids")
    assert result.returncode == 1, result.stderr
    assert f"network: {workdir}/source/checkpoints/{BEST}" in result.stdout
    last = result.stderr.splitlines()[-1]
    reason = "it is no image of a kind that Pillow knows"
    assert last == f"error: 1 of 6 files could not be read: {folder}/bad.png ({reason})"
    labels = load(workdir, stage="source", checkpoint="best", flip=True)(photos / "d.bmp")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "ids" / "d.png")), labels)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mode=predict", "--workdir=README.md"], "--mode=predict needs --output"),
        (["--mode=predict", "--workdir=README.md", "--output=x"], "--mode=predict needs --input"),
        (["--mode=predict", "--input=docs", "--output=x"], "needs a network: either --workdir of a run, or --config"),
        (["--mode=predict", "--input=docs", "--output=x", "--workdir=docs"], "error: docs: expected the workdir"),
        (["--input=docs", "--workdir=docs"], "--input is what --mode=predict labels"),
    ],
)  # fmt: skip
def test_the_command_says_what_it_lacks(flags, message):
    result = run_main(*flags)
    assert result.returncode != 0
    assert message in "".join((result.stdout + result.stderr).splitlines()[-4:])
