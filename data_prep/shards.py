"""Writes the examples of a data set as shards, side by side, each whole or not at all, and goes on where it stopped."""

import contextlib
import dataclasses
import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from proda_jax.data.decode import cores
from proda_jax.data_prep.examples import Example
from proda_jax.data_prep.records import FileState, Record, Stored, states
from proda_jax.system.files import MAKE_ROOM, is_remote, unfinished_name, write_atomically
from proda_jax.system.progress import progress

SHARD_SIZE = 64  # examples: what an interruption costs each thread
PLAN = "plan.json"
_MOST_PROBLEMS = 20  # after which nothing more is read


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard: its file and what its examples hold."""

    path: epath.Path
    examples: list[Stored]


def write(
    folder: epath.Path,
    plan: dict,
    splits: dict[str, Sequence[Record]],
    make: Callable[[Record], Example],
    features: tfds.features.FeaturesDict,
    title: str,
) -> dict[str, list[Shard]]:
    """Writes all examples.

    Args:
      folder: for the shards; those that it holds from an earlier attempt at the same plan are kept, unless their files
        have changed since.
      plan: what is written, JSON-serialisable.
      splits: records of each split.
      make: reads the example of a record.
      features: how examples are serialised.
      title: for the progress bar.

    Returns:
      The shards of each split, in order.

    Raises:
      ValueError: naming the files that cannot be used; shards without such files are kept.
    """
    _resume(folder, plan)
    tasks = {
        (split, start // SHARD_SIZE): records[start : start + SHARD_SIZE]
        for split, records in splits.items()
        for start in range(0, len(records), SHARD_SIZE)
    }
    problems, stop = Problems(), threading.Event()
    bar = progress(f"preparing {title}", sum(map(len, splits.values())))

    def made(records: Sequence[Record]) -> Iterator[tuple[bytes, Stored]]:
        for record in records:
            if stop.is_set() or problems.many:
                return
            with problems.noted(record):
                example = make(record)
                yield features.serialize_example(features.encode_example(example.features)), example.stored
            bar.update()

    def run(split: str, number: int) -> Shard | None:
        path = folder / f"{split}-{number:05d}.array_record"
        records = tasks[split, number]
        note = path.with_suffix(".json")  # written last: where it is, the shard is whole
        if note.exists() and path.exists():
            stored = [Stored.from_json(values) for values in _noted(note) or ()]
            if [one.files for one in stored] == [_states(record) for record in records]:
                bar.update(len(records))
                return Shard(path, stored)
        stored = _write_records(path, made(records), len(records))
        if stored is None:
            return None
        write_atomically(note, json.dumps([one.as_json() for one in stored]))
        return Shard(path, stored)

    with bar, ThreadPoolExecutor(cores()) as pool:
        running = {pool.submit(run, *task): task for task in tasks}
        try:
            finished = {running[future]: future.result() for future in as_completed(running)}
        finally:  # an interruption or an unforeseen error: do not read on for the rest of the archive
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    problems.raise_any()
    return {split: [finished[task] for task in tasks if task[0] == split] for split in splits}


def _noted(note: epath.Path) -> Any:
    """What an earlier attempt noted; None where that is damaged, so that it is made again."""
    try:
        return json.loads(note.read_text())
    except ValueError:
        return None


def _states(record: Record) -> tuple[FileState, ...] | None:
    """The states of a record's files; None where one is gone, which is said when it is read."""
    try:
        return states(record)
    except ValueError:
        return None


class Problems:
    """Files that cannot be used: all are named at the end, unless there are very many."""

    def __init__(self):
        self._messages: list[str] = []

    @property
    def many(self) -> bool:
        return len(self._messages) >= _MOST_PROBLEMS

    @contextlib.contextmanager
    def noted(self, record: Record) -> Iterator[None]:
        """Notes an error that names its file; one of what a library makes of the record gets the file's name."""
        try:
            yield
        except UnicodeError as error:  # a ValueError, too
            self._messages.append(f"{ascii(str(record.image))} cannot be used: its name is not UTF-8 ({error.reason}); "
                                  "rename it")  # fmt: skip
        except ValueError as error:
            self._messages.append(str(error))

    def raise_any(self) -> None:
        if len(self._messages) == 1:
            raise ValueError(self._messages[0])
        if self._messages:
            more = " (and maybe more: reading stopped there)" if self.many else ""
            listed = "\n  ".join(sorted(self._messages))
            raise ValueError(f"{len(self._messages)} files cannot be used{more}:\n  {listed}")


def _resume(folder: epath.Path, plan: dict) -> None:
    """Makes the folder, or keeps it if it was made for the same plan."""
    note = folder / PLAN
    if note.exists() and _noted(note) == json.loads(json.dumps(plan)):
        return
    if folder.exists():
        folder.rmtree()
    folder.mkdir(parents=True)
    write_atomically(note, json.dumps(plan))


def _write_records(
    path: epath.Path, examples: Iterable[tuple[bytes, Stored]], expected: int
) -> list[Stored] | None:
    """Writes an ArrayRecord file that appears whole, or not at all where examples are missing."""
    stored = []
    with tempfile.TemporaryDirectory() as scratch:  # the library writes to local disks only
        unfinished = epath.Path(scratch) / path.name if is_remote(path) else unfinished_name(path)
        try:
            with _blaming_the_disk(path):
                writer = ArrayRecordWriter(str(unfinished), "group_size:1")
            for serialised, one in examples:
                with _blaming_the_disk(path):
                    writer.write(serialised)
                stored.append(one)
            with _blaming_the_disk(path):
                writer.close()
            if len(stored) < expected:
                return None
            if is_remote(path):
                path.write_bytes(unfinished.read_bytes())
            else:
                unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return stored


@contextlib.contextmanager
def _blaming_the_disk(path: epath.Path) -> Iterator[None]:
    """For what writes alone: what ArrayRecord raises then is of a disk that is full or gone."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path} could not be written ({error}). {MAKE_ROOM}") from error
