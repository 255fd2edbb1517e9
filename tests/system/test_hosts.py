"""Two hosts on this machine, each with one device, against one host with two devices: the same training."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable

import fixtures
import numpy as np
import pytest
from command import python
from quick import QUICK

from proda_jax.models.weights.files import load
from proda_jax.system.interruption import EXIT_CODE

ROOT = pathlib.Path(__file__).parents[2]
STAGES = ("source", "warmup", "stage1", "stage2", "stage3")
SETTINGS = {
    "warmup.init": "source", "batch_size": 2, "evaluate_batch_size": 1, "save_every": 20,
    "model.depths": (1, 1), "model.width": 4, "model.head_channels": 32, "model.feature_channels": 32,
    "views.crop_size": (32, 32), "views.base_width": 64, "data.loader": "memory", "summaries": True,
    "snapshots.features": 0,
} | {f"data.{role}.image_size": (48, 64) for role in ("source", "target", "validation")}  # fmt: skip


def start(workdir: pathlib.Path, settings: dict, devices: int, *flags: str, **environment: str) -> subprocess.Popen:
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [*python(), "main.py", "--config=configs/camvid.py:scratch", f"--workdir={workdir}", *overrides, *flags]
    flags = f"--xla_force_host_platform_device_count={devices} {QUICK}"
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags} | environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def free_port(among: Iterable[int] = (0,)) -> int:
    """A port that nobody uses: any, or one of these."""
    for port in among:
        with contextlib.suppress(OSError), socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            return listening.getsockname()[1]
    raise OSError("all of these ports are taken")


def start_two_hosts(workdir: pathlib.Path, settings: dict) -> list[subprocess.Popen]:
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    return [start(workdir, settings, 1, coordinator, "--hosts=2", f"--host={i}") for i in range(2)]


def end(running: list[subprocess.Popen], code: int = 0) -> list[str]:
    """What both printed, once they have ended with this exit status."""
    printed = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [code] * 2, printed[0][-3000:] + printed[1][-3000:]
    return printed


def check(tmp_path: pathlib.Path, steps: int, stages: tuple[str, ...], **others) -> None:
    fixtures.write_camvid(tmp_path / "raw", dusk=4, dusk_train_labels=False)
    settings = SETTINGS | {"data.raw_dir": tmp_path / "raw", "stages": stages} | others
    settings |= {f"{stage}.steps": steps for stage in stages}
    first, second = end(start_two_hosts(tmp_path / "two", settings))
    assert "mIoU last" in first and "mIoU last" not in second  # one of them reports
    process = start(tmp_path / "one", settings, 2)
    assert process.communicate(timeout=900) and process.returncode == 0
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert [stage["name"] for stage in results[1]["stages"]] == list(stages)
    for stage in stages:
        networks = [load(tmp_path / name / stage).arrays for name in ("one", "two")]
        for name, expected in networks[0].items():
            scale = max(np.abs(expected).max(), 1e-3)  # biases before a normalisation stay at zero, but for rounding
            assert np.abs(networks[1][name] - expected).max() < 1e-3 * scale, f"{stage} {name}"
    labels = [sorted(path.name for path in (tmp_path / name).glob("*/*labels*/*.npz")) for name in ("one", "two")]
    for stage in stages:  # one of them writes metrics
        assert len(list((tmp_path / "two" / stage / "summaries").iterdir())) == 1
    assert labels[0] == labels[1] and len(labels[0]) == 4 * sum(stage.startswith("stage") for stage in stages)


@pytest.mark.slow
def test_two_hosts_train_like_one(tmp_path):
    check(tmp_path, 2, ("source",), **{"snapshots.images": 0})


@pytest.mark.slow
def test_two_hosts_train_like_one_for_twenty_steps_of_every_stage(tmp_path):
    """At the rate of stage 1: at higher ones rounding in float32 soon flips an argmax, and they part."""
    rates = {f"{stage}.{part}_rate": 1e-4 for stage in STAGES for part in ("backbone", "head")}
    check(tmp_path, 20, STAGES, **rates)


@pytest.mark.slow
def test_a_notice_of_preemption_to_one_host_stops_both_after_the_same_step_and_they_go_on(tmp_path):
    fixtures.write_camvid(tmp_path / "raw", dusk=4, dusk_train_labels=False)
    # in the second stage, whose steps begin anew
    settings = SETTINGS | {"data.raw_dir": tmp_path / "raw", "stages": ("source", "warmup"), "source.steps": 20}
    settings |= {"warmup.steps": 300, "save_every": 5, "evaluate_every": 300, "log_every": 1}
    checkpoints = tmp_path / "run" / "warmup" / "checkpoints"
    running = start_two_hosts(tmp_path / "run", settings)
    deadline = time.time() + 300
    while not (checkpoints / "5").exists() and time.time() < deadline:
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)  # which JAX takes for a notice, and tells the others
    first, _ = end(running, EXIT_CODE)
    step = int(re.search(r"warmup stopped after step (\d+) of 300", first)[1])
    assert step >= 5 and (checkpoints / str(step)).exists()
    first, _ = end(start_two_hosts(tmp_path / "run", settings))
    assert int(re.search(r"warmup: (\d+)/300 steps", first)[1]) == step + 1  # the first that is taken
    lines = (tmp_path / "run" / "warmup" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 301))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stages"][1]["steps"] == 300


@pytest.mark.slow
def test_hosts_find_each_other_by_what_slurm_tells_its_processes(tmp_path):
    fixtures.write_camvid(tmp_path / "raw", dusk=4, dusk_train_labels=False)
    settings = SETTINGS | {"data.raw_dir": tmp_path / "raw", "stages": ("source",), "source.steps": 2}
    first_port = 61440  # JAX derives the port from the job's number
    job = free_port(range(first_port, 65536)) - first_port
    told = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": 1, "SLURM_NTASKS": 2}
    first, second = end([
        start(tmp_path / "run", settings, 1, "--distributed",
              **{name: str(value) for name, value in (told | {"SLURM_PROCID": i, "SLURM_LOCALID": i}).items()})
        for i in range(2)
    ])  # fmt: skip
    assert "2 devices of 2 hosts" in first and "mIoU last" in first and "mIoU last" not in second


@pytest.mark.slow
def test_a_host_that_refuses_its_settings_leaves_none_waiting(tmp_path):
    fixtures.write_camvid(tmp_path / "raw", dusk=4, dusk_train_labels=False)
    settings = SETTINGS | {"data.raw_dir": tmp_path / "raw", "stages": ("source",), "source.steps": 2}
    coordinator = (f"--coordinator=127.0.0.1:{free_port()}", "--hosts=2")
    good = start(tmp_path / "run", settings, 1, *coordinator, "--host=0")
    bad = start(tmp_path / "run", settings | {"batch_size": 3}, 1, *coordinator, "--host=1")
    assert "error: config.batch_size = 3 does not divide" in bad.communicate(timeout=120)[0]
    assert bad.returncode == 1
    good.communicate(timeout=300)
    assert good.returncode != 0
