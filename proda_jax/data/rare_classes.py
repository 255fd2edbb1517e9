"""Rare-class sampling: source images are drawn by the classes that they hold, rare ones more often (DAFormer).

Hoyer et al., CVPR 2022, Section 3.3. NumPy only, like the order of records in `source`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from proda_jax.data.source import Batch, ExampleSource, host_places
from proda_jax.system.progress import progress


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """With which probability each class is drawn (Equations 9 and 10 of DAFormer).

    Args:
      pixels: of each class in all source labels, [classes].
      temperature: T; small values draw the rarest classes alone (DAFormer: 0.01).

    Returns:
      float64 [classes], softmax((1 - f_c) / T) over classes that occur, f_c being the share of c; 0 for others.

    Raises:
      ValueError: no class occurs.
    """
    pixels = np.asarray(pixels, np.float64)
    if not pixels.sum() > 0:
        raise ValueError("no pixel of the source images has a class, so none can be drawn by its class")
    logits = (1.0 - pixels / pixels.sum()) / temperature
    weights = np.where(pixels > 0, np.exp(logits - logits[pixels > 0].max()), 0.0)
    return weights / weights.sum()


def label_pixels(source: ExampleSource, classes: int, threads: int) -> np.ndarray:
    """Pixels of each class in each label at its own size, int64 [records, classes].

    Those that preparation counted are not counted again; of others labels alone are decoded.

    Args:
      source: with labels; several as one have `parts`.
      classes: number of classes.
      threads: that decode.
    """

    def count(record: int) -> np.ndarray:
        return np.bincount(source.label(record).ravel(), minlength=classes)[:classes]

    if parts := getattr(source, "parts", None):
        return np.concatenate([label_pixels(part, classes, threads) for part in parts])
    noted = source.class_pixels(classes) if hasattr(source, "class_pixels") else None
    if noted is not None:
        return noted
    found = np.zeros((len(source), classes), np.int64)
    with progress("counting classes of the source", len(source)) as bar, ThreadPoolExecutor(threads) as pool:
        for record, pixels in enumerate(pool.map(count, range(len(source)))):
            found[record] = pixels
            bar.update()
    return found


class RareClassOrder:
    """Which record each global example is: its class is drawn first, then an image with enough pixels of it."""

    def __init__(self, pixels: np.ndarray, *, temperature: float, min_pixels: int, seed: int):
        """Prepares the draws.

        Args:
          pixels: of each class in each source label, [records, classes].
          temperature: see `class_probabilities`.
          min_pixels: an image of the drawn class holds more than so many of it (DAFormer: 3000), or where no image
            does, any at all.
          seed: of the draws.
        """
        self._probabilities = np.cumsum(class_probabilities(pixels.sum(axis=0), temperature))
        self._seed = seed
        held = [np.flatnonzero(of_class > min_pixels) for of_class in pixels.T]
        some = [np.flatnonzero(of_class > 0) for of_class in pixels.T]
        self._records = [enough if len(enough) else any_ for enough, any_ in zip(held, some, strict=True)]

    def draw(self, example: int) -> tuple[int, int]:
        """(record, class) of the n-th global example, which depends on (seed, n) alone."""
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, example))))
        of_class, of_record = generator.random(2)
        chosen = int(np.searchsorted(self._probabilities, of_class * self._probabilities[-1], side="right"))
        records = self._records[chosen]
        return int(records[int(of_record * len(records))]), chosen

    def batches(
        self, batch_size: int, *, first_step: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Records and classes of each training batch, without end; arguments as in `source.training_records`.

        Yields:
          int64 [batch_size / count] and int32 of the same length.
        """
        places, step = host_places(batch_size, shard), first_step
        while True:
            drawn = [self.draw(int(step * batch_size + place)) for place in places]
            yield np.array([d[0] for d in drawn], np.int64), np.array([d[1] for d in drawn], np.int32)
            step += 1

    def source_batches(
        self, source: ExampleSource, batch_size: int, *, first_step: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless batches of a labelled source, with the class that each example was drawn by, 'rare_class' [batch]."""
        drawn = [self.batches(batch_size, first_step=first_step, shard=shard) for _ in range(2)]
        records, classes = (record for record, _ in drawn[0]), (chosen for _, chosen in drawn[1])
        batches = source.chosen_batches(records, batch_size // shard[1], labels=True)
        for batch, chosen in zip(batches, classes, strict=False):
            yield batch | {"rare_class": chosen}
