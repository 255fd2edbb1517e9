"""Which checkpoint is opened for prediction, and that it needs nothing besides."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from PIL import Image
from runs import BEST, IMAGES, LAST, labels_of, variables_of, write_run
from tiny import IMAGE, tiny_config, tiny_model

from proda_jax import load
from proda_jax.data.label_spaces import label_space
from proda_jax.models import weights
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.run.card import Card
from proda_jax.system.checkpoints import network_in

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


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


def test_a_network_that_learnt_from_the_targets_labels_is_taken_where_there_is_no_other(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "stage1" / "settings.json").write_text(json.dumps({"stage1.target_labels": True}))
    assert load(run).card.stage == "source" and load(run, stage="stage1").card.stage == "stage1"
    (run / "source" / "settings.json").write_text(json.dumps({"source.target_labels": True}))
    assert load(run).card.stage == "stage1"


def test_a_configuration_that_says_something_else_than_the_card_is_refused(workdir):
    assert load(workdir, config=tiny_config()).classes == label_space("camvid11").classes
    for setting, value in (("model.dtype", "bfloat16"), ("data.target.image_size", (96, 192)),
                           ("model.input_mean", (0.4, 0.4, 0.4))):  # fmt: skip
        config = tiny_config()
        config.update_from_flattened_dict({setting: value})
        with pytest.raises(ValueError, match=f"stage1/checkpoints/4 says itself .* {setting} = .*leave --config out"):
            load(workdir, config=config)


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


def test_weights_are_read_from_a_stage_beside_a_checkpoint_that_is_being_written(workdir, tmp_path):
    stage = shutil.copytree(workdir / "source", tmp_path / "source")
    being_written = stage / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(stage / "checkpoints" / str(LAST), being_written)
    before = sorted(path for path in stage.rglob("*"))
    assert weights.load(stage).arrays
    assert sorted(path for path in stage.rglob("*")) == before


def unfinished(workdir: pathlib.Path) -> None:
    (workdir / "results.json").write_text(json.dumps({"stages": []}))


def unscored(workdir: pathlib.Path) -> None:
    for scores in (workdir / "source" / "checkpoints").glob("*/metrics"):
        shutil.rmtree(scores)


@pytest.mark.parametrize(
    ("change", "place", "options", "message"),
    [
        (None, "absent", {}, "there is no such folder"),
        (None, "data", {}, "expected the workdir of a run, a stage's folder or a checkpoint, or.*; it holds none"),
        (None, "", {"stage": "stage9"}, "expected checkpoints of a stage.*with checkpoints: source, stage1, stage2"),
        (None, "source/checkpoints/2", {"checkpoint": "best"}, "one checkpoint already"),
        (None, "source/checkpoints", {"stage": "source"}, "checkpoints of one stage: leave out the stage"),
        (unscored, "source", {"checkpoint": "best"}, "no best checkpoint, as none was scored: use --checkpoint=last"),
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


@pytest.mark.parametrize(("change", "message"), [
    (lambda array: array.astype(np.float16), r"in (\d+) of \1 arrays: .* is float32 .*, not float16"),
    (lambda array: np.zeros((2, *array.shape), array.dtype), r"is float32 \(\d+,\), not float32 \(2, \d+\)"),
])  # fmt: skip
def test_a_checkpoint_gives_no_arrays_of_another_type_or_shape(change, message, workdir):
    """Orbax casts to the type of what it is to fill, and gives NumPy arrays the shape that is stored."""
    wanted = jax.tree.map(change, variables_of("source", LAST))
    with pytest.raises(ValueError, match=f"checkpoints/{LAST} holds another network than .*{message}"):
        network_in(workdir / "source" / "checkpoints" / str(LAST), wanted)


def test_a_checkpoint_of_an_older_version_needs_the_configuration(tmp_path):
    workdir, config = write_run(tmp_path, cards=False), tiny_config()
    with pytest.raises(ValueError, match="older version.*--config=configs/gta5.py"):
        load(workdir)
    opened = load(workdir, config=config)
    assert opened.card == Card.of(config, "stage1", extra_norm=False)
    np.testing.assert_array_equal(opened(IMAGES[0]), labels_of("stage1", LAST)[0])
    config.model.width = 16
    with pytest.raises(ValueError, match=r"another network.*in \d+ of \d+ arrays: batch_stats.*float32 \(8,\), not"):
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
