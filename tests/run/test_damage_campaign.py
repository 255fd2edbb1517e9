"""Flipped bits and cut files are noticed wherever a run is read again."""

import random
import shutil

import pytest

from benchmarks import damage_test


@pytest.mark.parametrize("number", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_each_random_damage_is_noticed(number, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    found = list(damage_test.targets(workdir))
    assert {target.kind for target in found} == {"checkpoint", "pseudo labels", "initial prototypes", "weights"}
    assert damage_test.campaign(found, number, random.Random(0)) == (number, [])


def test_a_damage_that_nobody_notices_is_told(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abcdefgh")
    careless = damage_test.Target("a file", path, lambda path: path.read_bytes().hex())
    noticed, missed = damage_test.campaign([careless], 3, random.Random(0))
    assert noticed == 0 and len(missed) == 3 and str(path) in missed[0]
    assert path.read_bytes() == b"abcdefgh"  # put right again
