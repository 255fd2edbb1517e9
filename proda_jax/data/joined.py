"""Several data sets as one: each has its share of every training batch (NumPy only)."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from proda_jax.data.memory import MemorySource
from proda_jax.data.rare_classes import RareClassOrder
from proda_jax.data.source import Batch, ExampleSource, example_order, host_places, ordered_records


class Shares:
    """Which of several data sets each global example is from.

    Example n is at place i = n % batch_size of step t = n // batch_size, and from the data set in whose part of
    [0, 1) the number (i + u) / batch_size lies, with u uniform by (seed, t): systematic sampling, by which a batch has
    of each data set batch_size times its share, rounded up or down, and on average exactly that.
    """

    def __init__(self, shares: Sequence[float], batch_size: int, seed: int):
        """Prepares the draws.

        Args:
          shares: of each data set, positive; only their proportions count.
          batch_size: global batch size.
          seed: of the draws.
        """
        self._ends = np.cumsum(np.asarray(shares, np.float64)) / np.sum(shares)
        self._batch_size, self._seed = batch_size, seed

    def of(self, example: int) -> int:
        """Number of the data set that the n-th global example is from, which depends on (seed, n) alone."""
        step, place = divmod(example, self._batch_size)
        shift = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, step)))).random()
        found = np.searchsorted(self._ends, (place + shift) / self._batch_size, side="right")
        return min(int(found), len(self._ends) - 1)


class Joined:
    """An `ExampleSource` for training over several, numbered one after another.

    Attributes:
      parts: the data sets; all have images of one size.
      shares: of each in training batches.
      names: 'title/name' of each record.
      labelled: whether all of them have labels.
    """

    def __init__(self, parts: Sequence[ExampleSource], titles: Sequence[str], shares: Sequence[float]):
        """Reads nothing.

        Raises:
          ValueError: images of two sizes.
        """
        sizes = [part.image_size for part in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"{', '.join(titles)} have images of {sizes}, and share batches: give them one image_size")
        self.parts, self.shares, self.image_size = tuple(parts), tuple(shares), sizes[0]
        self.names = tuple(f"{title}/{name}" for title, part in zip(titles, parts, strict=True) for name in part.names)
        self.labelled = all(part.labelled for part in parts)
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless batches in which each data set has its share.

        Global example n, if it is of data set p, is the record at place n % size of p's order in epoch n // size, which
        depends on (seed, p, epoch) alone: within an epoch no image comes twice.
        """
        records = self._training_records(batch_size, seed, first_step, shard)
        return self.chosen_batches(records, batch_size // shard[1], labels=labels)

    def _training_records(
        self, batch_size: int, seed: int, step: int, shard: tuple[int, int]
    ) -> Iterator[np.ndarray]:
        shares, places = Shares(self.shares, batch_size, seed), host_places(batch_size, shard)
        orders: dict[tuple[int, int], np.ndarray] = {}
        while True:
            used, found = {}, []
            for example in (int(n) for n in step * batch_size + places):
                part = shares.of(example)
                epoch, place = divmod(example, len(self.parts[part]))
                if (key := (part, epoch)) not in used:
                    used[key] = orders[key] if key in orders else example_order(
                        part_seed(seed, part), epoch, len(self.parts[part])
                    )  # fmt: skip
                found.append(self.starts[part] + used[key][place])
            orders = {key: order for key, order in orders.items() if key[0] not in {part for part, _ in used}} | used
            yield np.array(found, np.int64)
            step += 1

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each; padding, -1, repeats the first record."""
        ours, *copies = _copies(records, len(self.parts) + 1)
        examples: dict[int, Iterator[Batch]] = {}  # of parts that have been drawn: of others, reading ahead has no end
        for wanted in ours:
            batch = []
            for record in wanted:
                part = self.part_of(max(int(record), 0))
                if part not in examples:
                    examples[part] = self.parts[part].chosen_batches(
                        self._records_of(part, copies[part]), 1, labels=labels
                    )
                batch.append(next(examples[part]))
            joined = {key: np.concatenate([one[key] for one in batch]) for key in batch[0]}
            yield joined | {"record": np.asarray(wanted, np.int32)}

    def part_of(self, record: int) -> int:
        """Number of the data set that a record is of."""
        return int(np.searchsorted(self.starts, record, side="right")) - 1

    def _records_of(self, part: int, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for record in itertools.chain.from_iterable(batches):
            if self.part_of(held := max(int(record), 0)) == part:
                yield np.array([held - self.starts[part]], np.int64)

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        records = ordered_records(len(self), batch_size, shard)
        return self.chosen_batches(records, batch_size // shard[1], labels=labels)

    def image(self, record: int) -> np.ndarray:
        """The image of a record, uint8 [h, w, 3], RGB."""
        return self.parts[self.part_of(record)].image(int(record - self.starts[self.part_of(record)]))

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        return self.parts[self.part_of(record)].label(int(record - self.starts[self.part_of(record)]))

    def to_memory(self, *, labels: bool, records: Sequence[int] | None = None) -> MemorySource:
        """These records (all by default) in memory, as one data set; shares are forgotten."""
        chosen = np.arange(len(self)) if records is None else np.asarray(records, np.int64)
        found = list(self.chosen_batches(chosen[:, None], 1, labels=labels))
        images, truth = (np.concatenate([batch[key] for batch in found]) if key in found[0] else None
                         for key in ("image", "label"))  # fmt: skip
        return MemorySource(images, truth, [self.names[record] for record in chosen])


class JoinedRareClassOrder(RareClassOrder):
    """Rare-class sampling in several data sets: each has its share of a batch, and in it classes of its own rarity."""

    def __init__(self, pixels: np.ndarray, joined: Joined, batch_size: int, *, seed: int, **settings: Any):
        """Prepares the draws.

        Args:
          pixels: of each class in each label of the joined data set, [records, classes].
          joined: the data sets.
          batch_size: global batch size.
          seed: of the draws.
          **settings: of `RareClassOrder`.
        """
        self._shares, self._starts = Shares(joined.shares, batch_size, seed), joined.starts
        self._orders = [
            RareClassOrder(pixels[start:end], seed=part_seed(seed, part), **settings)
            for part, (start, end) in enumerate(itertools.pairwise(joined.starts))
        ]

    def draw(self, example: int) -> tuple[int, int]:
        """(record, class) of the n-th global example, which depends on (seed, n) alone."""
        part = self._shares.of(example)
        record, chosen = self._orders[part].draw(example)
        return int(self._starts[part]) + record, chosen


def part_seed(seed: int, part: int) -> int:
    """Seed of a data set's own order among several."""
    return int(np.random.SeedSequence((seed, part)).generate_state(1)[0])


def _copies(items: Iterable, number: int) -> list[Iterator]:
    """Iterators that each give all of the items, and may be read by as many threads."""
    lock, source, waiting = threading.Lock(), iter(items), [deque() for _ in range(number)]

    def copy(mine: deque) -> Iterator:
        while True:
            with lock:
                if not mine:
                    try:
                        item = next(source)
                    except StopIteration:
                        return
                    for queue in waiting:
                        queue.append(item)
                item = mine.popleft()
            yield item

    return [copy(queue) for queue in waiting]
