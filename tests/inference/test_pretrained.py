"""`save_pretrained`: a network in a folder for others is the same network, and what is wrong with a folder is said."""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from command import ROOT, run_main
from PIL import Image
from runs import IMAGES, LAST, ODD_NAMES, labels_of, segmenter, write_run

from proda_jax import load
from proda_jax.models import weights
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.run.card import Card
from proda_jax.system import digests, files

FILES = {"model.safetensors", "card.json", "README.md"}


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, images):
    return model.apply(variables, images / np.float32(255), train=False).logits


@pytest.mark.parametrize(
    ("extra_norm", "settings"),
    [
        (True, {}),
        (False, {"model.head": "deeplab", "model.detail_size": (32, 32)}),
        (False, {"model.dtype": "bfloat16"}),
        (False, {"data.label_space": "custom", "data.classes": ODD_NAMES}),
    ],
)
def test_the_network_comes_back_to_the_bit(extra_norm, settings, tmp_path):
    original = segmenter(extra_norm, **settings)
    original.save_pretrained(tmp_path / "network")
    assert {path.name for path in (tmp_path / "network").iterdir()} == FILES
    opened = load(tmp_path / "network")
    assert opened.card == Card.from_json(original.card.as_json(), "") and opened.classes == original.classes
    assert opened.network[0] == original.network[0] and opened.origin == str(tmp_path / "network")
    (model, variables), (_, others) = original.network, opened.network
    assert jax.tree.structure(variables) == jax.tree.structure(others)
    first, second = (np.asarray(logits(model, each, IMAGES)) for each in (variables, others))
    assert np.isfinite(first).all() and first.std() > 0
    np.testing.assert_array_equal(first, second)


def test_others_read_the_weights_under_the_variables_paths(tmp_path):
    original = segmenter(devices_used=2)
    model, variables = original.network
    kernel = np.asarray(variables["params"]["backbone"]["conv1"]["kernel"])
    turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)  # not in one piece in memory
    variables["params"]["backbone"]["conv1"]["kernel"] = turned
    original.save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "flax"}
        found = {name: file.get_tensor(name) for name in file.keys()}
    assert len(found) == len(jax.tree.leaves(variables))
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(found["params.backbone.conv1.kernel"], kernel)
    np.testing.assert_array_equal(found["batch_stats.input.mean"], variables["batch_stats"]["input"]["mean"])
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_the_same_network_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        segmenter().save_pretrained(tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("extra_norm", "head"), [(True, "released"), (False, "deeplab")])
def test_the_reader_of_weights_knows_the_folder(extra_norm, head, tmp_path):
    original = segmenter(extra_norm, **{"model.head": head})
    original.save_pretrained(tmp_path)
    read = weights.load(tmp_path)
    assert (read.head, read.extra_norm, read.classes) == (head, extra_norm, 11)
    expected = to_torch(original.network[1])
    assert read.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)


# What is wrong with a folder


def rewritten(folder: pathlib.Path, arrays: dict) -> None:
    """Other weights, and a card that knows them."""
    data = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(data)
    change_card(folder, sha256=hashlib.sha256(data).hexdigest())


def change_card(folder: pathlib.Path, **changes) -> None:
    """As a program would that writes such cards: with the digest of what is in it."""
    card = json.loads((folder / "card.json").read_text()) | changes
    card = {name: value for name, value in card.items() if value is not None and name != "digest"}
    (folder / "card.json").write_text(json.dumps(card | {"digest": digests.of_json(card)}))


def spoil_card(folder: pathlib.Path) -> None:
    """A bit of a name, as a disk may flip it."""
    text = (folder / "card.json").read_text()
    assert text.count('"pole"') == 1
    (folder / "card.json").write_text(text.replace('"pole"', '"qole"'))


def other_shape(folder: pathlib.Path) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    rewritten(folder, arrays | {"params.backbone.conv1.kernel": np.zeros((7, 7, 3, 9), np.float32)})


def other_type(folder: pathlib.Path) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "params.head.classifier.kernel"
    rewritten(folder, arrays | {name: arrays[name].astype(np.float16)})


def one_less(folder: pathlib.Path) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    del arrays["params.head.classifier.kernel"]
    rewritten(folder, arrays)


def flip_a_bit(folder: pathlib.Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def no_safetensors(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").write_bytes(b"something else")
    change_card(folder, sha256=hashlib.sha256(b"something else").hexdigest())


def truncate(folder: pathlib.Path) -> None:
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(10_000)


WRONG = {
    "truncated": (truncate, r"model.safetensors is damaged, or not the file that card.json is of \(its 10000 bytes"),
    "a bit": (flip_a_bit, "model.safetensors is damaged, or not the file that card.json is of.*another SHA-256"),
    "a bit of the card": (spoil_card, r"card.json is damaged \(its contents have changed .*\): fetch"),
    "no digest": (lambda folder: change_card(folder, sha256=None), "model.safetensors is damaged, or not the file"),
    "no card": (lambda folder: (folder / "card.json").unlink(), r"card.json is missing, .*, name .*/model\.safe"),
    "card": (lambda folder: (folder / "card.json").write_text('{"format": 1'), r"card.json is damaged \(.*fetch or"),
    "list": (lambda folder: (folder / "card.json").write_text("[]"), "card.json is no card of a pretrained network"),
    "lacks": (lambda folder: change_card(folder, classes=None), "the card of .* lacks classes"),
    "newer": (lambda folder: change_card(folder, format=2), "card.json is of format 2, expected 1: a newer version"),
    "shape": (other_shape, r"another network.*conv1.kernel is float32 \(7, 7, 3, 9\), not float32 \(7, 7, 3, 8\)"),
    "type": (other_type, "another network than .*in 1 of .*params.head.classifier.kernel is float16"),
    "fewer": (one_less, "another network than .*in 1 of .*params.head.classifier.kernel is missing, not float32"),
    "kind": (no_safetensors, "model.safetensors: expected a safetensors file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "expected the workdir.*; it holds none"),
    "git": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "it is a note of Git LFS that stands for the file: git lfs pull",
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    segmenter().save_pretrained(folder)
    return folder


def test_cards_of_before_they_had_a_digest_are_read(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "network")
    card = json.loads((folder / "card.json").read_text())
    assert card.pop("digest") == digests.of_json(card)
    (folder / "card.json").write_text(json.dumps(card))
    assert load(folder).classes == load(written).classes


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_folder_is_said(case, written, tmp_path):
    damage, message = WRONG[case]
    folder = shutil.copytree(written, tmp_path / "network")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_stage_of_it_cannot_be_asked_for(written):
    with pytest.raises(ValueError, match="is one network already: leave out the stage"):
        load(written, stage="stage1")


# Whole or not at all


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "card.json"])
def test_a_folder_with_something_else_is_refused_and_left_alone(name, tmp_path):
    (tmp_path / name).write_text("of somebody")
    with pytest.raises(ValueError, match=f"holds something else \\({name}\\): name a new or an empty folder"):
        segmenter().save_pretrained(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "of somebody")]


def test_an_older_network_is_replaced_beside_what_git_keeps(written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "network")
    (folder / ".git").mkdir()
    (folder / "model.safetensors.17.99.tmp").write_text("of a program that was killed")
    segmenter(True).save_pretrained(folder)
    assert load(folder).card.extra_norm and (folder / ".git").is_dir()


@pytest.mark.parametrize("file", sorted(FILES))
@pytest.mark.parametrize("older", [False, True])
def test_nothing_is_written_where_not_all_can_be(file, older, written, tmp_path, monkeypatch):
    folder = shutil.copytree(written, tmp_path / "network") if older else tmp_path / "network"
    right = files.unfinished_name

    def wrong_for_one(path):
        return path / "no" / "such" / "folder" if path.name == file else right(path)

    monkeypatch.setattr(files, "unfinished_name", wrong_for_one)
    with pytest.raises(files.NotWritten, match=f"{file} could not be written"):
        segmenter(True).save_pretrained(folder)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert there == ({name: (written / name).read_bytes() for name in FILES} if older else {})


# The command line


def test_the_commands_write_it_and_use_it_without_tensorflow_and_pytorch(tmp_path):
    workdir = write_run(tmp_path / "run")
    (tmp_path / "photos").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "photos" / "a.png")
    for name in ("tensorflow", "torch"):  # found before those that are installed
        (tmp_path / "without" / name).mkdir(parents=True)
        (tmp_path / "without" / name / "__init__.py").write_text("raise ImportError('it is not installed here')")

    output = f"--output={tmp_path / 'network'}"
    done = run_main("--mode=export", "--format=pretrained", "--license=apache-2.0", f"--workdir={workdir}", output)
    assert done.returncode == 0, done.stderr
    assert 'license: "apache-2.0"' in (tmp_path / "network" / "README.md").read_text()
    program = [sys.executable, "main.py", "--mode=predict", f"--workdir={tmp_path / 'network'}", "--write=ids",
               f"--input={tmp_path / 'photos'}", f"--output={tmp_path / 'labels'}"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "without")}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "labels" / "ids" / "a.png"))
    np.testing.assert_array_equal(labels, labels_of("stage1", LAST)[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=pretrained", "--flip"], "are chosen where a network is used"),
        (["--license=mit"], "--license goes into a model card"),
    ],
)
def test_flags_that_the_format_does_not_know_are_refused(flags, message, tmp_path):
    done = run_main("--mode=export", f"--workdir={tmp_path}", f"--output={tmp_path}", *flags)
    assert done.returncode and message in " ".join((done.stdout + done.stderr).split())
