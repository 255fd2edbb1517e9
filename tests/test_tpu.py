"""Compiling for a TPU that is not there; needs libtpu (requirements-tpu.txt)."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_every_kind_of_step_compiles_for_a_tpu_slice():
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "benchmarks.compile_tpu", "--config=configs/demo.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if "GB besides on each chip" in line]
    assert [line.split()[0] for line in lines] == ["source", "warmup", "stage1", "stage2", "stage3"]
    assert all("all-reduce" in line for line in lines)
