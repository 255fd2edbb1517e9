"""A whole data set as one array: small data sets, tests, and devices that can hold it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from proda_jax.data.source import Batch, ordered_records, padded_labels, training_records
from proda_jax.system import memory


class MemorySource:
    """An `ExampleSource` over arrays in memory.

    Attributes:
      images: uint8 [records, height, width, 3].
      labels: uint8 [records, height, width], train ids or IGNORE; None for an unlabelled data set.
      own_labels: the labels at their own sizes, uint8 [h, w] each; `labels` where these are the images'.
      image_size: (height, width), pixels.
      names: unique name of each record.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        own_labels: Sequence[np.ndarray] | None = None,
    ):
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            found = f"{images.dtype} {images.shape}"
            raise ValueError(f"images must be uint8 [records, height, width, 3], RGB, got {found}")
        if labels is not None and (labels.shape != images.shape[:3] or labels.dtype != np.uint8):
            raise ValueError(f"labels must be uint8 {images.shape[:3]}, got {labels.dtype} {labels.shape}")
        names = tuple(names) if names is not None else tuple(f"{i:06d}" for i in range(len(images)))
        if len(set(names)) != len(images):
            raise ValueError(f"{len(images)} images need as many different names, got {len(set(names))}")
        self.images, self.labels, self.names = images, labels, names
        self.own_labels = labels if own_labels is None else own_labels
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

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each."""
        self._check_labels(labels)
        return (self._batch(r, labels) for r in records)

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        self._check_labels(labels)
        return (self._batch(r, labels) for r in ordered_records(len(self), batch_size, shard))

    def scored_batches(self, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every record once, in order, with labels of their own sizes; see `ExampleSource`."""
        self._check_labels(True)
        for records in ordered_records(len(self), batch_size, shard):
            labels, sizes = padded_labels([self.own_labels[record] for record in np.maximum(records, 0)])
            yield self._batch(records, labels=False) | {"label": labels, "label_size": sizes}

    def image(self, record: int) -> np.ndarray:
        """The image of a record, uint8 [height, width, 3], RGB."""
        return self.images[record]

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        self._check_labels(True)
        return self.own_labels[record]

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


def held(
    examples: Iterable[dict[str, np.ndarray]],
    names: Sequence[str],
    image_size: tuple[int, int],
    title: str,
    *,
    labels: bool,
    own_labels: bool = False,
) -> MemorySource:
    """Examples in memory: one array of images is filled, and nothing is held twice.

    Args:
      examples: one after another, 'image' uint8 [height, width, 3] and, where they are wanted, 'label' uint8
        [height, width] and 'own_label' uint8 [h, w].
      names: of the records, in that order.
      image_size: (height, width), pixels.
      title: of the data set, for the error.
      labels: whether there are labels.
      own_labels: whether there are such at their own sizes, too.

    Raises:
      ValueError: memory has no room for so many.
    """
    shape = (len(names), *image_size)
    _check_room(int(np.prod(shape)) * (4 if labels else 3), f"{len(names)} images of {title}")
    images = np.empty((*shape, 3), np.uint8)
    found = np.empty(shape, np.uint8) if labels else None
    own: list[np.ndarray] = []
    for place, example in enumerate(examples):
        images[place] = example["image"]
        if labels:
            found[place] = example["label"]
        if own_labels:  # where a label has the image's size, it is the same one
            if place == 0 and example["own_label"].shape != image_size:  # as the others probably are
                _check_room(example["own_label"].size * len(names), f"{len(names)} labels of {title}")
            own.append(found[place] if example["own_label"].shape == image_size else example["own_label"])
    return MemorySource(images, found, names, own if own_labels else None)


def _check_room(size: int, what: str) -> None:
    if (free := memory.free()) is not None and size > free:
        raise ValueError(
            f"{what} take {size / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} are free: read them from the disk, "
            "--config.data.loader=tfds, or name a smaller image_size"
        )
