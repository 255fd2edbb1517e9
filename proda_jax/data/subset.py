"""Some records of a data set as a data set: labelled target images, and the rest, whose labels nobody asks for."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from proda_jax.data.source import Batch, ExampleSource, ordered_records, training_records


class Subset:
    """An `ExampleSource` for training over some records of another; no other record of that is read.

    Attributes:
      whole: the data set.
      image_size, labelled: those of the whole.
      names: of the records that it has.
    """

    def __init__(self, whole: ExampleSource, records: Sequence[int]):
        """Reads nothing.

        Args:
          whole: the data set.
          records: of it, each once; they are numbered anew, from 0.
        """
        self.whole, self._records = whole, np.asarray(records, np.int64)
        self._numbers = np.full(len(whole), -1)
        self._numbers[self._records] = np.arange(len(self._records))
        self.names = tuple(whole.names[record] for record in self._records)
        self.image_size, self.labelled = whole.image_size, whole.labelled

    def __len__(self) -> int:
        return len(self._records)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless shuffled batches; see `source.training_records`."""
        records = training_records(len(self), batch_size, seed=seed, first_step=first_step, shard=shard)
        return self.chosen_batches(records, batch_size // shard[1], labels=labels)

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each; padding, -1, repeats the first record."""
        theirs = (self._records[np.maximum(some, 0)] for some in records)
        for batch in self.whole.chosen_batches(theirs, batch_size, labels=labels):
            yield batch | {"record": self._numbers[batch["record"]].astype(np.int32)}

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        records, again = (ordered_records(len(self), batch_size, shard) for _ in range(2))
        batches = self.chosen_batches(records, batch_size // shard[1], labels=labels)
        for batch, found in zip(batches, again, strict=True):
            yield batch | {"record": found.astype(np.int32)}

    def image(self, record: int) -> np.ndarray:
        """The image of a record, uint8 [h, w, 3], RGB."""
        return self.whole.image(int(self._records[record]))

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        return self.whole.label(int(self._records[record]))

    def to_memory(self, *, labels: bool, records: Sequence[int] | None = None) -> ExampleSource:
        """These records (all by default), decoded into memory, with or without labels."""
        chosen = self._records if records is None else self._records[np.asarray(records, np.int64)]
        return self.whole.to_memory(labels=labels, records=chosen)
