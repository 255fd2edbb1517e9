"""Configurations are found by path and by name."""

import pathlib

import command
import pytest

from proda_jax.configs import base, demo
from proda_jax.system import configurations

ROOT = pathlib.Path(__file__).parents[2]


def test_each_shipped_configuration_has_a_name_and_is_found_by_it_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ("__init__", "base", "deeplabv2", "lite", "small", "common")  # of which the others are made
    files = {path for path in (ROOT / "configs").rglob("*.py") if path.stem not in parts}
    found = {configurations.find(name).resolve() for name in configurations.names()}
    assert found == files and {"demo", "gta5", "studies/table8"} <= set(configurations.names())
    for wanted in ("demo", "configs/demo.py", "./configs/demo.py", "demo.py"):
        assert configurations.find(wanted).resolve() == ROOT / "configs" / "demo.py"


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for own in ("configs/demo.py", "gta5"):
        (tmp_path / own).write_text("")
        assert configurations.find(own).resolve() == tmp_path / own
    (tmp_path / "camvid").mkdir()  # a folder is no configuration
    assert configurations.find("camvid").resolve() == ROOT / "configs" / "camvid.py"


@pytest.mark.parametrize("wanted", ["dmeo", "configs/dmeo.py", "base", "studies/common", "/configs/demo.py", ""])
def test_what_is_neither_is_refused_with_all_names(wanted):
    with pytest.raises(ValueError, match="one of .*camvid, .*custom, .*dacs, .*gta5, .*studies/table9") as refusal:
        configurations.find(wanted)
    assert ("did you mean 'demo'" in str(refusal.value)) == ("dmeo" in wanted)


@pytest.mark.parametrize(("given", "message"), [
    ("--config.data.source.imagez=x", "data.source.imagez: data.source has no setting 'imagez'; did you mean images"),
    ("-config.data.source.imagez", "data.source has no setting 'imagez'"),
    ("--noconfig.stage1.hard_labelz", "stage1 has no setting 'hard_labelz'; did you mean hard_labels"),
    ("--config.stagez.x=1", "the configuration has no setting 'stagez'; did you mean stages"),
    ("--config.qwerty=1", "has no setting 'qwerty'; it has batch_size, .*, warmup"),
    ("--config.batch_size.x=1", "batch_size has no setting 'x'; it has none, as it is a value"),
    ("--config.stages[0]=a", "stages is set as a whole, without brackets, as --config.stages="),
    ("--config.batch_size[0]=1", "batch_size is set as a whole"),
    ("--config.data.validation[2].share=1", "there are 2 of data.validation, counted from 0"),
    ("--config.data.validation[1].shares=1", r"data.validation\[1\] has no setting 'shares'; did you mean share"),
    ("--config.stage1..steps=1", "expected the names of a setting and its sections with points between them"),
    ("--config.=1", "expected the names of a setting"),
])  # fmt: skip
def test_settings_that_there_are_not_are_refused_by_name(given, message):
    c = demo.get_config()
    base.give(c, validation=(c.data.validation, c.data.validation))
    configurations.check_settings(c, "config", ["main.py", "--config.seed=1", "--config.data.validation[1].share=1"])
    with pytest.raises(ValueError, match=f"^--config.*{message}"):
        configurations.check_settings(c, "config", ["main.py", given])


def test_a_misspelt_setting_ends_a_command_without_a_traceback():
    refused = command.run_main("--config=demo", "--workdir=nowhere", "--config.stage1.stepz=1")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "--config.stage1.stepz: stage1 has no setting 'stepz'; did you mean steps?" in refused.stderr
