"""Translated images on disk, and a data set that has them in place of its own."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, PngImagePlugin

from proda_jax.data.memory import MemorySource, held
from proda_jax.data.source import Batch, ExampleSource
from proda_jax.data.store import Store
from proda_jax.system import digests

FOLDER = "translated_source"  # of a stage whose network has translated the source


class Translations(Store):
    """A folder of translated images, PNG files of the size that the data set's images have here."""

    what, ending = "translated images", ".png"

    @staticmethod
    def encode(values: np.ndarray) -> bytes:
        """uint8 [height, width, 3], RGB, as a PNG, with a digest of the pixels."""
        file, note = io.BytesIO(), PngImagePlugin.PngInfo()
        note.add_text(digests.KEY, digests.of_arrays({"image": values}))
        Image.fromarray(values).save(file, "PNG", compress_level=1, pnginfo=note)
        return file.getvalue()

    @staticmethod
    def decode(contents: bytes) -> np.ndarray:
        """The pixels of a PNG, uint8 [height, width, 3]."""
        with Image.open(io.BytesIO(contents)) as file:
            values, noted = np.asarray(file.convert("RGB")), file.text.get(digests.KEY)
        if noted != digests.of_arrays({"image": values}):
            raise ValueError("its pixels are not what was written")
        return values


class Translated:
    """An `ExampleSource` for training: the labels of a data set, and translations of its images.

    Attributes:
      whole: the data set.
      store: its translations, one of each image.
      image_size, names, labelled: those of the data set.
    """

    def __init__(self, whole: ExampleSource, store: Translations):
        self.whole, self.store = whole, store
        self.image_size, self.names, self.labelled = whole.image_size, whole.names, whole.labelled

    def __len__(self) -> int:
        return len(self.whole)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless shuffled batches in the order of the data set's own."""
        return self._in_place(
            self.whole.training_batches(batch_size, seed=seed, first_step=first_step, labels=labels, shard=shard)
        )

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each."""
        return self._in_place(self.whole.chosen_batches(records, batch_size, labels=labels))

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        return self._in_place(self.whole.ordered_batches(batch_size, labels=labels, shard=shard))

    def image(self, record: int) -> np.ndarray:
        """The translation of a record's image, uint8 [height, width, 3], RGB."""
        return self.store.read(self.names[record])

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        return self.whole.label(record)

    def to_memory(self, *, labels: bool, records: Sequence[int] | None = None) -> MemorySource:
        """These records (all by default), decoded into memory, with or without labels."""
        chosen = np.arange(len(self)) if records is None else np.asarray(records, np.int64)
        batches = self.chosen_batches(chosen[:, None], 1, labels=labels)
        examples = ({key: values[0] for key, values in batch.items()} for batch in batches)
        return held(examples, [self.names[i] for i in chosen], self.image_size, self.store.what, labels=labels)

    def _in_place(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches with translations in place of images; padding, record -1, has those of record 0."""
        for batch in batches:
            names = [self.names[max(record, 0)] for record in batch["record"]]
            yield batch | {"image": np.stack([self.store.read(name) for name in names])}
