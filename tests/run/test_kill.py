"""A small run is killed at random moments and ends as if nothing had happened."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits():
    command = [sys.executable, "-m", "benchmarks.kill_test", "--kills=8", "--seed=1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "identical: 8/8", result.stdout
