"""The run behind `workdir_0_1_0.tar.xz`: what it trains with, in words that version 0.1.0 and this one understand.

`make_workdir_0_1_0.py` runs it with that version's code, and `test_older_workdirs.py` goes on with it with this one's.
Neither settings nor images may change, or the workdir is of another run; so nothing of the other tests is used here.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import tarfile
from importlib import metadata
from types import ModuleType

import numpy as np

ARCHIVE = pathlib.Path(__file__).with_name("workdir_0_1_0.tar.xz")  # the workdir in 'workdir', what came of it beside
SIZE, CLASSES = (32, 64), ("sand", "sea|side", 'the "sky"')
STAGES = ("source", "stage1", "stage2")  # the first complete
INTERRUPTED = ("stage1", 3)  # as this step was logged, after a checkpoint of the one before


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """The workdir, in a folder of its own beside what came of it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "workdir"


def config_of(base: ModuleType):
    """The settings; `base` is `configs.base` of the version that runs them."""
    c = base.get_config()
    c.task, c.stages, c.batch_size, c.summaries = "older", STAGES, 2, False
    c.log_every, c.evaluate_every, c.save_every, c.evaluate_batch_size = 1, 2, 2, 2
    c.data.label_space, c.data.classes = "custom", CLASSES
    for role in ("source", "target", "validation"):
        c.data[role].name, c.data[role].image_size = "folder", SIZE
        c.data[role].images, c.data[role].labels = "images", "labels"  # never read, see `sources_of`
    c.model.depths, c.model.width = (1, 1), 1
    c.model.dilations, c.model.head_channels, c.model.feature_channels = (2,), 32, 32
    c.model.initialisation = "he"
    c.views.crop_size, c.views.base_width, c.views.scale = SIZE, SIZE[1], (0.75, 1.25)
    c.snapshots.images, c.snapshots.held_out, c.snapshots.features = 1, 2, 0
    c.source = base.supervised("random", 2)
    c.stage1 = base.denoise("source", 4)
    c.stage1.prototype_min_pixels = c.stage1.prototype_init_min_pixels = 1
    c.stage1.consistency_weight = 0.0  # without the strong view, its step compiles in three quarters of the time
    c.stage2 = base.distill("stage1", "stage1", 2)
    for name in STAGES:
        c[name].backbone_rate = c[name].head_rate = 0.01
    return c


def further(config):
    """The settings to go on with: what is left of the stage that was interrupted, without snapshots."""
    config.stages, config.snapshots.images = STAGES[:2], 0
    return config


def images(records: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bands of colour, uint8 [records, *SIZE, 3], and their classes, uint8 [records, *SIZE]; little to compress."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, len(CLASSES), (records, 4, 8)).repeat(8, axis=1).repeat(8, axis=2)
    colors = np.array([(220, 180, 90), (20, 90, 160), (150, 200, 250)])
    image = colors[label] + 4 * generator.integers(-2, 3, (records, 1, 1, 3))
    return image.clip(0, 255).astype(np.uint8), label.astype(np.uint8)


def sources_of(config, sources: ModuleType, memory: ModuleType, action=None):
    """The data in memory; `action` is called when the step of `INTERRUPTED` is logged.

    Args:
      config: the settings.
      sources, memory: modules of the version that runs them, with `Sources`, `NoWriter` and `MemorySource`.
      action: without arguments.
    """

    class At(sources.Sources):
        @contextlib.contextmanager
        def writer(self, folder):
            writer = sources.NoWriter()

            def act(step: int, values: dict) -> None:
                if action is not None and (folder.name, step) == INTERRUPTED and "gradient_norm" in values:
                    action()

            writer.write_scalars = act
            yield writer

    given = {"source": images(4, 0), "target": (images(4, 1)[0],), "validation": images(3, 2)}
    return At(config, "unused", given={role: memory.MemorySource(*arrays) for role, arrays in given.items()})


def machine() -> str:
    """What decides the last bits of a number: processor, number of cores, library, its flags."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = sorted({line for line in lines if line.split("\t")[0].strip() in ("model name", "flags")})
    about = [*processor, platform.machine(), str(os.cpu_count()), metadata.version("jaxlib")]
    about += sorted(os.environ.get("XLA_FLAGS", "").split())
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Of the names and bits of arrays."""
    parts = (part for name in sorted(arrays) for part in (name.encode(), np.ascontiguousarray(arrays[name]).tobytes()))
    return hashlib.sha256(b"".join(parts)).hexdigest()
