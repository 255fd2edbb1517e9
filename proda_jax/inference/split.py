"""Predicts a whole labelled split, writes what is wanted of each image, and scores what was written."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from proda_jax.data.checks import first_of
from proda_jax.data.decode import cores
from proda_jax.data.label_spaces import label_space, reported_subsets
from proda_jax.data.source import ExampleSource
from proda_jax.inference import images
from proda_jax.inference.predict import check_kinds, grouped, in_order, picture
from proda_jax.inference.segmenter import Segmenter
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.run import evaluate
from proda_jax.run.card import Card
from proda_jax.run.sources import Sources
from proda_jax.system.files import check_writable, write_atomically
from proda_jax.system.paths import expanded
from proda_jax.system.progress import progress


def predict(
    config: ml_collections.ConfigDict,
    sources: Sources,
    model: SegmentationNetwork,
    variables: Any,
    origin: dict,
    output: epath.PathLike,
    kinds: Sequence[str],
    mesh: Mesh,
) -> dict:
    """Predicts the validation images as `--mode=predict` does, at the size of each one's label.

    Args:
      config: the whole configuration.
      sources: its data sets.
      model, variables, origin: the network, see `Networks.choose`.
      output: folder for `<kind>/<name of the image>.png`.
      kinds: which of `predict.KINDS` are written.
      mesh: the devices.

    Returns:
      The scores of these predictions, as `Experiment.evaluate` has them.

    Raises:
      ValueError: there are no labelled images, a kind is unknown, or nothing can be written there.
    """
    source, data = sources.labelled_validation(), first_of(config.data, "validation")
    space = label_space(config.data.label_space, config.data.classes, config.data.colors)
    card = Card.of(config, origin.get("stage", epath.Path(origin["network"]).name), extra_norm=model.extra_norm,
                   network=model)
    segmenter = Segmenter(model.clone(axis_name=None), variables, card, mesh, origin=origin["network"])
    check_kinds(kinds, card)
    output = epath.Path(expanded(output))
    check_writable(output, "--output")
    confusion = np.zeros((len(space), len(space)), np.int64)

    def write(example: tuple) -> np.ndarray:
        record, image, found, label = example
        for kind in kinds:
            path = output / kind / f"{source.names[record]}.png"
            write_atomically(path, images.png(picture(segmenter, kind, image, found)))
        counted = label < len(space)
        pairs = label[counted].astype(np.int64) * len(space) + found.labels[counted]
        return np.bincount(pairs, minlength=confusion.size).reshape(confusion.shape)

    with progress("predicting", len(source)) as bar, ThreadPoolExecutor(cores()) as pool:
        for matrix in in_order(pool, write, _predicted(source, segmenter, pool, "entropy" in kinds), ahead=2 * cores()):
            confusion += matrix
            bar.update()
    if not confusion.any():
        raise ValueError(evaluate.NOTHING_COUNTS.format(len(source)))
    facts = {"task": config.task} | origin | {"data": f"{data.name}, {data.split}", "images": len(source)}
    print(f"predictions: {output}")
    return facts | {"evaluate_at": evaluate.LABELS} | evaluate.summary(
        confusion, space, reported_subsets(space), dice=True)  # fmt: skip


def _predicted(
    source: ExampleSource, segmenter: Segmenter, pool: ThreadPoolExecutor, entropy: bool
) -> Iterator[tuple]:
    """(record, image, prediction, label), images and predictions at their labels' size."""

    def read(record: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        image, label = source.image(record), source.label(record)
        seen = segmenter.resized(image)
        if image.shape[:2] != label.shape:
            image = np.asarray(Image.fromarray(image).resize(label.shape[::-1], Image.Resampling.BILINEAR))
        return record, image, seen, label

    examples = in_order(pool, read, range(len(source)), ahead=2 * cores())
    batches = grouped(examples, lambda one: one[2].shape, lambda shape: segmenter.batch_size(shape[:2]))
    for batch in batches:
        records, whole, seen, labels = zip(*batch, strict=True)
        yield from zip(records, whole, segmenter.predict(whole, seen, entropy=entropy), labels, strict=True)
