"""A workdir as a run leaves it, made up in a second: rendered streets, and labels whose errors become fewer."""

import json
import pathlib

import ml_collections
import numpy as np

from proda_jax.configs import base, demo, small
from proda_jax.data.label_spaces import IGNORE, LabelSpace, label_space
from proda_jax.data_prep.demo_streets import render
from proda_jax.run import evaluate
from proda_jax.system.files import npz

CHANNELS, GRID = 24, 4  # of features; pixels of an image between two of the soft labels' grid
KINDS = {"source": 0.45, "warmup": 0.32, "self_training": 0.26, "stage1": 0.22, "stage2": 0.19, "stage3": 0.17}


def fake_config(stages=("source", "warmup", "self_training", "stage1", "stage2", "stage3"), seed: int = 0):
    """The demo's settings, with a stage of self-training and six evaluations a stage."""
    c = demo.get_config("scratch")
    c.task, c.seed, c.stages = "made_up", seed, tuple(stages)
    c.self_training = small.self_training("warmup", 150)
    c.evaluate_every = 25
    c.source.steps = 150
    c.data.data_dir = f"somewhere/{seed}"
    return c


def fake_workdir(
    path: pathlib.Path,
    config: ml_collections.ConfigDict | None = None,
    *,
    images: int = 3,
    size: tuple[int, int] = (96, 192),
    stop_after: int | None = None,
) -> ml_collections.ConfigDict:
    """Writes all that a run writes for its report, plausible but made up.

    Args:
      path: folder to write to.
      config: of the run; `fake_config()` by default.
      images: how many sample images there are.
      size: their height and width, pixels.
      stop_after: step of the last stage after which the run was killed, so that it has no result.

    Returns:
      The configuration.
    """
    config = config or fake_config()
    generator = np.random.default_rng(config.seed)
    space = label_space(config.data.label_space, config.data.classes, config.data.colors)
    pictures, labels = zip(*(render("target", 1000 + i, size) for i in range(images)), strict=True)
    labels = np.stack(labels)
    labels[:, -6:] = IGNORE
    write(path / "config.json", json.dumps(config.to_dict()))
    names = np.array([f"target_val_{i:04d}" for i in range(images)])
    write(path / "samples.npz", npz(image=np.stack(pictures), label=labels, name=names))
    results = []
    for number, name in enumerate(config.stages):
        end = stop_after if number == len(config.stages) - 1 else None
        results += write_stage(path / name, config, name, space, labels, generator, end)
    write(path / "results.json", json.dumps({"task": config.task, "seed": config.seed, "stages": results}))
    return config


def write_stage(folder, config, name, space: LabelSpace, labels, generator, stop_after) -> list[dict]:
    """One stage's files; returns its result in a list, or nothing where the run was killed."""
    stage, end = config[name], stop_after or config[name].steps
    entries, logged = [], []
    for step in range(0, end + 1, config.log_every):
        values = {"source_ce": 0.4 + np.exp(-step / 60) + 0.05 * generator.normal(), "gradient_norm": 1 + step / 100}
        values |= (
            {"target_fit": 1.2 - step / 400, "consistency": 0.1 * np.exp(-step / 90)} if stage.kind == "denoise" else {}
        )
        values |= {"distillation": 0.3 * np.exp(-step / 90)} if stage.kind == "distill" else {}
        values |= {"adversarial": 0.9, "discriminator": 0.2} if stage.kind == "warmup" else {}
        if step:
            seconds = {"seconds": round(0.4 * step, 1), "images_per_second": 8 + generator.normal()}
            logged.append({"step": step} | seconds | {key: float(value) for key, value in values.items()})
    evaluations = [*range(config.evaluate_every, end, config.evaluate_every), end]
    for step in ([0] if stage.kind == "denoise" else []) + evaluations:
        wrong = KINDS.get(name, 0.3) * (1.3 - 0.3 * step / stage.steps)
        arrays, quality = snapshot(stage, space, labels, wrong, step, generator, last=step == stage.steps)
        if step:
            confusion = arrays["confusion"] = fake_confusion(labels, wrong, len(space), generator)
            entries.append({"step": step, "seconds": round(0.4 * step + 3, 1)} | evaluate.summary(confusion, space))
            if stage.kind == "denoise":
                keys = ("miou", "pixel_accuracy", "class_accuracy")
                rows = (dict(zip(keys, map(float, row), strict=True)) for row in quality)
                entries[-1]["pseudo_labels"] = dict(zip(("learnt_from", "fixed", "network"), rows, strict=True))
        write(folder / "snapshots" / f"{step}.npz", npz(compressed=True, **arrays))
    write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in logged))
    write(folder / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    write(folder / "environment.json", json.dumps({
        "versions": {"python": "3.11.9", "jax": "0.10.2", "flax": "0.12.8", "proda_jax": "0.1.0"},
        "device": "made-up accelerator", "devices": 2, "hosts": 1, "backend": "gpu"}))  # fmt: skip
    if stop_after:
        return []
    best = max(reversed(entries), key=lambda entry: entry["miou"])
    result = {"name": name, "steps": end, "seconds": entries[-1]["seconds"], "best": best, "last": entries[-1]}
    write(folder / "result.json", json.dumps(result))
    return [{key: value for key, value in result.items() if key != "seconds"}]


def snapshot(stage, space, labels, wrong, step, generator, last) -> tuple[dict, np.ndarray]:
    """The arrays of a snapshot, and the quality of its pseudo labels."""
    classes, centres = len(space), np.random.default_rng(1).normal(size=(len(space), CHANNELS))
    grid = labels[:, ::GRID, ::GRID]
    arrays = {"prediction": spoiled(labels, wrong, classes, generator)}
    quality = np.array([[95 - 120 * w, 100 - 90 * w, 97 - 110 * w] for w in (wrong, 0.35, wrong + 0.04)])
    if stage.kind == "denoise":
        learns = stage.weighting != "none"
        if not learns:
            quality[0] = quality[1]
        fixed = spoiled(grid, 0.35, classes, np.random.default_rng(2))
        confidence = np.clip(0.5 + 0.5 * generator.random(grid.shape), 0, 1).astype(np.float16)
        weight = np.where(fixed == grid, 0.8, 0.3) * (0.6 + 0.4 * step / stage.steps)
        rectified = np.where(generator.random(grid.shape) < 0.3 + 0.6 * step / stage.steps, grid, fixed)
        arrays |= {"fixed": fixed, "rectified": (rectified if learns else fixed).astype(np.uint8), "quality": quality}
        arrays |= {"confidence": confidence, "weight": weight.astype(np.float16)}
        if learns:
            moved = centres + 0.02 * step * np.random.default_rng(3).normal(size=centres.shape) / CHANNELS**0.5
            arrays |= {"prototypes": moved.astype(np.float32), "seen": np.arange(classes) != classes - 1}
    if last:
        pixels = np.random.default_rng(4).choice(np.flatnonzero(labels.ravel() != IGNORE), 400, replace=False)
        of = labels.ravel()[pixels]
        features = centres[of] + 4 * wrong * generator.normal(size=(len(of), CHANNELS))
        arrays |= {
            "features": features.astype(np.float16),
            "feature_class": of,
            "feature_pixel": pixels.astype(np.int32),
        }
    return arrays, quality


def spoiled(labels: np.ndarray, wrong: float, classes: int, generator) -> np.ndarray:
    """Labels of which about that share is another class, in patches; ignored pixels get a class, too."""
    n, height, width = labels.shape
    rows, columns = -(-height // 8), -(-width // 8)
    patches = generator.random((n, rows, columns)) < wrong
    others = generator.integers(0, classes, (n, rows, columns))
    patches, others = (a.repeat(8, 1).repeat(8, 2)[:, :height, :width] for a in (patches, others))
    return np.where(patches | (labels == IGNORE), others, labels).astype(np.uint8)


def fake_confusion(labels: np.ndarray, wrong: float, classes: int, generator) -> np.ndarray:
    """int64 [classes, classes], row = truth: of each class, about that share is taken for others."""
    truth = np.bincount(labels[labels != IGNORE], minlength=classes) * 20
    spread = generator.random((classes, classes)) ** 4 * (truth > 0)
    spread *= wrong / spread.sum(1, keepdims=True)
    matrix = np.rint(truth[:, None] * (spread + (1 - wrong) * np.eye(classes)))
    return matrix.astype(np.int64)


def write(path: pathlib.Path, contents: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)


def gta5_like(seed: int = 0) -> ml_collections.ConfigDict:
    """A configuration that the paper has a column for, with few steps and without its warm-up's predecessor."""
    from proda_jax.configs import gta5

    c = gta5.get_config()
    c.seed, c.evaluate_every, c.log_every = seed, 20, 10
    c.source = base.supervised("imagenet", 60)
    c.stages = ("source", *c.stages)
    for name in c.stages:
        c[name].steps = 60
    return c
