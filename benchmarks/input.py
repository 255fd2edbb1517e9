"""How many images the input pipeline delivers for each core, and what the time goes into.

    python -m benchmarks.input                                   rendered frames with noise, of a camera's file size
    python -m benchmarks.input --images='photos/*.png' --json=input.json
    python -m benchmarks.input --peer                            Grain beside it (pip install grain)

Frames are stored as PNG files of the sizes of GTA5 and Cityscapes, prepared as users' data are, and read as training
reads them. Rates are for a core that does nothing else: images over seconds of processor time, all threads together.
"""

import functools
import glob
import io
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from PIL import Image

from proda_jax.data import decode, decode_pillow
from proda_jax.data.label_spaces import LabelMap, label_map, label_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data.prepared import Prepared
from proda_jax.data.pseudo_labels import PseudoLabels
from proda_jax.data_prep.demo_streets import render
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.png import encode_png
from proda_jax.data_prep.prepare import prepare
from proda_jax.system import paths

SIZES = {"GTA5": (1052, 1914), "Cityscapes": (1024, 2048)}  # height, width in pixels
NOISE = 2.0  # grey levels; gives frames a camera's file size, see the table's column
SPACE = label_space("cityscapes19")
BATCH, ROUNDS = 4, 5

_IMAGES = flags.DEFINE_string("images", None, "Pattern of PNG images to use instead of rendered frames.")
_FRAMES = flags.DEFINE_integer("frames", 6, "Frames of each size.")
_BATCHES = flags.DEFINE_integer("batches", 8, "Batches of four in each timed round.")
_PEER = flags.DEFINE_bool("peer", False, "Grain beside it: the same records and decoder, in threads.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")
_CORES = flags.DEFINE_integer("cores", 16, "Cores of the machine that is to be fed, for the arithmetic.")
_NEEDED = flags.DEFINE_float("needed", 60.0, "Images a second that it needs: source and target images together.")


def frames(size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [*size, 3] and labels uint8 [*size]."""
    made = []
    given = sorted(glob.glob(_IMAGES.value)) if _IMAGES.value else []
    for i in range(_FRAMES.value):
        image, label = render("target", i, (size[0] // 2, size[1] // 2))
        label = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
        if given:
            image = np.asarray(Image.open(given[i % len(given)]).convert("RGB").resize(size[::-1]))
        else:
            large = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
            noise = np.random.default_rng(i).normal(0, NOISE, large.shape)
            image = np.clip(large + noise, 0, 255).round().astype(np.uint8)
        made.append((image, label))
    return made


def seconds_each(function: Callable, items: Iterable) -> float:
    """Processor time of one call; the median of several rounds."""
    items = list(items)
    function(items[0])
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for item in items:
            function(item)
        rounds.append((time.process_time() - started) / len(items))
    return float(np.median(rounds))


def measure(name: str, size: tuple[int, int], folder: pathlib.Path) -> dict:
    """Figures of one size."""
    raw = folder / name / "raw"
    for kind in ("images", "labels"):
        (raw / kind).mkdir(parents=True)
    encoded = []
    for i, (image, label) in enumerate(frames(size)):
        encoded.append((encode_png(image), encode_png(label)))
        (raw / "images" / f"{i}.png").write_bytes(encoded[-1][0])
        (raw / "labels" / f"{i}.png").write_bytes(encoded[-1][1])
    ids = [(i, class_name) for i, class_name in enumerate(SPACE.classes)]
    meaning = label_map("gta5", SPACE, ids)
    prepare("gta5", data_dir=str(folder / name / "data"), checks=Checks(meaning), raw_dir=str(raw))
    source = TfdsSource("gta5", "train", data_dir=str(folder / name / "data"), image_size=size, label_map=meaning)

    image_seconds = seconds_each(decode_pillow.image, [image for image, _ in encoded])
    as_in_a_graph = tf.function(lambda label: decode.label(label, meaning))
    label_seconds = seconds_each(as_in_a_graph, [tf.constant(label) for _, label in encoded])
    figures = {
        "size": f"{size[1]}x{size[0]}",
        "file_mb": np.mean([len(image) for image, _ in encoded]) / 1e6,
        "decode_image_ms": 1e3 * image_seconds,
        "decode_label_ms": 1e3 * label_seconds,
    }
    for kind, labels in (("images", False), ("images_and_labels", True)):
        [(processor, wall), *peer] = pipeline_seconds(pipelines(source, prepared_in(folder / name), meaning, labels))
        decoding = image_seconds + labels * label_seconds
        figures |= {
            f"{kind}_per_core_second": 1 / processor,
            f"{kind}_per_second_here": 1 / wall,
            f"{kind}_decode_share": min(decoding / processor, 1.0),
        }
        for processor, wall in peer:
            figures |= {f"{kind}_grain_per_core_second": 1 / processor, f"{kind}_grain_per_second_here": 1 / wall}
    figures |= pseudo_label_seconds(size, folder / name / "labels", encoded)
    return figures


def prepared_in(folder: pathlib.Path) -> Prepared:
    [version] = (folder / "data" / "gta5").glob("*.*")
    return Prepared(version)


def pipelines(source: TfdsSource, prepared: Prepared, meaning: LabelMap, labels: bool) -> list[Callable]:
    """What begins batches of the project's pipeline and, where it is asked for, of Grain's."""
    ours = functools.partial(source.training_batches, BATCH, seed=0, labels=labels)
    return [ours, functools.partial(grain_batches, prepared, meaning, labels)] if _PEER.value else [ours]


def grain_batches(prepared: Prepared, meaning: LabelMap, labels: bool) -> Iterator:
    """Batches of Grain's threads, of images decoded as the project does where there is no TensorFlow."""
    import grain

    def decoded(record: dict[str, bytes]) -> dict[str, np.ndarray]:
        image = decode_pillow.image(record["image"])
        return {"image": image} | ({"label": decode_pillow.label(record["label"], meaning)} if labels else {})

    examples = grain.MapDataset.source(prepared.records("train")).shuffle(seed=0).repeat().map(decoded)
    reading = grain.ReadOptions(num_threads=decode.cores(), prefetch_buffer_size=3 * BATCH)
    return iter(examples.to_iter_dataset(reading).batch(BATCH))


def pipeline_seconds(pipelines: list[Callable[[], Iterator]]) -> list[tuple[float, float]]:
    """Processor time and time that pass for an image that comes out of each; medians of rounds in turn.

    Each round begins anew, as what another pipeline reads ahead would count, too.
    """
    rounds = [[] for _ in pipelines]
    for _ in range(ROUNDS):
        for begin, times in zip(pipelines, rounds, strict=True):
            batches = begin()
            for _ in range(4):  # fills the queues
                next(batches)
            started = np.array([time.process_time(), time.perf_counter()])
            for _ in range(_BATCHES.value):
                next(batches)
            times.append((np.array([time.process_time(), time.perf_counter()]) - started) / (BATCH * _BATCHES.value))
            batches.close()
    return [tuple(np.median(times, axis=0)) for times in rounds]


def pseudo_label_seconds(size: tuple[int, int], folder: pathlib.Path, encoded: list) -> dict:
    """What reading one image's pseudo labels takes, and how large they are."""
    grid = tuple((s - 1) // 8 + 1 + (s % 8 == 0) for s in size)  # output stride 8; 1024 x 2048 gives 129 x 257
    soft = np.random.default_rng(0).dirichlet(np.ones(19), grid).astype(np.float16)
    hard = np.asarray(Image.open(io.BytesIO(encoded[0][1])))
    found = {}
    for kind, label in (("soft", soft), ("hard", hard)):
        store = PseudoLabels(folder / kind, {"kind": kind})
        store.write("a", label)
        found[f"{kind}_label_ms"] = 1e3 * seconds_each(store.read, ["a"] * 8)
        found[f"{kind}_label_mb"] = store.path("a").stat().length / 1e6
    return found


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    tf.config.set_visible_devices([], "GPU")
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, size, pathlib.Path(folder)) for name, size in SIZES.items()}
    for name, figures in results.items():
        print(f"{name}:")
        for key, value in figures.items():
            print(f"  {key.replace('_', ' '):<34} {value if isinstance(value, str) else format(value, '.3g')}")
    gta5, cityscapes = results["GTA5"], results["Cityscapes"]
    # half of the images are labelled source images, half are target images without labels
    each = (1 / gta5["images_and_labels_per_core_second"] + 1 / cityscapes["images_per_core_second"]) / 2
    rate = _CORES.value / each
    print(f"{_CORES.value} such cores deliver {rate:.0f} images a second, {rate / _NEEDED.value:.1f} times the "
          f"{_NEEDED.value:g} that are needed")  # fmt: skip
    results |= {"images_per_second": rate, "cores": _CORES.value, "needed": _NEEDED.value}
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
