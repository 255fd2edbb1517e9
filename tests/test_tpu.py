"""Compiling for a TPU that is not there; needs libtpu (requirements-tpu.txt)."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


KINDS = ("source", "warmup", "stage1", "stage2")  # stage 3 is stage 2's program
SMALL = {"model.depths": (1, 1), "model.width": 8, "model.head_channels": 32, "model.feature_channels": 32}


@pytest.mark.slow
def test_every_kind_of_step_compiles_for_a_tpu_slice():
    pytest.importorskip("libtpu")
    command = [sys.executable, "-m", "benchmarks.compile_tpu", "--config=configs/demo.py"]
    command += [f"--config.{name}={value}" for name, value in SMALL.items()] + [f"--programs={','.join(KINDS)}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if "GB besides on each chip" in line]
    assert tuple(line.split()[0] for line in lines) == KINDS
    assert all("all-reduce" in line for line in lines)
