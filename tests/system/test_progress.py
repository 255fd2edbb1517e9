"""What is shown while something takes time: lines in a log, a bar in a terminal, nothing of what is done at once."""

import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from fcntl import ioctl

import pytest

from proda_jax.system import progress

ROOT = pathlib.Path(__file__).parents[2]
STEPS = """
import time
from proda_jax.system import progress
progress.SOON = 0.05
with progress.progress("stage1", 40, "steps", done=10) as bar:
    with bar.during("compiling"):
        time.sleep(0.3)
    for step in range(11, 41):
        bar.update()
        time.sleep(0.02)
        if step % 10 == 0:
            bar.show(["8.25 images/s", "mIoU 26.3"] + [f"loss_{i} {step}" for i in range(9)])
            with progress.progress("stage1: evaluating", 3, leave=False) as inner:
                for _ in range(3):
                    time.sleep(0.1)
                    inner.update()
with progress.phase("opening"):
    time.sleep(0.2)
with progress.phase("passing", leave=False):
    time.sleep(0.2)
"""


@pytest.fixture
def clock(monkeypatch):
    """Sets the time, in seconds."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def in_terminal(code: str, columns: int) -> str:
    """What a program writes to a terminal of that width."""
    terminal, inside = pty.openpty()
    ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=inside, stderr=inside)
    os.close(inside)
    written = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            piece = b""
        if not piece:
            break
        written += piece
    os.close(terminal)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_log_gets_a_line_at_first_then_with_new_values_twice_a_minute_and_at_the_end(clock, capsys):
    with progress.progress("stage1", 100, "steps") as bar:
        for step in range(1, 101):
            clock.now += 7
            bar.update()
            if step % 2 == 0:
                bar.show([f"loss {step}"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "stage1: 1/100 steps (1 %)"
    # after step 1, at 7 s, the next logged step half a minute later is step 6, at 42 s, then 11 would not be logged
    assert lines[1] == "stage1: 6/100 steps (6 %), 10:58 left, loss 6"
    assert [int(line.split()[-1]) for line in lines[1:]] == [*range(6, 100, 6), 100]
    assert lines[-1] == "stage1: 100/100 steps (100 %), loss 100" and len(lines) == len(set(lines))


def test_a_log_hears_of_new_scores_at_once(clock, capsys):
    with progress.progress("stage1", 10, "steps") as bar:
        bar.update(9)
        bar.show(["mIoU 20.0"])
        bar.refresh()
        bar.update()
        bar.show(["mIoU 21.0"])
        bar.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[-1] for line in lines] == ["stage1: 9/10 steps (90 %)", "mIoU 20.0", "mIoU 21.0"]


def test_a_log_hears_of_a_score_once_though_a_line_is_due(clock, capsys):
    with progress.progress("stage1", 10, "steps") as bar:
        bar.update(9)
        clock.now += progress.EVERY
        bar.show(["mIoU 20.0"])
        bar.refresh()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_log_does_not_hear_of_parts_that_take_no_time(capsys):
    with progress.progress("stage1: evaluating", 100, leave=False) as bar:
        with bar.compiling():
            pass
        bar.update(100)
    with progress.phase("opening"):
        pass
    assert capsys.readouterr().err == ""


def test_a_log_hears_once_of_parts_and_phases_that_take_time(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SOON", 0.02)
    with progress.progress("stage1: evaluating", 100, leave=False) as bar:
        with bar.compiling():
            time.sleep(0.2)
        bar.update(50)
        with bar.compiling():  # which is done
            time.sleep(0.1)
        bar.update(50)
    with progress.progress("soft labels", 10) as bar, bar.compiling():
        time.sleep(0.2)
    with progress.phase("opening"):
        time.sleep(0.2)
    assert capsys.readouterr().err.splitlines() == [
        "stage1: evaluating (compiling): 100 images ...", "soft labels (compiling) ...",
        "soft labels: 0/10 images (0 %)", "opening ...",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def written():
    """What the program says in a log, and in terminals of 80 and 120 columns; at once, as it mostly waits."""
    with ThreadPoolExecutor() as pool:
        log = pool.submit(subprocess.run, [sys.executable, "-c", STEPS], cwd=ROOT, capture_output=True, text=True)
        terminals = {columns: pool.submit(in_terminal, STEPS, columns) for columns in (80, 120)}
        return {"log": log.result()} | {columns: found.result() for columns, found in terminals.items()}


def test_a_log_has_no_control_characters(written):
    """The same program as in a terminal below."""
    result = written["log"]
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and "\r" not in result.stderr and "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == "stage1 (compiling) ..." and lines[1] == "stage1: 11/40 steps (27 %)"
    assert lines[-3].startswith("stage1: 40/40 steps (100 %), 8.25 images/s, mIoU 26.3, loss_0 40")
    assert lines[-2:] == ["opening ...", "passing ..."] and lines[2:-3] == ["stage1: evaluating: 3 images ..."] * 3


@pytest.mark.parametrize(("columns", "shown"), [(80, 1), (120, 5)])
def test_a_terminal_gets_a_bar_that_fits_its_width_and_leaves_out_what_matters_least(columns, shown, written):
    drawn = [re.sub(r"\x1b\[\w", "", piece) for piece in re.split(r"[\r\n]+", written[columns])]
    assert max(map(len, drawn)) <= columns
    bars = [piece for piece in drawn if piece.startswith("stage1 ") and "40/40 steps" in piece]
    assert "100%|" in bars[-1] and "8.25 images/s, mIoU 26.3" in bars[-1]
    assert re.findall(r"loss_(\d) 40", bars[-1]) == [str(i) for i in range(shown)]  # whole words alone
    assert any(piece.startswith("stage1 (compiling)") and "10/40 steps" in piece for piece in drawn)
    assert any(re.search(r"[23]\d/40 steps, 00:0\d left", piece) for piece in drawn)
    assert any("stage1: evaluating" in piece and "2/3 images" in piece for piece in drawn)
    assert "opening ...\r\n" in written[columns]  # which stays there
    assert any(piece.startswith("passing ...") for piece in drawn) and not drawn[-1].strip()  # which does not


def test_of_several_hosts_the_others_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_silent", False)
    progress.silence()
    progress.say("something")
    for kind in (progress.Bar, progress.Lines):
        with kind("stage1", 2, "steps") as bar:
            bar.update(2)
            bar.show(["loss 1"])
    assert capsys.readouterr().err == ""


def test_a_notebook_is_no_log(monkeypatch):
    assert not progress.is_live()  # as pytest captures
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert progress.is_live()


def test_more_units_than_were_announced_are_never_more_than_all(capsys):
    with progress.progress("predicting", 2, "images") as shown:
        for _ in range(5):
            shown.update()
    assert shown.total == 5 and "5/5 images (100 %)" in capsys.readouterr().err
