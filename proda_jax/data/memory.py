"""A whole data set as one array: small data sets, tests, and devices that can hold it."""

from collections.abc import Iterator, Sequence

import numpy as np

from proda_jax.data.source import Batch, ordered_records, training_records


class MemorySource:
    """An `ExampleSource` over arrays in memory.

    Attributes:
      images: uint8 [records, height, width, 3].
      labels: uint8 [records, height, width], train ids or IGNORE; None for an unlabelled data set.
      image_size: (height, width), pixels.
      names: unique name of each record.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None, names: Sequence[str] | None = None):
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 [records, height, width, 3], got {images.dtype} {images.shape}")
        if labels is not None and (labels.shape != images.shape[:3] or labels.dtype != np.uint8):
            raise ValueError(f"labels must be uint8 {images.shape[:3]}, got {labels.dtype} {labels.shape}")
        names = tuple(names) if names is not None else tuple(f"{i:06d}" for i in range(len(images)))
        if len(set(names)) != len(images):
            raise ValueError(f"{len(images)} images need as many different names, got {len(set(names))}")
        self.images, self.labels, self.names = images, labels, names
        self.image_size = (images.shape[1], images.shape[2])

    def __len__(self) -> int:
        return len(self.images)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless shuffled batches; see `source.training_records`."""
        self._check_labels(labels)
        records = training_records(len(self), batch_size, seed=seed, first_step=first_step, shard=shard)
        return (self._batch(r, labels) for r in records)

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        self._check_labels(labels)
        return (self._batch(r, labels) for r in ordered_records(len(self), batch_size, shard))

    def to_memory(self, *, labels: bool, records: Sequence[int] | None = None) -> "MemorySource":
        """These records alone (all by default), with or without labels."""
        self._check_labels(labels)
        chosen = np.arange(len(self)) if records is None else np.asarray(records, np.int64)
        names = [self.names[i] for i in chosen]
        return MemorySource(self.images[chosen], self.labels[chosen] if labels else None, names)

    @property
    def labelled(self) -> bool:
        """Whether there are labels to ask for."""
        return self.labels is not None

    def _check_labels(self, labels: bool) -> None:
        if labels and not self.labelled:
            raise ValueError("labels were asked for, but this data set has none")

    def _batch(self, records: np.ndarray, labels: bool) -> Batch:
        held = np.maximum(records, 0)  # padding repeats record 0
        batch = {"image": self.images[held], "record": records.astype(np.int32)}
        if labels:
            batch["label"] = self.labels[held]
        return batch
