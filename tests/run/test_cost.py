"""What a stage costs is counted over all processes that were at it, and sizes are those of arrays that are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proda_jax.run import cost
from proda_jax.run.cost import Cost
from proda_jax.run.records import Metrics
from proda_jax.system import memory
from proda_jax.system.files import NotWritten


@pytest.fixture
def clock(monkeypatch):
    """Time that goes by only where the test says so."""
    now = [1000.0]
    monkeypatch.setattr(cost.time, "time", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_what_processes_do_before_the_first_step_adds_up_however_they_end(tmp_path, clock):
    with pytest.raises(KeyboardInterrupt), Cost(tmp_path):
        clock(30)
        raise KeyboardInterrupt  # while it makes pseudo labels, which are kept
    with Cost(tmp_path) as second:
        clock(12)
        second.prepared()
        clock(500)
        second.repeats(7.5)
    noted = json.loads((tmp_path / "cost.json").read_text())
    assert (noted["starts"], noted["preparing_seconds"], noted["repeated_seconds"]) == (2, 42.0, 7.5)
    assert second.noted == {key: value for key, value in noted.items() if key != "digest"}


def test_a_process_that_is_killed_counts_as_a_start(tmp_path):
    Cost(tmp_path).__enter__()
    assert Cost(tmp_path).noted["starts"] == 1


def test_a_disk_that_is_full_is_told_by_what_found_it_so(tmp_path, monkeypatch):
    def full(*_):
        raise NotWritten(tmp_path / "cost.json", OSError(28, "No space left on device"))

    with pytest.raises(NotWritten, match="checkpoint"), Cost(tmp_path):
        monkeypatch.setattr(cost, "write_json", full)
        raise NotWritten(tmp_path / "checkpoint", OSError(28, "No space left on device"))
    with pytest.raises(NotWritten, match="cost.json"), Cost(tmp_path):
        pytest.fail("it was not written")


def test_a_damaged_note_is_named_with_what_to_do(tmp_path):
    (tmp_path / "cost.json").write_text('{"starts": 2, "diges')
    with pytest.raises(ValueError, match=r"cost.json is damaged .*: delete it, which forgets what the stage cost"):
        Cost(tmp_path)


def test_a_steps_memory_is_that_of_what_it_takes_gives_and_holds_besides(tmp_path):
    """A product of matrices of 1 MB, twice: the first result is neither taken nor given."""
    square = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    step = jax.jit(lambda x, y: ((x @ y).sort(0) @ y, y), donate_argnums=(1,)).lower(square, square).compile()
    with Cost(tmp_path) as found:
        found.compiled(step, 3.25)
    two_taken_one_given = 3 * square.size * 4  # the other result has the memory of what was taken
    assert two_taken_one_given < found.noted["step_bytes"] <= two_taken_one_given + 4 * square.size * 4
    assert found.noted["compiling_seconds"] == 3.2


@pytest.mark.skipif(memory.peak() is None, reason="only Linux says what a process held at most")
def test_what_a_process_held_before_a_stage_is_no_part_of_its_peak(tmp_path):
    ballast = np.ones(300 * 2**20, np.uint8)
    with Cost(tmp_path) as held:
        pass
    size = held.noted["process_bytes"]
    assert size > ballast.nbytes
    del ballast
    with Cost(tmp_path / "later") as later:
        pass
    assert later.noted["process_bytes"] < size - 200 * 2**20
    with Cost(tmp_path) as again:  # the most of all its processes
        pass
    assert again.noted["process_bytes"] == size


def test_time_of_steps_that_are_taken_again_is_that_of_the_lines_after_the_checkpoint(tmp_path):
    lines = Metrics(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3, 4):
        lines.add(step, 10.0 * step, {"loss": 1.0})
    lines.close()
    assert Metrics(tmp_path / "metrics.jsonl", 4).repeated == 0
    assert Metrics(tmp_path / "metrics.jsonl", 2).repeated == 20
    assert Metrics(tmp_path / "metrics.jsonl", 0).repeated == 40
