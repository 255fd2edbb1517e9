"""Reads prepared data sets, which TFDS writes, without TFDS: an index in JSON, and records in ArrayRecord files."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from proda_jax.system import digests
from proda_jax.system.files import local_copy, read_json

INDEX, METADATA = "dataset_info.json", "metadata.json"
INDEX_DIGEST = "index"  # in the metadata: TFDS, which writes the index, has no place for it there


class Prepared:
    """A prepared data set.

    Attributes:
      splits: number of records in each of the files of each split.
    """

    def __init__(self, folder: epath.PathLike):
        """Reads the index; records are read from a local copy if the folder is in a bucket.

        Raises:
          ValueError: it is damaged.
        """
        self._folder, self._remedy = local_copy(folder), f"delete {folder} and give the same command again"
        index = read_json(self._folder / INDEX, self._remedy)
        try:
            self._name = index["name"]
            self.splits = {split["name"]: [int(n) for n in split["shardLengths"]] for split in index["splits"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._folder / INDEX} is damaged ({error}): {self._remedy}") from None

    @functools.cached_property
    def metadata(self) -> dict:
        """{'origin': what it was made from, 'names': of each split's records, 'labelled': whether each split is}.

        Raises:
          ValueError: it is damaged, or the index is not the one that was written with it.
        """
        found = read_json(self._folder / METADATA, self._remedy)
        if found.get(INDEX_DIGEST, (now := index_digest(self._name, self.splits))) != now:
            raise ValueError(f"{self._folder / INDEX} is damaged (it has changed since it was written): {self._remedy}")
        return found

    @property
    def label_scale(self) -> float:
        """Share of their width and height at which labels are stored; below 1 in copies by versions before 0.2."""
        return self.metadata.get("label_scale") or self.metadata.get("origin", {}).get("store_scale", 1.0)

    def records(self, split: str) -> "Records":
        """The records of a split, encoded."""
        lengths = self.splits[split]
        files = (f"{self._name}-{split}.array_record-{i:05d}-of-{len(lengths):05d}" for i in range(len(lengths)))
        where = [f"{self._folder / file}[0:{n}]" for file, n in zip(files, lengths, strict=True)]
        return Records(where, f"{self._folder}, split {split}", self._remedy)


def index_digest(name: str, splits: Mapping[str, Sequence[int]]) -> str:
    """The digest of what is read of the index: the data set's name, and the lengths of each split's files."""
    return digests.of_json([name, splits])


class Records(Sequence):
    """Records at random places, in bytes: {'image': PNG or JPEG, 'label': PNG or nothing, 'name': UTF-8}."""

    def __init__(self, files: list[str], title: str, remedy: str):
        """Opens none yet; a file and the records of it that are wanted are written 'path[first:end]'.

        `title` and `remedy` are for the error where one cannot be read.
        """
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._title, self._remedy = title, remedy
        self._encoded = ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, number: int) -> dict[str, bytes]:
        """A record.

        Raises:
          ValueError: it is damaged, or its file is.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        try:
            return parse_example(self._encoded[number])
        except Exception as error:  # of the library, which does not say which data set it read
            raise ValueError(f"record {number} of {self._title} cannot be read ({error}): {self._remedy}, which "
                             "prepares it anew") from error  # fmt: skip


def parse_example(encoded: bytes) -> dict[str, bytes]:
    """The features of a tf.train.Example, each a single string: in the protocol's wire format, messages in messages.

    Raises:
      ValueError: it is something else.
    """
    try:
        [features] = _fields(memoryview(encoded))
        found = {}
        for entry in _fields(features):
            name, feature = _fields(entry)
            [strings] = _fields(feature)
            [value] = _fields(strings)
            found[bytes(name).decode()] = bytes(value)
        return found
    except (ValueError, IndexError) as error:
        raise ValueError(f"it is no example of a prepared data set ({error})") from None


def _fields(message: memoryview) -> Iterator[memoryview]:
    """The contents of each field of a message, all of which have a length before them."""
    position = 0
    while position < len(message):
        kind, position = _number(message, position)
        if kind & 7 != 2:
            raise ValueError(f"a field of wire type {kind & 7}")
        length, position = _number(message, position)
        yield message[position : position + length]
        position += length


def _number(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
