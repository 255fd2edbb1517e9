"""Compiling for a TPU slice or a GPU that is not there; needs libtpu or the CUDA plugin (requirements-tpu, -gpu)."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

KINDS = ("source", "warmup", "stage1", "stage2")  # stage 3 is stage 2's program
SMALL = {"model.depths": (1, 1), "model.width": 8, "model.head_channels": 32, "model.feature_channels": 32}


def compile_for(device: str, programs: tuple[str, ...], **settings) -> list[str]:
    """The script's line of each program, those of `SMALL` and the demo but for these settings."""
    command = [sys.executable, "-m", "benchmarks.compile_for", "--config=configs/demo.py", f"--device={device}"]
    command += [f"--config.{name}={value}" for name, value in (SMALL | settings).items()]
    command += [f"--programs={','.join(programs)}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if "GB besides on each chip" in line]
    assert tuple(line.split()[0] for line in lines) == programs
    return lines


@pytest.mark.slow
def test_every_kind_of_step_compiles_for_a_tpu_slice():
    pytest.importorskip("libtpu")
    assert all("all-reduce" in line for line in compile_for("v5e:2x2", KINDS))


@pytest.mark.slow
def test_every_program_compiles_for_a_gpu_where_evaluation_moves_little_beside_its_convolutions():
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        pytest.skip("JAX's CUDA plugin is not installed")
    settings = {"model.dtype": "bfloat16", "data.validation.image_size": (512, 1024), "model.depths": (3, 4)}
    lines = compile_for("h200", (*KINDS, "evaluation"), **settings)
    moved = [re.search(r"products that move ([\d.]+) GB, \d+ others that move ([\d.]+) GB", line) for line in lines]
    assert all(moved)
    by_products, by_others = map(float, moved[-1].groups())
    assert by_others < by_products
