"""What is written of each file, what is left out when a prediction goes on, and that no file stops the others."""

import dataclasses
import errno
import fnmatch
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from fixtures import CITYSCAPES_IDS
from PIL import Image
from runs import picture, write_run

from proda_jax import load
from proda_jax.data.label_spaces import label_space, own_ids
from proda_jax.inference import images
from proda_jax.inference import predict as prediction
from proda_jax.inference.predict import predict
from proda_jax.inference.segmenter import Segmenter
from proda_jax.system import files


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(workdir):
    return load(workdir)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        Image.fromarray(picture((48, 96), i)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def with_card(model: Segmenter, **changed) -> Segmenter:
    """The same network, whose card says something else."""
    network, variables = model.network
    return Segmenter(network, variables, dataclasses.replace(model.card, **changed), model._mesh, batch_size=1)


def read(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# Label ids


def test_label_ids_are_those_of_the_data_sets_own_files():
    """Against the published tables."""
    assert list(own_ids(label_space("cityscapes19"), [("cityscapes", ())])) == CITYSCAPES_IDS
    classes = enumerate(label_space("cityscapes19").classes)
    in_sixteen = [i for i, name in classes if name not in ("terrain", "truck", "train")]
    assert own_ids(label_space("synthia16")) == tuple(CITYSCAPES_IDS[i] for i in in_sixteen)
    space = label_space("custom", ("sand", "sea"))
    named = ((7, "sand"), (8, "sand"), (0, "ignored"), (300, "sea"))
    assert own_ids(space, [("folder", ()), ("none", ()), ("folder", named)]) == (7, 300)
    assert own_ids(space, [("folder", ())]) == (0, 1)
    assert own_ids(space, [("folder", (((1, 2, 3), "sand"), ((4, 5, 6), "sea")))]) is None and own_ids(space) is None


@pytest.mark.parametrize("highest", [33, 4000])
def test_label_ids_are_written_for_servers(highest, model, photos, tmp_path):
    """The names and the sizes of the images, values of the data set."""
    ids = tuple(int(value) for value in np.linspace(7, highest, 11).round())
    predict(with_card(model, label_ids=ids), str(photos), tmp_path / "out", ["ids", "label_ids"])
    for name in ("a", "b", "sub/c"):
        found, train_ids = (read(tmp_path / "out" / kind / f"{name}.png") for kind in ("label_ids", "ids"))
        assert found.dtype == (np.uint8 if highest < 256 else np.uint16) and found.shape == (48, 96)
        np.testing.assert_array_equal(found, np.array(ids)[train_ids])
        assert len(np.unique(found)) > 1


def test_results_have_the_names_that_the_servers_look_for(model, tmp_path):
    """Cityscapes' evaluation script looks for <city>_<sequence>_<frame>*.png; ACDC's for the image's own name."""
    names = ("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit", "rgb_anon/fog/test/GOPR/GOPR_1_rgb_anon")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        Image.fromarray(picture((48, 96))).save(tmp_path / "in" / f"{name}.png")
    predict(model, str(tmp_path / "in"), tmp_path / "out", ["label_ids", "ids"])
    for kind in ("label_ids", "ids"):
        found = [path.relative_to(tmp_path / "out" / kind) for path in (tmp_path / "out" / kind).rglob("*.png")]
        assert sorted(map(str, found)) == [f"{name}.png" for name in names]
        assert fnmatch.filter([path.name for path in found], "berlin_000000_000019*.png")


def test_label_ids_of_a_card_that_lacks_them_are_those_of_the_label_space(model):
    held = {name: value for name, value in model.card.as_json().items() if name != "label_ids"}
    assert type(model.card).from_json(held, "x").label_ids == tuple(range(11))  # CamVid's
    held |= {"label_space": "cityscapes19", "classes": list(label_space("cityscapes19").classes)}
    assert list(type(model.card).from_json(held, "x").label_ids) == CITYSCAPES_IDS


def test_label_ids_of_colours_are_refused(model, photos, tmp_path):
    with pytest.raises(ValueError, match="--write=label_ids: the labels of this network's data set are colours"):
        predict(with_card(model, label_ids=None), str(photos), tmp_path / "out", ["label_ids"])
    assert not (tmp_path / "out").exists()


# Uncertainty


@pytest.mark.parametrize(
    "options", [{}, {"window": 48}, {"resize": 0, "window": 64}, {"flip": True, "scales": (0.5, 1)}]
)
def test_entropy_and_confidence_are_those_of_the_probabilities(options, workdir, tmp_path):
    segmenter = load(workdir, **options)
    image = picture((60, 120))
    Image.fromarray(image).save(tmp_path / "a.png")
    predict(segmenter, str(tmp_path / "a.png"), tmp_path / "out", ["confidence", "entropy"])
    p = segmenter.probabilities(image).astype(np.float64)
    entropy = -(p * np.log(p)).sum(-1) / np.log(11)
    np.testing.assert_allclose(read(tmp_path / "out" / "entropy" / "a.png"), 255 * entropy, atol=0.6)
    np.testing.assert_allclose(read(tmp_path / "out" / "confidence" / "a.png"), 255 * p.max(-1), atol=0.6)
    assert np.ptp(255 * entropy) > 5


# Going on


def test_an_interrupted_prediction_goes_on(model, photos, tmp_path, capsys):
    predict(model, str(photos), tmp_path / "out", ["ids", "confidence"])
    (tmp_path / "out" / "confidence" / "b.png").unlink()  # one of two is missing
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    capsys.readouterr()
    predict(model, str(photos), tmp_path / "out", ["ids", "confidence"], skip_existing=True)
    printed = capsys.readouterr().out
    assert "1 images and frames" in printed and "skipped: 2 of 3 files, which were done already" in printed
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert {path.relative_to(tmp_path / "out") for path in after if after[path] != before.get(path)} == {
        pathlib.Path("ids/b.png"), pathlib.Path("confidence/b.png")
    }  # fmt: skip
    predict(model, str(photos), tmp_path / "out", ["ids", "confidence"], skip_existing=True)
    assert "0 images and frames" in capsys.readouterr().out


def test_what_changed_is_predicted_again(model, photos, tmp_path, capsys):
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)  # into an empty folder
    Image.fromarray(picture((48, 96), 9)).save(photos / "b.png")
    later = (tmp_path / "out" / "ids" / "b.png").stat().st_mtime + 5
    os.utime(photos / "b.png", (later, later))
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "skipped: 2 of 3" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "b.png"), model(picture((48, 96), 9)))


def test_an_input_that_an_older_file_replaced_is_predicted_again(model, photos, tmp_path, capsys):
    Image.fromarray(picture((48, 96), 9)).save(tmp_path / "older.png")
    os.utime(tmp_path / "older.png", (1e9, 1e9))  # 2001
    predict(model, str(photos), tmp_path / "out", ["ids"])
    os.utime(tmp_path / "out" / "ids" / "a.png", (1e9, 1e9))  # as copying results may do
    shutil.copy2(tmp_path / "older.png", photos / "b.png")
    capsys.readouterr()
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "skipped: 2 of 3" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "b.png"), model(picture((48, 96), 9)))
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "skipped: 3 of 3" in capsys.readouterr().out


def test_an_input_of_the_same_length_and_time_is_predicted_again_and_a_touched_one_is_not(model, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i, name in enumerate(("a", "b")):
        Image.fromarray(picture((48, 96), i)).save(photos / f"{name}.bmp")  # whose length is that of its size
    predict(model, str(photos), out, ["ids"])
    before = (photos / "b.bmp").stat()
    Image.fromarray(picture((48, 96), 9)).save(photos / "b.bmp")
    os.utime(photos / "b.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (photos / "b.bmp").stat().st_size == before.st_size
    os.utime(photos / "a.bmp")
    capsys.readouterr()
    predict(model, str(photos), out, ["ids"], skip_existing=True)
    assert "skipped: 1 of 2" in capsys.readouterr().out
    np.testing.assert_array_equal(read(out / "ids" / "b.png"), model(picture((48, 96), 9)))


def test_what_was_written_of_an_input_before_it_changed_is_not_taken_for_its_result(model, photos, tmp_path, capsys):
    """Nor what an interruption left without a note."""
    predict(model, str(photos), tmp_path / "out", ["ids", "confidence"])
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes())
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    capsys.readouterr()
    predict(model, str(photos), tmp_path / "out", ["confidence"], skip_existing=True)
    assert "skipped: 2 of 3" in capsys.readouterr().out
    predict(model, str(photos), tmp_path / "out", ["ids", "confidence"], skip_existing=True)
    assert "skipped: 3 of 3" in capsys.readouterr().out
    noted = tmp_path / "out" / "inputs.jsonl"
    noted.write_text("".join(noted.read_text().splitlines(keepends=True)[:2]))  # of three
    with pytest.raises(ValueError, match="inputs.jsonl is damaged .*: delete it, and all files are predicted again"):
        predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    noted.unlink()
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "3 images and frames" in capsys.readouterr().out


def test_an_input_that_changes_while_it_is_predicted_is_predicted_again(model, photos, tmp_path, capsys, monkeypatch):
    plain = prediction.Files._write

    def write(self, entry, *more):
        if entry.name == "b":
            Image.fromarray(picture((48, 96), 9)).save(entry.path)
        plain(self, entry, *more)

    monkeypatch.setattr(prediction.Files, "_write", write)
    predict(model, str(photos), tmp_path / "out", ["ids"])
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "skipped: 2 of 3" in capsys.readouterr().out


def test_results_of_another_network_are_not_mixed_in(model, workdir, photos, tmp_path):
    predict(model, str(photos), tmp_path / "out", ["ids"])
    for other, what in ((load(workdir, stage="source"), "network"), (load(workdir, flip=True), "flip")):
        with pytest.raises(ValueError, match=f"--skip_existing: the results in .*out were made with another {what}"):
            predict(other, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    (tmp_path / "out" / "prediction.json").unlink()
    with pytest.raises(ValueError, match="--skip_existing: there is no .*prediction.json that says what made ids/"):
        predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)


def test_results_from_before_another_prediction_count_no_more(model, workdir, photos, tmp_path, capsys, monkeypatch):
    """The second network's prediction is interrupted at once; what the first one's left behind is not taken for its."""
    predict(model, str(photos), tmp_path / "out", ["ids"])
    old = (tmp_path / "out" / "prediction.json").stat().st_mtime - 10
    for path in (tmp_path / "out").rglob("*.*"):
        os.utime(path, (old, old))
    other = load(workdir, stage="source")
    monkeypatch.setattr(prediction.Files, "predict_images", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(other, str(photos), tmp_path / "out", ["ids"])
    monkeypatch.undo()
    capsys.readouterr()
    predict(other, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "3 images and frames" in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "a.png"), other(picture((48, 96), 0)))


# No file stops the others


def test_what_is_passed_over_is_counted_and_what_is_lost_shows_in_the_end(model, photos, tmp_path, capsys):
    (photos / "@eaDir").mkdir()
    (photos / "notes.txt").write_text("")
    predict(model, str(photos), tmp_path / "out", ["ids"])
    printed = capsys.readouterr().out
    assert f"passed over: 1 that end in .txt, such as {photos}/notes.txt" in printed and "@eaDir" in printed
    (photos / "gone.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match="^1 were passed over that may be missed, see above"):
        predict(model, str(photos), tmp_path / "out", ["ids"])
    assert f"passed over: 1 links to nothing, such as {photos}/gone.png" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "ids").rglob("*.png"))) == 3


def test_a_result_that_cannot_be_written_for_its_name_stops_no_other(model, photos, tmp_path):
    (tmp_path / "out" / "ids" / "a.png").mkdir(parents=True)  # a folder where the result should be
    with pytest.raises(ValueError, match=r"1 of 3 files could not be predicted: .*a.png \(its result .*is a directory"):
        predict(model, str(photos), tmp_path / "out", ["ids"])
    assert (tmp_path / "out" / "ids" / "b.png").is_file() and (tmp_path / "out" / "ids" / "sub" / "c.png").is_file()


def test_names_of_any_length_that_a_disk_has_are_predicted(model, tmp_path):
    (tmp_path / "in").mkdir()
    for ending in ("png", "jpg"):  # whose results have longer names than disks allow
        Image.fromarray(picture((48, 96))).save(tmp_path / "in" / f"{'ü' * 125}1.{ending}")
    predict(model, str(tmp_path / "in"), tmp_path / "out", ["ids"])
    assert len(list((tmp_path / "out" / "ids").iterdir())) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_the_disk_is_blamed_for_what_the_disk_did(number, model, photos, tmp_path, monkeypatch):
    real = prediction.write_atomically

    def write(path, contents):
        if path.name == "b.png":
            raise files.NotWritten(path, OSError(number, os.strerror(number)))
        real(path, contents)

    monkeypatch.setattr(prediction, "write_atomically", write)
    with pytest.raises(ValueError, match=f"cannot be written to any more .*b.png.*{os.strerror(number)}.*to the disk"):
        predict(model, str(photos), tmp_path / "out", ["ids"])


def test_the_disk_is_not_blamed_for_a_name(tmp_path):
    for number in (errno.ENAMETOOLONG, errno.EISDIR):
        assert "see to the disk" not in str(files.NotWritten(tmp_path, OSError(number, os.strerror(number))))
    assert len(os.fsencode(files.unfinished_name(files.epath.Path(tmp_path / ("x" * 255))).name)) <= 255


def test_an_image_that_the_device_has_no_memory_for_stops_no_other(model, photos, tmp_path, monkeypatch):
    Image.fromarray(picture((20, 96))).save(photos / "wide.png")
    real = Segmenter.predict

    def run(self, batch, seen, **options):
        if batch[0].shape[0] == 20:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more")
        return real(self, batch, seen, **options)

    monkeypatch.setattr(Segmenter, "predict", run)
    with pytest.raises(ValueError, match=r"1 of 4 files .*wide.png \(it cannot be predicted: RESOURCE_EXHAUSTED: Out"):
        predict(model, str(photos), tmp_path / "out", ["ids"])
    assert len(list((tmp_path / "out" / "ids").rglob("*.png"))) == 3


def test_a_strip_that_would_become_huge_is_named(model, photos, tmp_path):
    Image.fromarray(picture((60000, 1))).save(photos / "strip.png")
    with pytest.raises(ValueError, match=r"strip.png \(it has 60000 x 1 pixels, of which .* would see 5760000 x 96"):
        predict(model, str(photos / "strip.png"), tmp_path / "out", ["ids"])


# Images of any size, videos of any name


def test_large_images_come_one_after_another_and_give_the_same(model, photos, tmp_path, monkeypatch):
    predict(model, str(photos), tmp_path / "small", ["ids", "overlays"])
    monkeypatch.setattr(prediction, "LARGE", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("proda_jax.inference.segmenter.BANDS", 500)
    held, real = [], prediction.pixels.read
    monkeypatch.setattr(prediction.pixels, "read", lambda *given: held.append(real(*given)) or held[-1])
    monkeypatch.setattr(prediction.Files, "_write", _let_go(prediction.Files._write, held))
    predict(model, str(photos), tmp_path / "large", ["ids", "overlays"])
    found = model(photos / "a.png")  # in Python, too
    monkeypatch.undo()
    for path in (tmp_path / "small").rglob("*.png"):
        np.testing.assert_array_equal(read(tmp_path / "large" / path.relative_to(tmp_path / "small")), read(path))
    np.testing.assert_array_equal(found, read(tmp_path / "large" / "ids" / "a.png"))


def _let_go(write, held: list):
    def written(self, *task):
        assert len(held) == 1  # image is held at a time
        held.clear()
        write(self, *task)

    return written


def test_an_image_that_memory_has_no_room_for_is_named(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "LARGE", 100)
    monkeypatch.setattr(prediction.memory, "free", lambda: 1000)
    with pytest.raises(ValueError, match=r"3 of 3 .*a.png \(its 0 megapixels take 0.0 GB of memory, of which 0.0 are"):
        predict(model, str(photos), tmp_path / "out", ["ids"])


def test_a_video_that_is_called_an_image_is_a_video(model, photos, tmp_path, capsys):
    from test_video import write_video

    write_video(tmp_path / "v.mp4", [0, 100])
    shutil.move(tmp_path / "v.mp4", photos / "d.jpg")
    predict(model, str(photos), tmp_path / "out", ["ids"])
    assert (tmp_path / "out" / "ids" / "d.mkv").is_file()
    predict(model, str(photos), tmp_path / "out", ["ids"], skip_existing=True)
    assert "skipped: 4 of 4" in capsys.readouterr().out


def test_several_pages_are_said_and_the_first_is_taken(model, tmp_path, capsys):
    pages = [Image.fromarray(picture((48, 96), seed)) for seed in (1, 2)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    predict(model, str(tmp_path / "scan.tif"), tmp_path / "out", ["ids"])
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "scan.png"), model(picture((48, 96), 1)))
    said = capsys.readouterr().out
    assert "1 images have several pages or frames, of which the first was taken, such as" in said and "scan.tif" in said


def test_images_of_12_bits_want_their_range(model, workdir, photos, tmp_path):
    Image.fromarray(picture((48, 96))[..., 0].astype(np.uint16) << 4).save(photos / "thermal.png")
    with pytest.raises(ValueError, match=r"thermal.png \(its 16 bits hold no value above 4080.*value_range 0,4095"):
        predict(model, str(photos), tmp_path / "out", ["ids"])
    ranged = load(workdir, value_range=(0, 4095))
    predict(ranged, str(photos), tmp_path / "out", ["ids"])
    grey = np.repeat(picture((48, 96))[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "thermal.png"), model(grey))
    assert with_card(model, value_range=(0, 4095)).value_range == (0, 4095)  # as it was trained
    with pytest.raises(ValueError, match="value_range = .*expected the values that are black and white"):
        load(workdir, value_range=(5, 5))


def test_the_record_says_what_results_were_made_with(model, photos, tmp_path):
    predict(model, str(photos), tmp_path, ["ids"], untagged_video="bt709")
    held = json.loads((tmp_path / "prediction.json").read_text())
    assert held["untagged_video"] == "bt709" and held["scales"] == [1.0] and held["card"]["stage"] == "stage1"
    assert images.LONGEST == 251
