"""Scores of anybody's PNG files, against Cityscapes' own evaluation script and against counting."""

import json
import pathlib

import fixtures
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from command import run_main
from PIL import Image
from tiny import CLASSES, block_source, tiny_config

from proda_jax.configs import base
from proda_jax.data.label_spaces import CITYSCAPES_IDS, IGNORE, label_space
from proda_jax.data.memory import MemorySource
from proda_jax.run import predictions
from proda_jax.run.sources import Sources

SIZE = (64, 128)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """A folder with raw Cityscapes, and its configuration."""
    root = tmp_path_factory.mktemp("cityscapes")
    fixtures.write_cityscapes(root / "raw", train=2, val=4, size=SIZE, train_labels=False)
    c = base.get_config()
    c.data.data_dir, c.data.raw_dir, c.data.allow = str(root / "data"), str(root / "raw"), ("ignored_pixels",)
    c.data.validation.image_size = (32, 64)  # which predictions have nothing to do with
    return root, c


def truths(root) -> list[pathlib.Path]:
    return sorted((root / "raw" / "gtFine" / "val").rglob("*_labelIds.png"))


def write_predictions(root, folder: pathlib.Path, kind: str = "label_ids") -> list[pathlib.Path]:
    """Labels of which a third is something else, in a tenth of the pixels no class; never 'train', nor 'bicycle'."""
    generator, paths = np.random.default_rng(0), []
    train_ids = np.full(256, 255, np.uint8)
    train_ids[list(CITYSCAPES_IDS)] = range(19)
    colors = np.vstack([label_space("cityscapes19").colors, np.zeros((237, 3), np.uint8)])
    for path in truths(root):
        label = np.array(Image.open(path))
        noise = generator.random(label.shape)
        label = np.where(noise < 0.3, generator.choice(CITYSCAPES_IDS[:-3], label.shape), label)
        label = np.where(noise > 0.9, generator.choice([0, 4, 9, 30], label.shape), label).astype(np.uint8)
        label[label == CITYSCAPES_IDS[-1]] = 0
        ids = train_ids[label]
        pixels = {"label_ids": label, "train_ids": ids, "colors": colors[ids]}[kind]
        place = folder / path.parent.name / path.name.replace("gtFine_labelIds", "pred")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
        paths.append(place)
    return paths


def official_scores(files: list[pathlib.Path], root) -> dict:
    official.args.evalInstLevelScore = official.args.JSONOutput = False
    official.args.quiet = True
    return official.evaluateImgLists([str(f) for f in files], [str(t) for t in truths(root)], official.args)


@pytest.mark.parametrize("kind", ["label_ids", "train_ids", "colors"])
def test_scores_are_those_of_cityscapes_own_script_to_the_last_digit(kind, cityscapes, tmp_path):
    root, config = cityscapes
    expected = official_scores(write_predictions(root, tmp_path / "ids"), root)
    if kind != "label_ids":
        write_predictions(root, tmp_path / kind, kind)
    folder = tmp_path / ("ids" if kind == "label_ids" else kind)
    found = predictions.score(config, Sources(config, tmp_path), folder)
    assert found["prediction_values"] == kind and found["images"] == 4
    assert found["miou"] == round(100 * expected["averageScoreClasses"], 2)
    ious = {name: expected["classScores"][name] for name in found["iou"]}
    assert found["iou"] == {name: None if np.isnan(iou) else round(100 * iou, 2) for name, iou in ious.items()}
    assert np.isnan(ious["train"]) and ious["truck"] == ious["bicycle"] == 0  # neither in truth, nor found; in one
    for name, iou in ious.items():  # of the same pixels, Dice is 2 IoU / (1 + IoU)
        assert found["dice"][name] == (None if np.isnan(iou) else pytest.approx(200 * iou / (1 + iou), abs=0.0051))


def test_predictions_of_another_size_are_refused_as_the_script_refuses_them(cityscapes, tmp_path):
    root, config = cityscapes
    files = write_predictions(root, tmp_path)
    Image.fromarray(np.array(Image.open(files[2]))[:-1]).save(files[2])
    with pytest.raises(SystemExit):
        official_scores(files, root)
    with pytest.raises(ValueError, match=rf"1 of 4 predictions .*{files[2].name} is 128 x 63, and its label 128 x 64"):
        predictions.score(config, Sources(config, tmp_path), tmp_path)


def test_255_is_no_class_which_the_script_does_not_know(cityscapes, tmp_path):
    root, config = cityscapes
    files = write_predictions(root, tmp_path)
    for path in files:
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 0, 255, label).astype(np.uint8)).save(path)
    with pytest.raises(IndexError):
        official_scores(files, root)
    found = predictions.score(config, Sources(config, tmp_path), tmp_path)
    write_predictions(root, tmp_path)
    assert found == predictions.score(config, Sources(config, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files[1].unlink(), "no prediction of 1 of 4 images, the first being"),
        (lambda files: files[1].with_stem(f"{files[1].stem}_2").write_bytes(files[1].read_bytes()), "two files are of"),
        (lambda files: files[1].write_bytes(files[1].read_bytes()[:99]), "cannot be used"),
        (lambda files: Image.fromarray(np.full(SIZE, 99, np.uint8)).save(files[1]), "holds 99, which means nothing"),
        (lambda files: Image.fromarray(np.full((*SIZE, 3), (9, 8, 7), np.uint8)).save(files[1]), "it holds colours"),
        (lambda files: Image.fromarray(np.full((*SIZE, 3), (9, 8, 7), np.uint8)).save(files[0]), r"holds \(9, 8, 7\)"),
    ],
    ids=["missing", "twice", "cut off", "no value", "a colour among ids", "no colour"],
)
def test_files_that_cannot_be_meant_are_refused_by_name(change, message, cityscapes, tmp_path):
    root, config = cityscapes
    files = write_predictions(root, tmp_path)
    change(files)
    with pytest.raises(ValueError, match=message):
        predictions.score(config, Sources(config, tmp_path), tmp_path)


def test_values_can_be_named_and_a_guess_is_called_one(cityscapes, tmp_path, capsys):
    root, config = cityscapes
    for path in write_predictions(root, tmp_path):
        Image.fromarray(np.full(SIZE, CITYSCAPES_IDS[0], np.uint8)).save(path)  # 7: road, or as a train id traffic sign
    guessed = predictions.score(config, Sources(config, tmp_path), tmp_path)
    assert guessed["prediction_values"] == "train_ids" and "a guess" in capsys.readouterr().err
    named = predictions.score(config, Sources(config, tmp_path), tmp_path, "label_ids")
    assert named["iou"]["road"] > 0 and named["iou"]["traffic sign"] in (0.0, None)
    with pytest.raises(ValueError, match="did you mean 'train_ids'"):
        predictions.score(config, Sources(config, tmp_path), tmp_path, "train_id")


def test_files_are_of_the_image_with_whose_name_theirs_begins(tmp_path):
    names = ["a/1", "b/1", "frame_1", "frame_10"]
    by_end = {"1": names[:2], "frame_1": names[2:3], "frame_10": names[3:]}
    for below, name in [("a/1", "a/1"), ("x/b/1_pred", "b/1"), ("1", None), ("frame_1", "frame_1"), ("y/2", None),
                        ("y/frame_10_labels", "frame_10"), ("frame_100", None), ("frame_1.x", "frame_1")]:  # fmt: skip
        assert predictions._image_of(below, by_end) == name


def test_labels_in_memory_are_compared_pixel_by_pixel(tmp_path):
    config, source = tiny_config(), block_source(3, 0)
    predicted = np.random.default_rng(1).integers(0, CLASSES, source.labels.shape).astype(np.uint8)
    for name, values in zip(source.names, predicted, strict=True):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    found = predictions.score(config, Sources(config, tmp_path, given={"validation": source}), tmp_path, "train_ids")
    counts = source.labels != IGNORE
    assert found["pixel_accuracy"] == round(100 * float((predicted == source.labels)[counts].mean()), 2)


def test_masks_of_0_and_255_are_what_the_labels_are_or_refused(tmp_path):
    truth = np.random.default_rng(0).integers(0, 2, (2, 32, 64)).astype(np.uint8)
    predicted = truth ^ (np.random.default_rng(1).random(truth.shape) < 0.1)
    source = MemorySource(np.zeros((*truth.shape, 3), np.uint8), truth)
    for name, values in zip(source.names, predicted, strict=True):
        Image.fromarray(values * np.uint8(255)).save(tmp_path / f"{name}.png")
    config = tiny_config()
    config.data.label_space, config.data.classes = "custom", ("ground", "house")
    config.data.validation = base.folder("val", "images", "labels", (32, 64))
    sources = Sources(config, tmp_path, given={"validation": source})
    with pytest.raises(ValueError, match="0 and 255 alone, as masks .* 255 is no class among train_ids"):
        predictions.score(config, sources, tmp_path)
    config.data.validation.label_values = ((0, "ground"), (255, "house"))
    found = predictions.score(config, sources, tmp_path)
    assert found["prediction_values"] == "label_ids"
    assert found["pixel_accuracy"] == round(100 * float((predicted == truth).mean()), 2)


def test_the_command_scores_a_folder(cityscapes, tmp_path):
    root, config = cityscapes
    expected = official_scores(write_predictions(root, tmp_path / "ids"), root)
    result = run_main(
        "--mode=evaluate", "--config=gta5", f"--predictions={tmp_path / 'ids'}", f"--workdir={tmp_path / 'run'}",
        f"--config.data.raw_dir={root / 'raw'}", f"--config.data.data_dir={root / 'data'}",
        "--config.data.allow=('ignored_pixels',)",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert scores["miou"] == round(100 * expected["averageScoreClasses"], 2)
    assert f"{scores['mdice']:.1f}" in next(line for line in result.stdout.splitlines() if line.startswith("mIoU "))
    assert scores["network"] == str(tmp_path / "ids")
