"""Several data sets of a role on the command line."""

import pathlib
import re
import shlex

import command
import numpy as np
import pytest
from PIL import Image

from proda_jax.configs import base, custom, gta5
from proda_jax.data.checks import check_data, data_sets
from proda_jax.data_prep.summary import Summary
from proda_jax.system import several

ROOT = pathlib.Path(__file__).parents[2]


def flags(*settings: str) -> list[str]:
    return [f"--config.data.{setting}" for setting in settings]


def test_added_data_sets_begin_with_the_first_ones_settings_but_for_its_files():
    c = custom.get_config("lite")
    c.data.source.label_values, c.data.source.skip_unlabelled = ((7, "road"),), True
    first = c.data.source.copy_and_resolve_references()
    several.add(c, flags("source[2].images=c", "source[1].images=b", "validation[0].images=v", "target.images=t"))
    sets = [list(data_sets(c.data, role)) for role in ("source", "target", "validation")]
    assert sets == [["data.source[0]", "data.source[1]", "data.source[2]"], ["data.target"], ["data.validation[0]"]]
    assert c.data.source[0].to_dict() == first.to_dict()
    own = {"images": None, "labels": None, "split": "source_2"}
    assert c.data.source[2].to_dict() == first.to_dict() | own
    assert c.data.validation[0].name == "folder"
    for one, files in zip((*c.data.source[1:], c.data.validation[0]), "bcv", strict=True):
        one.images, one.labels = files, f"{files}_labels"
    check_data(c)


def test_known_data_sets_keep_their_splits_and_a_files_own_several_are_added_to():
    c = gta5.get_config()
    base.give(c, target=(base.dataset("acdc", "fog_train", (1080, 1920)),) * 2)
    several.add(c, flags("target[0].share=1", "target[2].split=night_train"))
    several.add(c, ["--noconfig.data.source[0].skip_unlabelled"])
    assert [one.split for one in c.data.target] == ["fog_train"] * 3 and c.data.target[2].name == "acdc"
    assert list(data_sets(c.data, "source")) == ["data.source[0]"]
    before = c.to_json_best_effort()
    several.add(c, ["--config.batch_size=2", "--workdir=data.source[7]", "--config.data.source_share=1"])
    assert c.to_json_best_effort() == before


@pytest.mark.parametrize(("settings", "message"), [
    (["source[2].images=a"], r"data.source\[2\].images: there is no data.source\[1\] before it"),
    (["validation[1].images=a"], r"data.validation\[1\].images: there is no data.validation\[0\] before it"),
    (["source.images=a", "source[1].images=b"], r"data.source.images: there are several.*data.source\[0\].images"),
    (["source[1]=a"], r"data.source\[1\]: expected the data set's place from 0 and one of its settings"),
    (["source[-1].images=a"], r"data.source\[-1\].images: expected the data set's place from 0"),
    (["source[1].image=a"], r"data.source\[1\].image = 'image': expected one of .*did you mean 'images'"),
    (["target.split=a"], r"data.target.split: there are several, .*--config.data.target\[0\].split"),
    (["validation[0].images=a"], "data.validation.* no data.validation that settings could change"),
])  # fmt: skip
def test_what_is_of_no_data_set_is_refused_by_its_name(settings, message):
    c = custom.get_config()
    if settings[0].startswith("target"):
        base.give(c, target=(c.data.target,) * 2)
    if "could change" in message:
        base.give(c, validation=None)
    with pytest.raises(ValueError, match=message):
        several.add(c, flags(*settings))


def test_the_example_of_the_documentation_prepares_what_it_names(tmp_path):
    (text,) = re.findall(r"```\n(python -m data_prep[^`]*source\[1\][^`]*)```", (ROOT / "docs" / "data.md").read_text())
    _, *example = shlex.split(text.replace("\\\n", "").replace("data/", f"{tmp_path}/"))
    values = {"town": range(6), "game": (7, 11, 21, 23, 24, 26), "day_few": range(6), "dusk_few": range(1, 7)}
    pixels = np.repeat(np.arange(6, dtype=np.uint8)[:, None], 8, 1)
    for name, those in values.items():
        for kind, array in (("rgb", np.dstack([20 * pixels] * 3)), ("labels", np.array(those, np.uint8)[pixels])):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.fromarray(array).save(tmp_path / name / kind / "a.png")
    for name in ("day", "dusk"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.dstack([pixels] * 3)).save(tmp_path / name / f"{name}.png")
    done = command.run(*example)
    assert not done.returncode, done.stderr
    for name in ("source", "source_1", "target", "target_1", "validation", "validation_1"):
        assert list(Summary.load(tmp_path / "prepared" / "folder" / name / "2.0.0").splits) == [name]
        assert f"folder/{name}" in done.stdout and "without meaning" not in done.stdout
    settings = [setting for setting in example if setting.startswith("--config")]
    refused = command.run_main(*settings, f"--workdir={tmp_path}", "--config.data.source[1].share=inf")
    assert "config.data.source[1].share = inf: expected finite numbers" in refused.stderr
