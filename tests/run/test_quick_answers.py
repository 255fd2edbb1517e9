"""What needs no JAX is said without it: help, the state of a workdir, what is refused."""

import json
import pathlib
import subprocess
import sys

import pytest

from proda_jax.configs import demo

ROOT = pathlib.Path(__file__).parents[2]
LARGE = ("jax", "tensorflow", "flax", "optax", "orbax", "clu", "scipy", "matplotlib")
SECONDS = 3.0  # of processor time, on slow machines; on a quick one it is half a second
CHECKOUT = "runpy.run_path('main.py', run_name='__main__')"
INSTALLED = "from proda_jax.cli.main import run; run()"  # which is what pip makes of [project.scripts]
SCRIPT = """
import json, runpy, sys, time
sys.path.insert(0, ".")
sys.argv = sys.argv[1:]
try:
    {start}
finally:
    large = [name for name in {large} if name in sys.modules]
    print(json.dumps([large, time.process_time()]))
"""
DEMO = ("--config=demo", "--workdir={workdir}")


@pytest.mark.parametrize(
    "start, flags, said",
    [
        (INSTALLED, ("--help",), "--workdir"),
        (CHECKOUT, ("--mode=status", "--workdir={workdir}"), "source"),
        (CHECKOUT, ("--mode=trian",), "train"),
        (CHECKOUT, (*DEMO, "--config.stage1.temprature=2"), "temperature"),
        (INSTALLED, (*DEMO, "--config.batch_size=0"), "config.batch_size = 0: expected at least 1"),
        (CHECKOUT, (*DEMO, "--config.stage1.weighting=prototype"), "did you mean 'prototypes'?"),
        (INSTALLED, (*DEMO, "--config.stage2.init=stage3"), "config.stage2.init = 'stage3': expected one of"),
    ],
    ids=["help", "status", "a mode", "a name", "a number", "a choice", "a stage"],
)
def test_no_large_library_is_imported_to_answer(start, flags, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(demo.get_config().to_dict()))
    script = SCRIPT.format(start=start, large=LARGE)
    command = [sys.executable, "-c", script, "proda", *(flag.format(workdir=tmp_path) for flag in flags)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    large, seconds = json.loads(result.stdout.splitlines()[-1])
    assert said in result.stdout + result.stderr
    assert not large
    assert seconds < SECONDS
