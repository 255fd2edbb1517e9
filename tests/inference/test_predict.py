"""Labels of images of every size, in batches and in windows; files in, files out."""

import functools
import json
import pathlib
import re
import shutil
import time

import jax
import numpy as np
import pytest
from command import run_main
from PIL import Image
from runs import BEST, IMAGES, LAST, labels_of, picture, variables_of, write_run
from tiny import IMAGE, tiny_config, tiny_model

from proda_jax import load
from proda_jax.adaptation.averaging import averaged_probabilities
from proda_jax.data.label_spaces import label_space
from proda_jax.inference import windows
from proda_jax.inference.predict import Files, grouped, predict
from proda_jax.inference.record import Record
from proda_jax.inference.segmenter import Segmenter

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(workdir):
    return load(workdir)


# One image


@pytest.mark.smoke("inference")
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
        with pytest.raises(ValueError, match=r"expected an image as uint8 \[height, width, 3\], RGB, not"):
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


@pytest.mark.parametrize(
    ("size", "computed"),
    [((96, 192), (128, 192)), ((1, 512), (64, 512)), ((360, 513), (384, 768)), ((1024, 2048), (1024, 2048))],
)
def test_results_are_computed_at_few_sizes_that_are_little_larger(size, computed):
    assert Segmenter.computed_size(size) == computed


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
    monkeypatch.setattr("proda_jax.inference.segmenter.MOST_PIXELS", 48 * 96 - 1)
    monkeypatch.setattr("proda_jax.inference.segmenter.WINDOW", 48)
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
    pictures = {f"{kind}/{name}.png" for kind in written for name in names.values()}
    assert found == pictures | {"card.json", "prediction.json", "inputs.jsonl"}
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
    with pytest.raises(ValueError, match=r"2 of 7 files could not be .*: .*bad.png \(it is no.*worse.mp4 \(it is no"):
        predict(model, str(folder), tmp_path / "out")
    assert len(list((tmp_path / "out" / "ids").rglob("*.png"))) == 5
    assert not list((tmp_path / "out").rglob("*worse*"))
    assert f"{folder / 'bad.png'} is left out" in capsys.readouterr().err


def test_speed_is_of_all_but_the_first_batch_of_each_size(photos, model, tmp_path, capsys, monkeypatch):
    """Of one image, which is the first of its size, there is none."""
    predict(model, str(sorted(photos.rglob("*.png"))[0]), tmp_path, ["ids"])
    assert re.search(r"1 images and frames in \S+ s, of which .* is compiled\n", capsys.readouterr().out)
    record = Record(tmp_path, ["ids"])
    monkeypatch.setattr(time, "monotonic", iter([100.0, 107.0]).__next__)
    files = Files(model, record, tmp_path, ["ids"], bar=None)
    files.done, files.first, files.compiling = 10, 2, 3.0
    assert files.speed == 2.0


def test_what_cannot_be_written_is_refused(photos, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output = .*file/out cannot be written to"):
        predict(model, str(photos), tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ids").write_text("")
    with pytest.raises(ValueError, match=r"--output=.*out cannot be written to any more \(.*ids"):
        predict(model, str(photos), tmp_path / "out")
    with pytest.raises(ValueError, match="--write=labels: expected some of ids, label_ids, colors, overlays, confid"):
        predict(model, str(photos), tmp_path / "new", ["ids", "labels"])
    assert not (tmp_path / "new").exists()


def test_images_of_one_size_go_together_and_few_wait(monkeypatch):
    sizes = "aabacabbcaz"
    groups = list(grouped(enumerate(sizes), lambda item: item[1], lambda key: {"a": 2, "b": 3}.get(key, 9)))
    assert sorted(item for group in groups for item in group) == list(enumerate(sizes))
    assert [[number for number, _ in group] for group in groups] == [[0, 1], [3, 5], [2, 6, 7], [4, 8], [9], [10]]
    monkeypatch.setattr("proda_jax.inference.predict.WAITING", 3)
    groups = list(grouped("xxyyz", lambda item: item, lambda key: 3 if key == "x" else 1))
    assert groups == [["y"], ["y"], ["z"], ["x", "x"]]
    assert list(map(len, grouped("abcdefgh", lambda item: item, lambda key: 2))) == [1] * 8


# The command


def test_the_command_predicts_and_says_what_failed(photos, workdir, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"no image")
    flags = (f"--workdir={workdir}", f"--input={folder}", f"--output={tmp_path / 'out'}", "--checkpoint=best")
    result = run_main("--mode=predict", *flags, "--stage=source", "--flip", "--write=ids")
    assert result.returncode == 1, result.stderr
    assert f"network: {workdir}/source/checkpoints/{BEST}" in result.stdout
    last = result.stderr.splitlines()[-1]
    reason = "it is no image of a kind that Pillow knows"
    assert last == f"error: 1 of 6 files could not be predicted: {folder}/bad.png ({reason})"
    labels = load(workdir, stage="source", checkpoint="best", flip=True)(photos / "d.bmp")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "ids" / "d.png")), labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--mode=predict needs --output"),
        ({"output": "x"}, "--mode=predict needs --input"),
        ({"output": "x", "input": "docs", "workdir": None}, "needs a network: either --workdir of a run, or --config"),
        ({"output": "x", "input": "docs", "scales": "1,large"}, "--scales=1,large: expected numbers"),
        ({"output": "x", "input": "docs", "value_range": "0"}, "--value_range=0: expected two numbers, such as 0,4095"),
        ({"distributed": "true"}, "--mode=predict is for one host"),
        ({"mode": "export", "input": "docs"}, "--input is for --mode=predict; --mode=export does nothing with it"),
    ],
)
def test_the_command_says_what_it_lacks(given, message):
    given = {"mode": "predict", "workdir": "docs"} | given
    result = run_main(*(f"--{name}={value}" for name, value in given.items() if value is not None))
    assert result.returncode == 1 and message in result.stderr
    assert "loading JAX" not in result.stderr
