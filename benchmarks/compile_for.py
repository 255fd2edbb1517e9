"""Compiles programs for a TPU slice or a GPU that need not be there, and says what they take.

    pip install -r requirements-tpu.txt
    python -m benchmarks.compile_for --config=configs/gta5.py                      each stage's step, for v5e:2x2
    python -m benchmarks.compile_for --config=configs/gta5.py --device=v5e:2x4 --config.batch_size=8

    pip install -r requirements-gpu.txt
    python -m benchmarks.compile_for --config=configs/gta5.py --device=h200

It shows that a program compiles for that slice, its memory and its collectives on each device, of which a chip of a
described v4 or tpu7x has two; for a GPU also how many kernels it has, and the bytes that they read and write. It does
not show their speed: cuDNN's and XLA's choices among kernels are made by trying them, and are left out.
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
from benchmarks.programs import WHOLE_IMAGES, Programs, devices_in_words
from proda_jax.system import devices, paths
from proda_jax.system.refusals import choose

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration.")
_DEVICE = flags.DEFINE_string("device", "v5e:2x2", "TPU slice or GPU (h100, h200) to compile for.")
_PROGRAMS = flags.DEFINE_list("programs", None, "Stages, evaluation, prediction; default: all stages.")

# What XLA wants to know of a GPU, from NVIDIA's documentation; the two differ in their memory alone.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9  minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
_GPUS = {
    "h100": _HOPPER.format(bandwidth=3_350_000_000_000, memory=80_000_000_000, name="NVIDIA H100 80GB HBM3"),
    "h200": _HOPPER.format(bandwidth=4_800_000_000_000, memory=141_000_000_000, name="NVIDIA H200"),
}
# Which of Triton's matrix products to take is found out by trying them, and without a choice some do not compile.
_WITHOUT_A_GPU = {"xla_gpu_enable_triton_gemm": False}


def topology(name: str) -> topologies.TopologyDescription:
    """The devices of this name, as a compiler sees them.

    Raises:
      UsageError: no such slice, or the packages that compile for it are not installed.
    """
    try:
        if name in _GPUS:
            return topologies.get_topology_desc(platform="cuda", target_config=_GPUS[name], topology="1x1x1")
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise app.UsageError(
            f"nothing compiles for {name!r} here: {error}\nGPUs ({', '.join(_GPUS)}) need requirements-gpu.txt, TPU "
            "slices such as v5e:2x2 requirements-tpu.txt"
        ) from error


def main(_: list[str]) -> None:
    config, device = _CONFIG.value, _DEVICE.value
    for name in _PROGRAMS.value or ():
        choose("programs", name, (*config.stages, *WHOLE_IMAGES))
    is_gpu, found = device in _GPUS, topology(device).devices
    mesh = Mesh(np.array(found), (devices.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    print(f"{device}: {devices_in_words(found)}, batch {config.batch_size}, {config.model.dtype}", flush=True)
    programs = Programs(config, mesh)
    for name in _PROGRAMS.value or config.stages:
        started, program = time.monotonic(), programs.named(name)
        traced = program.function.trace(*program.abstract())
        lowered = traced.lower(lowering_platforms=("cuda" if is_gpu else "tpu",))
        compiled = lowered.compile(_WITHOUT_A_GPU if is_gpu else None)
        memory, text, cost = compiled.memory_analysis(), compiled.as_text(), compiled.cost_analysis()
        held, besides = (n / 1e9 for n in (memory.argument_size_in_bytes, memory.temp_size_in_bytes))
        words = [f"{held:6.2f} GB of state and batch, {besides:6.2f} GB besides on each device"]
        if is_gpu:
            words.append(hlo.traffic_in_words(hlo.traffic(text)))
        else:
            flops, moved = cost["flops"] / 1e12, cost["bytes accessed"] / 1e9
            words.append(f"by XLA's count {flops:.3f} TFLOP and {moved:.1f} GB moved")
        if sent := hlo.collectives(text):
            words.append(hlo.in_words(sent))
        print(f"{name:<12} {'; '.join(words)}; compiled in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=paths.parse)
