"""Data sets on disk: prepared with TFDS, decoded by tf.data, or where TensorFlow cannot be imported, by threads."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
from etils import epath

from proda_jax.data import decode, decode_pillow, png_pixels
from proda_jax.data.decode import has_tensorflow
from proda_jax.data.label_spaces import IGNORE, LabelMap
from proda_jax.data.memory import MemorySource, held
from proda_jax.data.prepared import INDEX, Prepared
from proda_jax.data.source import Batch, ordered_records, padded_labels, training_records
from proda_jax.system.paths import expanded
from proda_jax.system.progress import progress


class TfdsSource:
    """An `ExampleSource` over a data set that `data_prep.prepare` wrote.

    Attributes:
      image_size: (height, width), pixels; images and labels of another size are resized to it.
      names: unique name of each record.
      labelled: whether the split has labels.
      label_scale: share of their own width and height at which labels are stored; 1 but for copies of old versions.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        *,
        data_dir: str,
        image_size: tuple[int, int],
        label_map: LabelMap,
        threads: int = 0,
        noted: Callable[[], Sequence[Mapping[int, int]] | None] | None = None,
    ):
        """Opens a split.

        Args:
          dataset: name of the prepared data set, such as 'gta5' or 'folder/photos'.
          split: one of its splits.
          data_dir: folder that holds the prepared data sets.
          image_size: (height, width) of every image, pixels.
          label_map: from raw label values to train ids.
          threads: that decode; 0 stands for one on each core.
          noted: gives the pixels of each raw value in each record's label, as preparation counted them; None, or what
            gives None, where it did not.

        Raises:
          FileNotFoundError: the data set has not been prepared.
          ValueError: it has no such split.
        """
        self._map = label_map
        self._threads = threads or decode.cores()
        self._folder = _prepared_directory(dataset, data_dir)
        prepared = Prepared(self._folder)
        if split not in prepared.splits:
            known = ", ".join(prepared.splits)
            raise ValueError(f"data set {dataset!r} has no split {split!r}; choose one of {known}")
        self.names = tuple(prepared.metadata["names"][split])
        self.label_scale = prepared.label_scale
        self.labelled = bool(prepared.metadata["labelled"][split])
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self._title = f"{dataset}/{split}"
        self._unlabelled = f"labels of {self._title} were asked for, but it was prepared without any"
        self._records = prepared.records(split)
        self._noted = noted

    def __len__(self) -> int:
        return len(self.names)

    def training_batches(
        self, batch_size: int, *, seed: int, first_step: int = 0, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Endless shuffled batches; see `source.training_records`."""
        records = training_records(len(self), batch_size, seed=seed, first_step=first_step, shard=shard)
        return self._batches(records, batch_size // shard[1], labels)

    def chosen_batches(self, records: Iterable[np.ndarray], batch_size: int, *, labels: bool) -> Iterator[Batch]:
        """Batches of these records, int64 [batch_size] each."""
        return self._batches(records, batch_size, labels)

    def ordered_batches(
        self, batch_size: int, *, labels: bool, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Every record once, in order; see `source.ordered_records`."""
        return self._batches(ordered_records(len(self), batch_size, shard), batch_size // shard[1], labels)

    def scored_batches(self, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every record once, in order, with labels of their own sizes; see `ExampleSource`."""
        records = ordered_records(len(self), batch_size, shard)
        for batch in self._batches(records, batch_size // shard[1], True, own_size=True):
            del batch["label"]  # at the images' size
            yield {"label" if key == "own_label" else key: value for key, value in batch.items()}

    def image(self, record: int) -> np.ndarray:
        """The image of a record at the size at which it is stored, uint8 [h, w, 3], RGB."""
        return decode_pillow.image(self._records[record]["image"])

    def label(self, record: int) -> np.ndarray:
        """The label of a record at its own size, train ids or IGNORE, uint8 [h, w]."""
        if not self.labelled:
            raise ValueError(self._unlabelled)
        return decode_pillow.label(self._records[record]["label"], self._map)

    def class_pixels(self, classes: int) -> np.ndarray | None:
        """Pixels of each class in each record's label at its own size, int64 [records, classes], without decoding any.

        None where preparation noted none, or stored labels smaller than they were, as versions before 0.2 did.
        """
        noted = self._noted() if self._noted and self.labelled and self.label_scale == 1.0 else None
        if noted is None or len(noted) != len(self):
            return None
        found = np.zeros((len(self), classes), np.int64)
        for pixels, values in zip(found, noted, strict=True):
            of = self._map.table[np.fromiter(values, np.int64, len(values))]
            np.add.at(pixels, of[of < classes], np.fromiter(values.values(), np.int64, len(values))[of < classes])
        return found

    def to_memory(
        self, *, labels: bool, records: Sequence[int] | None = None, own_labels: bool = False
    ) -> MemorySource:
        """These records (all by default) decoded into memory, for what fits and is read many times.

        Args:
          labels: whether their labels are wanted.
          records: which.
          own_labels: whether these are wanted at their own sizes, too.

        Raises:
          ValueError: memory has no room for them.
        """
        chosen = np.arange(len(self)) if records is None else np.asarray(records, np.int64)
        names = [self.names[i] for i in chosen]
        with progress(f"decoding {self._title} into memory", len(chosen), leave=False) as bar:

            def examples() -> Iterator[dict[str, np.ndarray]]:
                for batch in self._batches(chosen[:, None], 1, labels, own_size=own_labels):
                    yield {key: values[0] for key, values in batch.items()}
                    bar.update()

            return held(examples(), names, self.image_size, self._title, labels=labels, own_labels=own_labels)

    def _batches(
        self, records: Iterable[np.ndarray], batch_size: int, labels: bool, *, own_size: bool = False
    ) -> Iterator[Batch]:
        """Batches of these records; with `own_size` they have labels of their own sizes besides, 'own_label'."""
        if labels and not self.labelled:
            raise ValueError(self._unlabelled)
        by = self._decoded_by_tensorflow if has_tensorflow() else self._decoded_by_threads
        return by(records, batch_size, labels, own_size)

    def _decoded_by_threads(
        self, records: Iterable[np.ndarray], batch_size: int, labels: bool, own_size: bool
    ) -> Iterator[Batch]:
        def decoded(record: int) -> dict[str, np.ndarray]:
            encoded = self._encoded(record, labels)
            image = decode_pillow.image(encoded["image"])
            label = decode_pillow.label(encoded["label"], self._map) if labels else None
            return self._example(decode_pillow, record, image, label, own_size)

        numbers, running = _each(records), deque()
        ahead = 2 * batch_size + self._threads  # examples
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                while True:
                    for record in itertools.islice(numbers, batch_size + ahead - len(running)):
                        running.append(pool.submit(decoded, record))
                    if not running:
                        return
                    batch = [running.popleft().result() for _ in range(min(batch_size, len(running)))]
                    yield _stacked(batch)
            finally:  # whoever asked may want no more
                pool.shutdown(wait=False, cancel_futures=True)

    def _decoded_by_tensorflow(
        self, records: Iterable[np.ndarray], batch_size: int, labels: bool, own_size: bool
    ) -> Iterator[Batch]:
        import tensorflow as tf

        refused: list[ValueError] = []

        def read(record: np.int32) -> tuple[np.ndarray, bytes, bytes]:
            """Pixels and no file, or the file that TensorFlow has to decode; the label's file."""
            try:
                encoded = self._encoded(int(record), labels)
            except ValueError as error:
                refused.append(error)
                raise
            pixels, label = png_pixels.pixels(encoded["image"]), encoded.get("label", b"")
            return (np.zeros((0, 0, 3), np.uint8), encoded["image"], label) if pixels is None else (pixels, b"", label)

        def decoded(record):
            types = (tf.uint8, tf.string, tf.string)
            pixels, image, label = tf.numpy_function(read, [record], types, stateful=False)
            pixels, image = tf.ensure_shape(pixels, (None, None, 3)), tf.ensure_shape(image, ())
            image = tf.cond(tf.size(pixels) > 0, lambda: pixels, lambda: decode.image(image))
            label = decode.label(tf.ensure_shape(label, ()), self._map) if labels else None
            return self._example(decode, record, image, label, own_size)

        numbers = tf.data.Dataset.from_generator(lambda: _each(records), output_signature=tf.TensorSpec((), tf.int32))
        options = tf.data.Options()
        options.threading.private_threadpool_size = self._threads
        options.deterministic = True
        options.autotune.enabled = False  # nothing is left to tune, and its thread can hold up the end for a minute
        examples = numbers.map(decoded, num_parallel_calls=self._threads, deterministic=True)
        if own_size:
            filling = {key: np.zeros((), spec.dtype.as_numpy_dtype) for key, spec in examples.element_spec.items()}
            batches = examples.padded_batch(batch_size, padding_values=filling | {"own_label": np.uint8(IGNORE)})
        else:
            batches = examples.batch(batch_size)
        try:
            yield from batches.prefetch(2).with_options(options).as_numpy_iterator()
        except tf.errors.OpError:  # in which TensorFlow wraps what was raised while it read
            if refused:
                raise refused[0] from None
            raise

    def _encoded(self, record: int, labels: bool) -> dict[str, bytes]:
        """The files of a record: 'image' and, where they are asked for, 'label'."""
        held = max(record, 0)  # padding repeats record 0
        stored = self._records[held]
        name = stored["name"].decode()
        if name != self.names[held]:
            raise ValueError(f"{self._title}: record {held} is {name}, not {self.names[held]}: prepare it again")
        if not labels:
            return {"image": stored["image"]}
        if not stored.get("label"):
            raise ValueError(f"{self._title}: {name} has no label in {self._folder}, of when it had none: "
                             "data_prep.prepare, with the same settings, brings that up to date")  # fmt: skip
        return {"image": stored["image"], "label": stored["label"]}

    def _example(self, using: ModuleType, record: int, image, label, own_size: bool) -> dict:
        """An example of a batch; `label` is None where none is wanted."""
        example = {"image": using.resized(image, self.image_size, "bilinear"), "record": record}
        if label is not None:
            example["label"] = using.resized(label[..., None], self.image_size, "nearest")[..., 0]
        if own_size:
            example |= {"own_label": label, "label_size": using.label_size(label)}
        return example


def _each(records: Iterable[np.ndarray]) -> Iterator[np.int32]:
    return (np.int32(record) for batch in records for record in batch)


def _stacked(examples: Sequence[dict[str, np.ndarray]]) -> Batch:
    """A batch of examples; their own labels are filled up to one size."""
    batch = {key: np.stack([example[key] for example in examples]) for key in examples[0] if key != "own_label"}
    if "own_label" in examples[0]:
        batch["own_label"], _ = padded_labels([example["own_label"] for example in examples])
    return batch


def _prepared_directory(dataset: str, data_dir: str) -> epath.Path:
    """Folder of the newest prepared version of a data set."""
    parent = epath.Path(expanded(data_dir)) / dataset
    versions = []
    if parent.exists():
        named = (path for path in parent.iterdir() if re.fullmatch(r"[\d.]+", path.name))  # others are being replaced
        versions = [path for path in named if (path / INDEX).exists()]
    if not versions:
        raise FileNotFoundError(f"data set {dataset!r} is not prepared: no {INDEX} under {parent}; run "
                                f"python -m data_prep.prepare --dataset={dataset} --data_dir={data_dir}")  # fmt: skip
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
