"""Prediction from file to file beside PyTorch (eager and compiled) and ONNX Runtime, with the same weights, on a CPU.

    pip install -r requirements-dev.txt                              (brings PyTorch for the CPU, and ONNX Runtime)
    python -m benchmarks.peer_predict --config=configs/demo.py                                    images of 96 x 192
    python -m benchmarks.peer_predict --config=configs/gta5.py --images=2 --rounds=5 --height=512 --width=1024

Each contender is a process of its own, which has no other's libraries, and predicts a folder of PNG files into another
one: train ids, of the images' own size. Those in PyTorch and ONNX Runtime read and write files by as many threads as
there are cores, beside computing, as ours does. They take turns; the others wait meanwhile. ONNX Runtime is given the
network as PyTorch exports it, with its own operations; ours is there by XLA and by ONNX Runtime, converted by
itself (`--engine`). Weights are random. Before anything is timed, all have to give the same labels, but to one pixel in
a thousand.
"""

import collections
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

_CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py", "Configuration: its network.")
_HEIGHT = flags.DEFINE_integer("height", 96, "Of the images, pixels.")
_WIDTH = flags.DEFINE_integer("width", 192, "Of the images, pixels.")
_IMAGES = flags.DEFINE_integer("images", 50, "In the folder that a round predicts.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds of each, in turn; medians count.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")
OURS, OURS_ONNX = "ours", "ours, --engine=onnxruntime"
EAGER, COMPILED, ONNX = "PyTorch, eager", "PyTorch, compiled", "ONNX Runtime"
ENGINES = {OURS: "xla", OURS_ONNX: "onnxruntime"}
PEERS = (EAGER, COMPILED, ONNX)
MOST_DIFFERING = 1e-3  # share of pixels whose two best classes may be told apart by the order of sums alone


# The processes; whatever they do not need themselves is imported by those that do


def ours(name: str, folder: pathlib.Path) -> Callable[[pathlib.Path, pathlib.Path], None]:
    """(folder of images, folder of results) -> None, by the network in `folder` and one of `ENGINES`."""
    from proda_jax.inference import loading
    from proda_jax.inference.predict import predict

    segmenter = loading.load(folder / "ours", resize=0, batch_size=None, engine=ENGINES[name])
    return lambda images, output: predict(segmenter, str(images), output, ("ids",))


def peer(name: str, folder: pathlib.Path) -> Callable[[pathlib.Path, pathlib.Path], None]:
    """The same by one of `PEERS`."""
    label = {EAGER: torch_labels, COMPILED: torch_labels, ONNX: onnx_labels}[name](folder, name)

    def predict(images: pathlib.Path, output: pathlib.Path) -> None:
        (output / "ids").mkdir(parents=True, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            writing = collections.deque()
            for path, image in read_ahead(pool, sorted(images.iterdir())):
                writing.append(pool.submit(write, label(image[None])[0], output / "ids" / path.name))
                if len(writing) > 2 * cores():
                    writing.popleft().result()
            for last in writing:
                last.result()

    return predict


def torch_labels(folder: pathlib.Path, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [1, height, width, 3] -> uint8 [1, height, width]."""
    import torch

    torch.set_num_threads(cores())
    network = torch.load(folder / "network.pt", weights_only=False)
    if name == COMPILED:
        network = torch.compile(network, dynamic=False)

    def label(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(image)).numpy()

    return label


def onnx_labels(folder: pathlib.Path, _: str) -> Callable[[np.ndarray], np.ndarray]:
    """As `torch_labels`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})[0]


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0))


def read(path: pathlib.Path) -> tuple[pathlib.Path, np.ndarray]:
    return path, np.asarray(Image.open(path).convert("RGB"))


def read_ahead(pool: concurrent.futures.Executor, paths: list) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
    waiting = collections.deque()
    for path in paths:
        waiting.append(pool.submit(read, path))
        if len(waiting) > 2 * cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def write(labels: np.ndarray, path: pathlib.Path) -> None:
    Image.fromarray(labels).save(path, compress_level=3)


def contend(name: str, folder: pathlib.Path, connection: Connection) -> None:
    """A contender's process: a round whenever it is told to; it answers with seconds and its memory so far in bytes."""
    predict = (ours if name in ENGINES else peer)(name, folder)
    while connection.recv():
        started = time.monotonic()
        predict(folder / "images", folder / name)
        connection.send((time.monotonic() - started, peak_memory()))


def peak_memory() -> int:
    """Bytes that this process held at most."""
    [line] = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


# What they are given


def prepare(config: Any, size: tuple[int, int], count: int, folder: pathlib.Path) -> None:
    """Writes images and the network in each contender's form."""
    import torch

    from benchmarks.programs import Programs
    from benchmarks.torch_network import Labels
    from proda_jax.inference.segmenter import Segmenter
    from proda_jax.run.card import Card
    from proda_jax.system import devices

    rng, mesh = np.random.default_rng(0), devices.make_mesh(1)
    (folder / "images").mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / "images" / f"{number:04}.png")
    programs = Programs(config, mesh)
    model = programs.model().clone(axis_name=None)

    variables = live(programs.shapes, rng)
    card = Card.of(config, config.stages[0], extra_norm=False)
    Segmenter(model, variables, card, mesh).save_pretrained(folder / "ours")
    network = Labels(model, variables, size).eval()
    torch.save(network, folder / "network.pt")
    example = torch.zeros((1, *size, 3), dtype=torch.uint8)
    torch.onnx.export(network, (example,), folder / "network.onnx", dynamo=False, opset_version=17,
                      input_names=["images"], output_names=["labels"])  # fmt: skip


def live(shapes: Any, rng: np.random.Generator) -> Any:
    """Random variables of these shapes: kernels keep the size of a rectified signal, all else is as it begins."""
    import jax

    def made(path: tuple, array: jax.ShapeDtypeStruct) -> np.ndarray:
        name, shape = path[-1].key, array.shape
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
        return (np.ones if name in ("scale", "var", "std") else np.zeros)(shape, np.float32)

    return jax.tree_util.tree_map_with_path(made, shapes)


def check(folder: pathlib.Path) -> None:
    """Refuses contenders that do not give our labels."""
    for name in (OURS_ONNX, *PEERS):
        differing = []
        for path in sorted((folder / OURS / "ids").iterdir()):
            mine, theirs = (np.asarray(Image.open(folder / of / "ids" / path.name)) for of in (OURS, name))
            differing.append((mine != theirs).mean())
        print(f"  {name:<28}{np.mean(differing):.2%} of the pixels have another label")
        if not np.mean(differing) <= MOST_DIFFERING:
            raise SystemExit(f"{name} does not give our labels: nothing is timed")


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as held:
        folder = pathlib.Path(held)
        prepare(_CONFIG.value, (_HEIGHT.value, _WIDTH.value), _IMAGES.value, folder)
        context, connections = multiprocessing.get_context("spawn"), {}
        for name in (*ENGINES, *PEERS):
            connections[name], theirs = context.Pipe()
            context.Process(target=contend, args=(name, folder, theirs), daemon=True).start()
        seconds, memory = {name: [] for name in connections}, {}
        for number in range(_ROUNDS.value + 1):  # the first is to warm up
            for name, connection in connections.items():
                connection.send(True)
                took, memory[name] = connection.recv()
                seconds[name].append(took / _IMAGES.value)
            if number == 0:
                check(folder)
        for connection in connections.values():
            connection.send(False)

    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        first, megabytes = seconds[name][0] * _IMAGES.value, memory[name] / 1e6
        print(f"{name:<28}{1 / median:8.2f} images/s, {median / medians[OURS]:.2f} of our time, {megabytes:7.0f} MB at "
              f"most, the first round {first:.0f} s")  # fmt: skip
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps({"seconds": seconds, "bytes": memory}, indent=2))


if __name__ == "__main__":
    from proda_jax.system import paths

    app.run(main, flags_parser=paths.parse)
