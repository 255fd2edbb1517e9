"""Compiles every stage's train step for a TPU slice that need not be there, and says what it takes.

    pip install -r requirements-tpu.txt
    python -m benchmarks.compile_tpu --config=configs/gta5.py                      at the configuration's sizes
    python -m benchmarks.compile_tpu --config=configs/gta5.py --topology=v5e:2x4 --config.batch_size=8

It shows that each step compiles for that slice, its memory on each chip, and its collectives; not its speed.
"""

import functools
import os
import re
import time
from collections import Counter

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no cloud for its metadata

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import config_flags

from proda_jax import devices, prototypes, settings
from proda_jax.data.label_spaces import label_space
from proda_jax.models.resnet import output_size
from proda_jax.stages import build, denoise

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Slice to compile for.")
COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def abstract_batch(config, stage, classes: int) -> dict:
    """Shapes of a global batch of a stage."""
    count = config.batch_size

    def images(role: str) -> dict:
        size = tuple(config.data[role].image_size)
        return {"image": jax.ShapeDtypeStruct((count, *size, 3), jnp.uint8),
                "label": jax.ShapeDtypeStruct((count, *size), jnp.uint8)}  # fmt: skip

    source, target = images("source"), images("target")
    size = target.pop("label").shape[1:]
    batch = {"source": source, "slot": jax.ShapeDtypeStruct((count,), jnp.int32)}
    if stage.kind == "denoise":
        grid = output_size(size)
        target["soft_label"] = jax.ShapeDtypeStruct((count, *grid, classes), jnp.float16)
    if stage.kind == "distill":
        target["hard_label"] = jax.ShapeDtypeStruct((count, *size), jnp.uint8)
    return batch | ({"target": target} if stage.kind != "supervised" else {})


def compile_stage(config, name: str, mesh: Mesh) -> dict:
    """Compiles a stage's step; what it takes."""
    stage, space = config[name], label_space(config.data.label_space, config.data.classes, config.data.colors)
    make = functools.partial(build.network, config.model, len(space), axis_name=devices.AXIS)
    model = make(extra_norm=settings.has_extra_norm(config, name))
    teacher = make(extra_norm=settings.has_extra_norm(config, stage.teacher)) if "teacher" in stage else None
    setup = build.setup(config, name, model=model, teacher=teacher, steps_per_epoch=1000)

    def variables(network) -> dict:
        example = jnp.zeros((1, *config.views.crop_size, 3))
        return network.clone(axis_name=None).init(jax.random.key(0), example, train=False)

    def state():
        start = None
        if stage.kind == "denoise" and denoise.needs_momentum_encoder(stage):
            channels = config.model.feature_channels if config.model.head == "released" else 32 * config.model.width
            start = prototypes.empty(len(space), channels)
        return build.create_state(setup, jax.random.key(0), variables(model), start)

    def placed(tree, spec: P):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    step = devices.map_step(
        functools.partial(build.train_step(stage.kind), setup=setup), mesh, "rbr", "rr", donate=(0,)
    )
    taught = placed(jax.eval_shape(lambda: variables(teacher)), P()) if teacher else None
    started = time.monotonic()
    batch = placed(abstract_batch(config, stage, len(space)), P(devices.AXIS))
    compiled = step.lower(placed(jax.eval_shape(state), P()), batch, taught).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "seconds": time.monotonic() - started,
        "arguments": memory.argument_size_in_bytes / 1e9,
        "temporary": memory.temp_size_in_bytes / 1e9,
        "collectives": dict(Counter(COLLECTIVE.findall(text))),
    }


def main(_: list[str]) -> None:
    config = _CONFIG.value
    topology = topologies.get_topology_desc(platform="tpu", topology_name=_TOPOLOGY.value)
    mesh = Mesh(np.array(topology.devices), (devices.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    chips = len(topology.devices)
    print(f"{_TOPOLOGY.value}: {chips} chips, batch {config.batch_size}, {config.model.dtype}", flush=True)
    for name in config.stages:
        found = compile_stage(config, name, mesh)
        print(
            f"{name:<12} {found['arguments']:6.2f} GB of state and batch, {found['temporary']:6.2f} GB besides on each "
            f"chip; {found['collectives']}; compiled in {found['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
