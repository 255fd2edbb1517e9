"""Whether the input keeps up: a step on batches that come from PNG files, beside the same step on one batch.

    python -m benchmarks.fed_step --config=configs/gta5.py --config.model.dtype=bfloat16              on an accelerator
    python -m benchmarks.fed_step --config=configs/demo.py:scratch                                        on a CPU

Frames of the configuration's sizes are rendered, written as PNG files and prepared as users' data are; pseudo labels
are stored as those of a stage are. Then whole rounds of steps are timed in turn, and the ratio of their medians is
printed: 1 where the device never waits. On a CPU the step and the decoding share the cores, so that it is above 1 by
what decoding takes.
"""

import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax
import ml_collections
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from PIL import Image

from benchmarks.programs import Programs
from proda_jax.adaptation.stages import kinds
from proda_jax.configs import base
from proda_jax.data.label_spaces import label_space
from proda_jax.data.pseudo_labels import PseudoLabels, with_pseudo_labels
from proda_jax.data_prep.demo_streets import render
from proda_jax.run import train
from proda_jax.run.sources import Sources
from proda_jax.system import devices, paths
from proda_jax.system.refusals import choose

NOISE = 2.0  # grey levels, which give frames a camera's file size

_CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py:scratch", "Configuration.")
_STAGE = flags.DEFINE_string("stage", "stage1", "Stage whose step is timed.")
_FRAMES = flags.DEFINE_integer("frames", 8, "Frames of each domain.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds of each kind, of which the median counts.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in a round.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")


def write_frames(folder: pathlib.Path, domain: str, size: tuple[int, int]) -> None:
    """Images and labels of a domain as PNG files."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(_FRAMES.value):
        small = (min(size[0], 512), min(size[1], 1024))
        rendered = map(Image.fromarray, render(domain, i, small))
        image, label = (picture.resize(size[::-1], Image.Resampling.NEAREST) for picture in rendered)
        noise = np.random.default_rng(i).normal(0, NOISE, (*size, 3))
        image = np.clip(np.asarray(image) + noise, 0, 255).round().astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        label.save(folder / "labels" / f"{i}.png")


def with_frames(config: ml_collections.ConfigDict, folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration on rendered frames of the sizes that it names."""
    classes = label_space("cityscapes19").classes
    config.data.label_space, config.data.classes = "custom", classes
    config.data.data_dir = str(folder / "prepared")
    for role in ("source", "target"):
        size = tuple(config.data[role].image_size)
        write_frames(folder / role, role, size)
        config.data[role] = base.folder(role, f"{folder}/{role}/images", f"{folder}/{role}/labels", size)
    return config


def batches(config: ml_collections.ConfigDict, folder: pathlib.Path, example: dict) -> Iterator[dict]:
    """Training batches from the files; pseudo labels are those of the example."""
    sources, stage = Sources(config, folder), config[_STAGE.value]
    source = sources.open("source").training_batches(config.batch_size, seed=0, labels=True)
    data = sources.open("target")
    target = data.training_batches(config.batch_size, seed=1, labels=kinds.of(stage).target(stage) == "labels")
    if needed := kinds.of(stage).pseudo_labels:
        kind = needed.name
        store = PseudoLabels(folder / "labels", {"kind": kind})
        for name in data.names:
            store.write(name, np.asarray(example["target"][kind][0]))
        target = with_pseudo_labels(target, store, data.names, kind)
    return iter(train.merge_batches(source, target, 0))


def seconds(step, state, teacher, given: Iterator[dict]) -> tuple[float, object]:
    """Seconds of a step, on average over a round."""
    started = time.perf_counter()
    for batch in itertools.islice(given, _STEPS.value):
        state, metrics = step(state, batch, teacher)
        devices.block_on_cpu(metrics)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - started) / _STEPS.value, state


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    config, mesh = _CONFIG.value, devices.make_mesh()
    choose("stage", _STAGE.value, tuple(config.stages))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = with_frames(config, folder)
        program = Programs(config, mesh).named(_STAGE.value)
        state, example, teacher = program.concrete()
        step = program.function.lower(state, example, teacher).compile()
        fed = devices.prefetch(batches(config, folder, example), mesh)
        times: dict[str, list[float]] = {"one batch": [], "from files": []}
        _, state = seconds(step, state, teacher, fed)  # fills the queues
        for _ in range(_ROUNDS.value):
            for kind, given in (("one batch", itertools.repeat(example)), ("from files", fed)):
                took, state = seconds(step, state, teacher, given)
                times[kind].append(took)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    for kind, median in medians.items():
        print(f"{_STAGE.value}, {kind}: {1e3 * median:.1f} ms a step")
    ratio = medians["from files"] / medians["one batch"]
    print(f"ratio {ratio:.3f}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(medians | {"ratio": ratio}, indent=2))


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
