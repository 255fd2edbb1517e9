"""Compiles every stage's train step for a TPU slice that need not be there, and says what it takes.

    pip install -r requirements-tpu.txt
    python -m benchmarks.compile_tpu --config=configs/gta5.py                      at the configuration's sizes
    python -m benchmarks.compile_tpu --config=configs/gta5.py --topology=v5e:2x4 --config.batch_size=8

It shows that each step compiles for that slice, its memory on each chip, and its collectives; not its speed.
"""

import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no cloud for its metadata

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import config_flags

from benchmarks import hlo
from benchmarks.programs import Programs
from proda_jax import devices

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Slice to compile for.")
_PROGRAMS = flags.DEFINE_list("programs", None, "Stages, evaluation, prediction; default: all stages.")


def main(_: list[str]) -> None:
    config = _CONFIG.value
    topology = topologies.get_topology_desc(platform="tpu", topology_name=_TOPOLOGY.value)
    mesh = Mesh(np.array(topology.devices), (devices.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    chips = len(topology.devices)
    print(f"{_TOPOLOGY.value}: {chips} chips, batch {config.batch_size}, {config.model.dtype}", flush=True)
    programs = Programs(config, mesh)
    for name in _PROGRAMS.value or config.stages:
        started, program = time.monotonic(), programs.named(name)
        compiled = program.function.lower(*program.abstract()).compile()
        memory, sent = compiled.memory_analysis(), hlo.collectives(compiled.as_text())
        held, besides = (n / 1e9 for n in (memory.argument_size_in_bytes, memory.temp_size_in_bytes))
        print(
            f"{name:<12} {held:6.2f} GB of state and batch, {besides:6.2f} GB besides on each chip; "
            f"{hlo.in_words(sent)}; compiled in {time.monotonic() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
