"""What the training loop asks of a data set, and the order in which its records come (NumPy only)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from proda_jax.data.label_spaces import IGNORE

Batch = dict[str, np.ndarray]


class ExampleSource(Protocol):
    """A data set with random access.

    A batch is a dictionary:
      'image': uint8 [batch, height, width, 3], RGB.
      'label': uint8 [batch, height, width], train ids or IGNORE; only where labels were asked for.
      'record': int32 [batch], index of the record, -1 for padding.

    Attributes:
      image_size: (height, width) of every image, pixels.
      names: unique name of each record.
      labelled: whether there are labels to ask for.
    """

    image_size: tuple[int, int]
    names: Sequence[str]
    labelled: bool

    def __len__(self) -> int: ...

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless shuffled batches, the first being that of `first_step`; see `training_records`."""
        ...

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each."""
        ...

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `ordered_records`."""
        ...

    def scored_batches(self, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every record once, in order, with labels of their own sizes, which are never resized.

        'label' is uint8 [batch, h, w], filled up with IGNORE at the bottom and on the right; 'label_size' int32
        [batch, 2] are the height and width of each.
        """
        ...

    def image(self, record: int) -> np.ndarray:
        """The image of a record at the size at which it is stored, uint8 [h, w, 3], RGB."""
        ...

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        ...

    def to_memory(self, *, labels: bool, records: Sequence[int] | None = None) -> "ExampleSource":
        """These records (all by default), decoded into memory, with or without labels."""
        ...


def padded_labels(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of several sizes in one array, as `ExampleSource.scored_batches` has them: 'label' and 'label_size'."""
    sizes = np.array([label.shape for label in labels], np.int32)
    padded = np.full((len(labels), *sizes.max(0)), IGNORE, np.uint8)
    for into, label in zip(padded, labels, strict=True):
        into[: label.shape[0], : label.shape[1]] = label
    return padded, sizes


def example_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of records in one epoch: a permutation that depends on (seed, epoch) alone, int64 [size]."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    return generator.permutation(size)


def training_records(
    size: int, batch_size: int, *, seed: int, first_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """Records of each training batch, without end.

    Global example n = step * batch_size + place is record `example_order(seed, n // size, size)[n % size]`, so the
    order depends on the step alone: starting at a step gives what an uninterrupted run would have seen there.

    Args:
      size: number of records.
      batch_size: global batch size, over all hosts.
      seed: seed of the order.
      first_step: step of the first batch.
      shard: (index, count) of this host, which gets a contiguous slice of each global batch.

    Returns:
      Iterator over int64 [batch_size / count].

    Raises:
      ValueError: empty data set, or a batch that hosts cannot share evenly.
    """
    if size < 1:
        raise ValueError("the data set is empty: there is nothing to train on")
    return _records_of_places(size, batch_size, host_places(batch_size, shard), seed, first_step)


def _records_of_places(
    size: int, batch_size: int, places: np.ndarray, seed: int, step: int
) -> Iterator[np.ndarray]:
    orders: dict[int, np.ndarray] = {}
    while True:
        epochs, slots = np.divmod(step * batch_size + places, size)
        orders = {int(e): orders[e] if e in orders else example_order(seed, int(e), size) for e in np.unique(epochs)}
        yield np.array([orders[int(e)][s] for e, s in zip(epochs, slots, strict=True)], np.int64)
        step += 1


def ordered_records(
    size: int, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """Records 0..size-1 in batches; the last one is filled with -1 (padding).

    Args:
      size: number of records.
      batch_size: global batch size, over all hosts.
      shard: (index, count) of this host, which gets a contiguous slice of each global batch.

    Returns:
      Iterator over int64 [batch_size / count].

    Raises:
      ValueError: a batch that hosts cannot share evenly.
    """
    places = host_places(batch_size, shard)
    for start in range(0, size, batch_size):
        records = start + places
        yield np.where(records < size, records, -1)


def host_places(batch_size: int, shard: tuple[int, int]) -> np.ndarray:
    """Places in the global batch of this host's examples, int64 [batch_size / count]."""
    index, count = shard
    if batch_size < 1 or batch_size % count or not 0 <= index < count:
        raise ValueError(f"batch size {batch_size} cannot be shared by {count} hosts (this is host {index}): "
                         f"choose a positive multiple of {count}")  # fmt: skip
    share = batch_size // count
    return np.arange(index * share, (index + 1) * share, dtype=np.int64)
