"""Kills a run again and again, and compares its end with that of a run that nobody touched.

    python -m benchmarks.kill_test --kills=50

The run is the demo with few steps, a tiny network and a checkpoint every few steps. It is killed (SIGKILL; one time in
five asked to stop, SIGTERM) after a random time, at whatever it is doing: preparing data, compiling, a step, saving,
making pseudo labels or prototypes, evaluating, between stages. The same command goes on, and when it comes to its end
another run begins, until all kills are spent. At the end of each, parameters, running statistics, EMA, prototypes,
optimizer states, results.json, pseudo labels and snapshots have to be identical, bit by bit, and so have histories of
metrics and scores but for times. The last line is `identical: N/N`: how many of the
kills did no harm; unless it was all of them the exit status is 1.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags, logging

from proda_jax.system import paths
from proda_jax.system.files import parse_json_lines
from proda_jax.system.interruption import EXIT_CODE

ROOT = pathlib.Path(__file__).parents[1]
STEPS = {"source": 12, "warmup": 8, "stage1": 8, "stage2": 8, "stage3": 8}
SETTINGS = {
    "save_every": 3, "evaluate_every": 6, "log_every": 1, "summaries": False, "evaluate_batch_size": 20,
    "snapshots.features": 0,
    "data.loader": "memory", "model.width": 8, "model.depths": (1, 1), "model.head_channels": 32,
    "model.feature_channels": 32,
} | {f"{name}.steps": steps for name, steps in STEPS.items()}  # fmt: skip
TIMES = ("seconds", "images_per_second")

_KILLS = flags.DEFINE_integer("kills", 50, "How often the run is killed.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")
_LONGEST = flags.DEFINE_float("longest", 30.0, "Longest time that a run is left alone, seconds.")
_KEEP = flags.DEFINE_string("folder", None, "Folder to work in, which is kept; a temporary one by default.")


def command(workdir: pathlib.Path) -> list[str]:
    overrides = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    return [sys.executable, "main.py", "--config=configs/demo.py:scratch", f"--workdir={workdir}", *overrides]


def start(workdir: pathlib.Path, log: pathlib.Path) -> subprocess.Popen:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    with log.open("a") as output:
        return subprocess.Popen(command(workdir), cwd=ROOT, env=environment, stdout=output, stderr=output)


def digest(workdir: pathlib.Path) -> dict[str, str]:
    """A hash of all that a run ends with: each stage's last checkpoint, array by array, and files."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    hashes = {}
    for path in [workdir / "results.json", workdir / "samples.npz", *sorted(workdir.glob("*/**/*.npz"))]:
        hashes[str(path.relative_to(workdir))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(workdir.glob("*/*.jsonl")):
        hashes[str(path.relative_to(workdir))] = hashlib.sha256(without_times(path).encode()).hexdigest()
    for path in sorted(workdir.glob("*/checkpoints/*-tmp*")):
        hashes[str(path.relative_to(workdir))] = "half a checkpoint, left behind"
    for stage, steps in STEPS.items():
        folder = workdir / stage / "checkpoints" / str(steps)
        for item in ("network", "training"):
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(folder.absolute() / item)
            for path, leaf in jax.tree.leaves_with_path(tree):
                if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf = jax.random.key_data(leaf)
                name = f"{stage}/{item}{jax.tree_util.keystr(path)}"
                hashes[name] = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
    return hashes


def without_times(path: pathlib.Path) -> str:
    """Lines of a history or of metrics without how long their steps took, which is never the same."""
    lines = parse_json_lines(path.read_text())
    return json.dumps([{key: value for key, value in line.items() if key not in TIMES} for line in lines])


def position(workdir: pathlib.Path) -> str:
    """Where a run stands: what exists in its folder."""
    found = []
    for stage in STEPS:
        folder = workdir / stage
        if (folder / "result.json").exists():
            found.append(f"{stage} done")
        elif folder.exists():
            saved = folder / "checkpoints"
            steps = [int(p.name) for p in saved.iterdir() if p.name.isdigit()] if saved.exists() else []
            found.append(f"{stage} at {max(steps, default=0)}")
    return ", ".join(found[-2:]) or "data"


def campaign(workdir: pathlib.Path, log: pathlib.Path, kills: int, moments: random.Random) -> tuple[int, list[str]]:
    """Runs to the end with up to so many kills; how many there were, and what went wrong besides."""
    problems = []
    for done in range(kills):
        process = start(workdir, log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(moments.uniform(0.2, _LONGEST.value))
            if status != 0:
                problems.append(f"the run ended by itself with status {status}, see {log}")
            return done, problems
        number = signal.SIGTERM if moments.random() < 0.2 else signal.SIGKILL
        process.send_signal(number)
        status = process.wait()
        print(f"  {signal.Signals(number).name} at {position(workdir)}", flush=True)
        if number == signal.SIGTERM and status not in (EXIT_CODE, -signal.SIGTERM, 0):  # the second: before it listens
            problems.append(f"SIGTERM led to status {status}, expected {EXIT_CODE}, see {log}")
    status = start(workdir, log).wait()
    return kills, problems + ([f"the run failed with status {status}, see {log}"] if status else [])


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    folder = pathlib.Path(_KEEP.value or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if start(folder / "untouched", folder / "untouched.log").wait():
        sys.exit("the untouched run failed:\n" + (folder / "untouched.log").read_text()[-2000:])
    expected = digest(folder / "untouched")
    print(f"untouched run: {time.monotonic() - started:.0f} s, {len(expected)} arrays and files to compare", flush=True)
    moments, spent, identical, number = random.Random(_SEED.value), 0, 0, 0
    while spent < _KILLS.value:
        number += 1
        workdir, log = folder / f"killed_{number}", folder / f"killed_{number}.log"
        kills, problems = campaign(workdir, log, _KILLS.value - spent, moments)
        if not problems:
            found = digest(workdir)
            differing = sorted(name for name in expected | found if found.get(name) != expected.get(name))
            problems = [f"{name} differs" for name in differing[:5]]
        spent += kills
        identical += 0 if problems else kills
        print(f"run {number}: {kills} kills, {'; '.join(problems) or 'the same end'}", flush=True)
        if not problems:
            shutil.rmtree(workdir)
        if kills == 0:
            break  # runs end before they are killed, or fail by themselves
    if not _KEEP.value and identical == spent:
        shutil.rmtree(folder)
    print(f"identical: {identical}/{_KILLS.value}")
    sys.exit(identical != _KILLS.value)


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
