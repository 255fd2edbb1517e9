"""Makes `workdir_0_1_0.tar.xz` with the code of version 0.1.0, the last commit before the package got its rooms.

    git worktree add /tmp/proda_0_1_0 9bee193
    PYTHONPATH=/tmp/proda_0_1_0 python tests/support/make_workdir_0_1_0.py

The archive holds `workdir`, of a run that was interrupted in its second stage, and beside it what version 0.1.0 itself
says of it and what it ended in as it went on: `expected.json`, and `labels.npy` of the validation images.
"""

import os

from quick import FLAGS

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(["--xla_force_host_platform_device_count=4", *FLAGS])  # as in tests

import json
import pathlib
import shutil
import tarfile
import tempfile

import numpy as np
from ml_collections import ConfigDict
from older_run import ARCHIVE, STAGES, config_of, digest, further, images, machine, sources_of
from proda_jax.experiment import Experiment

from configs import base  # all of these of version 0.1.0
from proda_jax import load, sources
from proda_jax.data import memory
from proda_jax.models import weights


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def experiment(workdir: pathlib.Path, config: ConfigDict, action=None) -> Experiment:
    return Experiment(config, workdir, sources_of(config, sources, memory, action), devices_used=1)


def main() -> None:
    folder = pathlib.Path(tempfile.mkdtemp())
    workdir, beyond, config = folder / "workdir", folder / "beyond", config_of(base)
    try:
        experiment(workdir, config, kill).run()
    except Killed:
        print("interrupted")
    shutil.copytree(workdir, beyond)
    seen = load(workdir)
    assert seen.card.stage == STAGES[0]
    np.save(folder / "labels.npy", np.stack([seen(image) for image in images(3, 2)[0]]))
    expected = {"machine": machine(), "evaluation": experiment(workdir, config).evaluate()}
    expected["results"] = experiment(beyond, further(config)).run()
    lines = (beyond / "stage1" / "metrics.jsonl").read_text().splitlines()
    expected["metrics"] = [json.loads(line) for line in lines]
    expected["networks"] = {name: digest(weights.load(beyond / name).arrays) for name in config.stages}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
    for lock in workdir.rglob("lock"):
        lock.unlink()
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for name in ("workdir", "expected.json", "labels.npy"):
            archive.add(folder / name, name, filter=anonymous)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size} bytes")
    shutil.rmtree(folder)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the name of who made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
