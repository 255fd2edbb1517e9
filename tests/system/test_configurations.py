"""Configurations are found by path and by name."""

import pathlib

import pytest

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
