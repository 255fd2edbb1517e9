"""Time, arithmetic and memory of each stage's step, of evaluation and of prediction.

    python -m benchmarks.train_step --config=configs/gta5.py --config.model.dtype=bfloat16            on an accelerator
    python -m benchmarks.train_step --config=configs/demo.py:scratch                                      on a CPU
    python -m benchmarks.train_step --config=configs/gta5.py --compile_only --programs=stage1         no step is run

Sizes are those of the configuration; any setting can be given beside it. FLOPs are those that XLA counts in the
compiled program, beside the least that the shapes of the convolutions ask for (`benchmarks/flops.py`).
"""

import json
import pathlib
import statistics
import time

import jax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import hlo
from benchmarks.flops import PEAKS, Minimum
from benchmarks.programs import PROGRAM, TRACED_CALLS, WHOLE_IMAGES, Program, Programs
from proda_jax.system import devices, paths
from proda_jax.system.refusals import choose

_CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py:scratch", "Configuration.")
_PROGRAMS = flags.DEFINE_list("programs", None, "Stages, evaluation, prediction; default: a stage of each kind, both.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed rounds, of which the median counts.")
_CALLS = flags.DEFINE_integer("calls", 3, "Calls in a round.")
_DEVICES = flags.DEFINE_integer("devices", None, "How many devices to use; default: all.")
_COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Analyse the compiled programs without running them.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")
_TRACE = flags.DEFINE_string("trace", None, "Folder for a trace of each program, which benchmarks.kernels reads.")
_PEAK = flags.DEFINE_float("peak", None, "TFLOP/s of one device in bfloat16, where it is not in the script's table.")


def chosen(config) -> list[str]:
    """The programs that are asked for, or one stage of each kind, evaluation and prediction."""
    if _PROGRAMS.value:
        for name in _PROGRAMS.value:
            choose("programs", name, (*config.stages, *WHOLE_IMAGES))
        return _PROGRAMS.value
    kinds = {config[name].kind: name for name in reversed(config.stages)}
    return [name for name in config.stages if name in kinds.values()] + list(WHOLE_IMAGES)


def analyse(program: Program) -> tuple[jax.stages.Compiled, dict]:
    """Compiles a program; its figures for one device."""
    started = time.monotonic()
    compiled = program.function.lower(*program.abstract()).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, {
        "compile_seconds": time.monotonic() - started,
        "flops": cost.get("flops", 0.0),
        "memory_gb": (held + memory.temp_size_in_bytes) / 1e9,
        "collectives": hlo.collectives(compiled.as_text()),
    }


def measure(name: str, program: Program, compiled: jax.stages.Compiled) -> list[float]:
    """Seconds of one call, in each of the rounds."""
    arguments, seconds = list(program.concrete()), []

    def run(calls: int) -> None:
        for _ in range(calls):
            results = compiled(*arguments)
            if program.changes:
                arguments[0], results = results
            devices.block_on_cpu(results)
        jax.block_until_ready(results)

    for round_number in range(_ROUNDS.value + 1):  # the first is to warm up
        started = time.monotonic()
        run(_CALLS.value)
        if round_number:
            seconds.append((time.monotonic() - started) / _CALLS.value)
    if _TRACE.value:
        folder = pathlib.Path(_TRACE.value) / name
        with jax.profiler.trace(folder):
            run(TRACED_CALLS)
        (folder / PROGRAM).write_text(compiled.as_text())  # says what a CPU's operations come from
    return seconds


def device_memory() -> float | None:
    """Most memory that the first device has held so far, GB; None where it does not say."""
    found = jax.devices()[0].memory_stats()
    return found["peak_bytes_in_use"] / 1e9 if found and "peak_bytes_in_use" in found else None


def row(name: str, program: Program, minimum: Minimum, peak: float | None) -> dict:
    """All figures of one program."""
    compiled, figures = analyse(program)
    shares = program.images // (1 if name in WHOLE_IMAGES else 2) / program.mesh.devices.size
    least = minimum.of(name)
    figures |= {"name": name, "minimum_flops": None if least is None else least * shares}
    if not _COMPILE_ONLY.value:
        seconds = measure(name, program, compiled)
        median = statistics.median(seconds)
        figures |= {"seconds": seconds, "median_seconds": median, "images_per_second": program.images / median,
                    "device_memory_gb": device_memory()}  # fmt: skip
        if peak and least is not None:
            figures["utilisation"] = figures["minimum_flops"] / median / (peak * 1e12)
    return figures


def line(figures: dict) -> str:
    def number(key: str, form: str, scale: float = 1.0) -> str:
        value = figures.get(key)
        return "-" if value is None else format(value * scale, form)

    least = figures["minimum_flops"]
    figures = figures | {"ratio": None if least is None else figures["flops"] / least}
    return (
        f"{figures['name']:<11}{number('median_seconds', '.1f', 1e3):>10}{number('images_per_second', '.1f'):>10}"
        f"{number('flops', '.3f', 1e-12):>10}{number('minimum_flops', '.3f', 1e-12):>10}{number('ratio', '.3f'):>8}"
        f"{number('utilisation', '.1%'):>9}{number('memory_gb', '.2f'):>9}{number('device_memory_gb', '.2f'):>9}"
        f"{number('compile_seconds', '.0f'):>9}  {hlo.in_words(figures['collectives'])}"
    )


def main(_: list[str]) -> None:
    config = _CONFIG.value
    mesh = devices.make_mesh(_DEVICES.value)
    kind, count = jax.devices()[0].device_kind, mesh.devices.size
    peak = _PEAK.value or PEAKS.get(kind)
    print(f"{count} x {kind}, {config.model.dtype}, batch {config.batch_size}, crops {tuple(config.views.crop_size)}, "
          f"target images {tuple(config.data.target.image_size)}; per device:")  # fmt: skip
    print(f"{'program':<11}{'ms':>10}{'images/s':>10}{'TFLOP':>10}{'least':>10}{'ratio':>8}{'of peak':>9}{'XLA GB':>9}"
          f"{'peak GB':>9}{'compile':>9}  collectives")  # fmt: skip
    programs, rows = Programs(config, mesh), []
    minimum = Minimum(config, programs)
    for name in chosen(config):
        rows.append(row(name, programs.named(name), minimum, peak))
        print(line(rows[-1]), flush=True)
    if _JSON.value:
        facts = {"device": kind, "devices": count, "dtype": config.model.dtype, "batch_size": config.batch_size}
        with open(_JSON.value, "w") as file:
            json.dump(facts | {"peak_tflops": peak, "programs": rows}, file, indent=2)


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
