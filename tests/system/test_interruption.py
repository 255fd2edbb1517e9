"""Signals that ask a run to stop, and a second run that finds the place taken."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import fixtures
import pytest
from command import python
from quick import QUICK
from survival import At, assert_same_end, checkpoints_in, config_of, run

from proda_jax.system.files import alone, is_locked
from proda_jax.system.interruption import EXIT_CODE, Interruption, Stopped

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def interruption():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    listening = Interruption()
    listening.install()
    yield listening
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves_it(number, whole, tmp_path, interruption, capsys):
    config = config_of(save_every=100)
    sources = At(config, "source", 2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="source stopped after step 2 of 4"):
        run(tmp_path, config, sources, interruption)
    assert f"{signal.Signals(number).name}: finishing this step" in capsys.readouterr().err
    assert checkpoints_in(tmp_path / "source") == ["2"]
    assert_same_end(tmp_path, whole)


def test_a_signal_in_the_last_step_of_a_stage_stops_before_the_next(whole, tmp_path, interruption):
    config = config_of()
    with pytest.raises(Stopped, match="stopped after stage source"):
        run(tmp_path, config, At(config, "source", 4, lambda: os.kill(os.getpid(), signal.SIGTERM)), interruption)
    assert (tmp_path / "source" / "result.json").exists() and not (tmp_path / "stage1").exists()
    assert_same_end(tmp_path, whole)


def test_a_signal_while_labels_are_made_stops_at_once(whole, tmp_path, interruption, monkeypatch):
    from proda_jax.data.pseudo_labels import PseudoLabels

    write, written = PseudoLabels.write, []

    def write_and_signal(self, name, label):
        write(self, name, label)
        written.append(name)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PseudoLabels, "write", write_and_signal)
    with pytest.raises(Stopped, match="SIGTERM"):
        run(tmp_path, config_of(), interruption=interruption)
    assert len(list((tmp_path / "source").glob("soft_labels*/*.npz"))) == 3
    monkeypatch.setattr(PseudoLabels, "write", write)
    assert_same_end(tmp_path, whole, "source", "stage1")


def test_a_second_signal_ends_the_program_at_once():
    """Also in a step that takes very long."""
    script = """
        import sys, time
        from proda_jax.system.interruption import Interruption

        interruption = Interruption()
        interruption.install()
        with interruption:
            print("training", flush=True)
            while not interruption.wished:
                time.sleep(0.01)
            print("wished", flush=True)
            time.sleep(60)
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for said in ("training", "wished"):
            assert process.stdout.readline().strip() == said
            process.send_signal(number)
        _, printed = process.communicate(timeout=30)
        assert process.returncode == -number and "once more stops at once" in printed


def test_the_program_keeps_a_second_one_out_and_exits_with_the_documented_status_when_it_is_told_to_stop(tmp_path):
    fixtures.write_camvid(tmp_path / "raw")
    settings = {
        "data.raw_dir": tmp_path / "raw", "stages": ("source",), "source.steps": 10**6, "source.schedule_steps": 10**6,
        "data.loader": "memory", "summaries": False, "batch_size": 2,
        "views.crop_size": (32, 32), "views.base_width": 64,
        "model.depths": (1, 1), "model.width": 4, "model.head_channels": 32, "model.feature_channels": 32,
    } | {f"data.{role}.image_size": (48, 64) for role in ("source", "target", "validation")}  # fmt: skip
    command = [*python(), "main.py", "--config=configs/camvid.py:scratch", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    one_device = os.environ | {"XLA_FLAGS": QUICK}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": one_device}
    first = subprocess.Popen(command, cwd=ROOT, **streams)
    deadline = time.monotonic() + 240
    while not is_locked(tmp_path / "run" / "lock"):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    second = subprocess.run(command, cwd=ROOT, timeout=240, **streams)
    assert second.returncode == 1
    assert second.stdout.splitlines()[-1] == (
        f"error: another process runs in {tmp_path / 'run'}: wait for it, or use another workdir"
    )
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=240)
    assert (first.returncode, EXIT_CODE) == (75, 75), printed
    assert "the same command goes on from there" in printed  # in which order two streams come is not said


def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    with alone(tmp_path / "lock", "another process runs there", wait=False):
        with pytest.raises(ValueError, match="another process runs there"):
            with alone(tmp_path / "lock", "another process runs there", wait=False):
                pytest.fail("two were let in")
    with alone(tmp_path / "lock", "another process runs there", wait=False):
        pass
