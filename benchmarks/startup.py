"""How long a run compiles when it is started for the first time, and how long when it is started again.

    python -m benchmarks.startup --config=configs/demo.py:scratch

Each start is a process of its own: all stages of the configuration with two steps each, in a new workdir, the second
with the compiled programs that the first left in the cache. Data are prepared beforehand.
"""

import collections
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from proda_jax.system import paths

_CONFIG = flags.DEFINE_string("config", "configs/demo.py:scratch", "Configuration.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")

ROOT = pathlib.Path(__file__).parents[1]
CHILD = """
import collections, json, pathlib, runpy, sys
import jax
seconds = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, duration, **_: seconds.update({event: duration}))
report = sys.argv.pop()
try:
    runpy.run_path("main.py", run_name="__main__")
finally:
    pathlib.Path(report).write_text(json.dumps(seconds))
"""
PHASES = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling": "/jax/core/compile/backend_compile_duration",
}


def stages(config: str) -> tuple[str, ...]:
    """Those of a shipped configuration, such as 'configs/demo.py:scratch'."""
    path, _, form = config.partition(":")
    name = path.removesuffix(".py").replace("/", ".")
    return importlib.import_module(f"proda_jax.{name}").get_config(*filter(None, [form])).stages


def start(folder: pathlib.Path, number: int) -> dict[str, float]:
    """Starts the run; seconds of each phase, and of the whole process."""
    report = folder / f"{number}.json"
    arguments = [f"--config={_CONFIG.value}", f"--workdir={folder / str(number)}",
                 f"--config.data.data_dir={folder / 'data'}", "--config.data.loader=memory"]  # fmt: skip
    arguments += [f"--config.{stage}.steps=2" for stage in stages(_CONFIG.value)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", CHILD, *arguments, str(report)], cwd=ROOT, env=environment, check=True,
                   capture_output=True)  # fmt: skip
    took = time.monotonic() - started
    events = collections.Counter(json.loads(report.read_text()))
    return {name: events[event] for name, event in PHASES.items()} | {"whole run": took}


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        data = [f"--config={_CONFIG.value}", f"--data_dir={folder / 'data'}"]
        subprocess.run([sys.executable, "-m", "data_prep.prepare", *data], cwd=ROOT, check=True, capture_output=True)
        first, second = (start(folder, number) for number in (1, 2))
    for name in first:
        print(f"{name:<12}{first[name]:8.1f} s at first{second[name]:8.1f} s again: {second[name] / first[name]:.2f}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps({"first": first, "second": second}, indent=2))


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
