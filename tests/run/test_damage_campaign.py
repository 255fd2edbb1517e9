"""Flipped bits and cut files are noticed wherever a run is read again."""

import random
import shutil

import numpy as np
import pytest

from benchmarks import damage_test
from proda_jax.report.inspection import inspect
from proda_jax.system import files


@pytest.mark.parametrize("number", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_each_random_damage_is_noticed(number, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    found = list(damage_test.targets(workdir))
    assert {target.kind for target in found} == {
        "checkpoint", "pseudo labels", "initial prototypes and the like", "snapshots", "notes", "weights",
    }  # fmt: skip
    assert damage_test.campaign(found, number, random.Random(0)) == (number, [])


def test_status_names_what_is_cut_off_of_each_kind(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    (workdir / "source" / "class_shares.npz").write_bytes(files.npz(shares=np.zeros(3)))  # as other stages have them
    found = {(target.kind, target.path.name): target for target in damage_test.targets(workdir)}
    looked_at = [target for target in found.values() if target.kind != "weights"]
    assert len(looked_at) > 12 and inspect(workdir).damaged == []
    for target in looked_at:
        # of a checkpoint all files of its databases, which leave some behind that nothing refers to any more
        data = [path for path in target.files if path.parent.name == "d"]
        whole_files = {path: path.read_bytes() for path in data or [max(target.files, key=lambda p: p.stat().st_size)]}
        for path, contents in whole_files.items():
            path.write_bytes(contents[: len(contents) // 2])
        assert any(str(target.path) in line for line in inspect(workdir).damaged), target
        for path, contents in whole_files.items():
            path.write_bytes(contents)


def test_a_damage_that_nobody_notices_is_told(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdefgh")
    careless = damage_test.Target("a file", path, lambda path: path.read_bytes().hex())
    noticed, missed = damage_test.campaign([careless], 3, random.Random(0))
    assert noticed == 0 and len(missed) == 3 and str(path) in missed[0]
    assert path.read_bytes() == b"abcdefgh"  # put right again


@pytest.mark.parametrize(("error", "counts"), [
    (ValueError("{path} is damaged"), True), (ValueError("a digit is missing"), False), (KeyError("{path}"), False),
])  # fmt: skip
def test_only_a_sentence_of_the_program_that_names_the_file_counts(error, counts, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdefgh")

    def read(path) -> str:
        if path.read_bytes() == b"abcdefgh":
            return "whole"
        raise type(error)(error.args[0].format(path=path))

    noticed, missed = damage_test.campaign([damage_test.Target("a file", path, read)], 3, random.Random(0))
    assert noticed == 3 * counts and len(missed) == 3 - noticed


def test_what_is_wrong_before_anything_is_damaged_ends_the_campaign(tmp_path):
    (tmp_path / "x").write_bytes(b"abcdefgh")

    def complains(path) -> str:
        print(f"{path} is damaged")
        return ""

    with pytest.raises(ValueError, match="what nobody damaged is not as it was written: .*/x is damaged"):
        damage_test.campaign([damage_test.Target("a file", tmp_path / "x", complains)], 3, random.Random(0))
