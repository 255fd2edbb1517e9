"""Small runs to which something happens, and how their end is compared with that of one to which nothing did."""

import contextlib
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from tiny import block_source, tiny_config, tiny_stage

from proda_jax.configs import base
from proda_jax.models.weights.files import load
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import NoWriter, Sources
from proda_jax.system.files import parse_json_lines
from proda_jax.system.interruption import Interruption


def config_of(**settings):
    c = tiny_config()
    c.stages, c.save_every, c.evaluate_every = ("source", "stage1"), 1, 10
    c.source = tiny_stage(base.supervised("random", 4))
    c.stage1 = tiny_stage(base.denoise("source", 4))
    c.stage1.labels_from = "source"
    stages = settings.pop("stages", c.stages)
    c.update_from_flattened_dict(settings)
    c.stages = stages
    return c


def given(**others) -> dict:
    """Data in memory; the target has no labels at all, so that asking for them raises."""
    return {
        "source": block_source(4, 0),
        "target": block_source(4, 1, labelled=False),
        "validation": block_source(3, 2),
    } | others


class At(Sources):
    """Does something when a step of a stage is logged."""

    def __init__(self, config, stage: str = "", step: int = 0, action=lambda: None):
        super().__init__(config, "unused", given=given())
        self.when, self.action = (stage, step), action

    @contextlib.contextmanager
    def writer(self, folder):
        writer = NoWriter()

        def act(step: int, values: dict) -> None:
            if (folder.name, step) == self.when and "gradient_norm" in values:
                self.action()

        writer.write_scalars = act
        yield writer


def run(workdir, config, sources: Sources | None = None, interruption: Interruption | None = None) -> dict:
    sources = sources or At(config)
    return Experiment(config, workdir, sources, devices_used=1, interruption=interruption).run()


def interrupt():
    raise KeyboardInterrupt


def checkpoint_of(folder: pathlib.Path) -> tuple[int, dict[str, bytes]]:
    """Step of a stage's last checkpoint and the bits of everything in it."""
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        step = manager.latest_step()
        items = ocp.args.Composite(network=ocp.args.StandardRestore(), training=ocp.args.StandardRestore())
        restored = manager.restore(step, args=items)
    state = {"network": restored.network, "training": restored.training}
    bits = {}
    for path, leaf in jax.tree.leaves_with_path(state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        bits[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return step, bits


def records_of(folder: pathlib.Path) -> dict[str, list | bytes]:
    """What a stage wrote down: scores and metrics but for times, and the bytes of its snapshots."""
    found: dict = {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}
    for name in ("history.jsonl", "metrics.jsonl"):
        lines = parse_json_lines((folder / name).read_text())
        found[name] = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
    return found


def assert_same_end(workdir, whole, *stages: str, config=None) -> None:
    """Going on, through the first stage or those that are named, ends as the run did that nothing happened to.

    Both are of `config_of`, or of another configuration.
    """
    original, results = whole
    stages = stages or ("source",)
    assert run(workdir, config or config_of(stages=stages))["stages"] == results["stages"][: len(stages)]
    assert (workdir / "samples.npz").read_bytes() == (original / "samples.npz").read_bytes()
    for stage in stages:
        assert checkpoint_of(workdir / stage) == checkpoint_of(original / stage)
        assert records_of(workdir / stage) == records_of(original / stage)


def checkpoints_in(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def networks_of(workdir, stages) -> dict[str, np.ndarray]:
    return {f"{stage} {name}": array for stage in stages for name, array in load(workdir / stage).arrays.items()}


def assert_close(networks: dict, expected: dict, tolerance: float) -> None:
    """Each array differs by less than a share of its largest value; of one, where that is smaller.

    Biases start at zero: in twenty steps they move by some thousandths, of which rounding is a large share.
    """
    errors = {
        name: np.abs(networks[name] - array).max() / max(np.abs(array).max(), 1.0) for name, array in expected.items()
    }
    assert max(errors.values()) < tolerance, {name: error for name, error in errors.items() if error >= tolerance}
