"""Compiling for a TPU slice or a GPU that is not there; needs libtpu or the CUDA plugin (requirements-tpu, -gpu)."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import types

import pytest

from benchmarks.programs import devices_in_words

ROOT = pathlib.Path(__file__).parents[2]

KINDS = ("source", "warmup", "stage1", "stage2")  # stage 3 is stage 2's program
MOVED = re.compile(r"products that move ([\d.]+) GB, \d+ others that move ([\d.]+) GB")
needs_cuda = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="JAX's CUDA plugin is not installed",
)
SMALL = {"model.depths": (1, 1), "model.width": 8, "model.head_channels": 32, "model.feature_channels": 32}


def compile_for(device: str, programs: tuple[str, ...], config: str = "demo", settings: dict = SMALL) -> list[str]:
    """The script's line of each program."""
    command = [sys.executable, "-m", "benchmarks.compile_for", f"--config=configs/{config}.py", f"--device={device}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()] + [f"--programs={','.join(programs)}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stdout.splitlines() if "GB besides on each device" in line]
    assert tuple(line.split()[0] for line in lines) == programs
    return lines


def test_a_device_that_nothing_compiles_for_is_refused_with_what_it_needs():
    command = [sys.executable, "-m", "benchmarks.compile_for", "--config=configs/demo.py", "--device=h300"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    said = result.stdout + result.stderr
    assert all(part in said for part in ("nothing compiles for 'h300'", "requirements-gpu.txt", "requirements-tpu.txt"))


def test_devices_are_told_from_chips():
    cores = [types.SimpleNamespace(coords=[x, y, 0]) for x in (0, 1) for y in (0, 1) for _ in range(2)]
    assert devices_in_words(cores) == "8 devices on 4 chips"
    assert devices_in_words(cores[::2]) == "4 devices"
    assert devices_in_words([types.SimpleNamespace(id=0)]) == "1 device"


@pytest.mark.slow
def test_every_kind_of_step_compiles_for_a_tpu_slice():
    pytest.importorskip("libtpu")
    assert all("all-reduce" in line for line in compile_for("v5e:2x2", KINDS))


@pytest.mark.slow
@needs_cuda
def test_every_kind_of_step_compiles_for_a_gpu():
    assert all(MOVED.search(line) for line in compile_for("h200", KINDS))


@pytest.mark.slow
@needs_cuda
def test_evaluation_on_a_gpu_moves_little_beside_its_convolutions():
    """Bias, shortcut and rectifier are computed together with them: the paper's sizes."""
    (line,) = compile_for("h200", ("evaluation",), "gta5", {"model.dtype": "bfloat16"})
    by_products, by_others = map(float, MOVED.search(line).groups())
    assert by_others < by_products / 4
