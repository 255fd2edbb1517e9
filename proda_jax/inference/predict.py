"""Predicts files: which of them, in which batches, and what is written of each."""

import collections
import concurrent.futures
import contextlib
import errno
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from proda_jax.data import pixels
from proda_jax.data.decode import cores
from proda_jax.data.pixels import Unreadable
from proda_jax.inference import images, video, video_colours
from proda_jax.inference.images import Input
from proda_jax.inference.prediction import Prediction
from proda_jax.inference.record import Record
from proda_jax.inference.segmenter import Segmenter
from proda_jax.inference.video import Reader, Writer
from proda_jax.run.card import Card
from proda_jax.system import memory
from proda_jax.system.files import NotWritten, check_writable, write_atomically
from proda_jax.system.folders import PassedOver, shown
from proda_jax.system.paths import expanded
from proda_jax.system.progress import Progress, progress, say

# what can be written of each file, each in a folder of that name
KINDS = ("ids", "label_ids", "colors", "overlays", "confidence", "entropy")
COLORED = ("colors", "overlays")
WAITING = 32  # images at most that wait for others of their size
FRAMES = 8  # of a video that are read ahead, and that wait to be written
LARGE = 2**25  # pixels from which images are predicted one after another
BYTES = 16  # of memory that a pixel of a large image takes while it is read, predicted and written
_OF_ONE_FILE = (None, errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL, errno.EILSEQ)  # what no other file need fail by


def predict(
    segmenter: Segmenter,
    pattern: str,
    output: epath.PathLike,
    kinds: Sequence[str] = ("ids", "colors", "overlays"),
    *,
    skip_existing: bool = False,
    untagged_video: str = video_colours.AUTO,
) -> None:
    """Predicts images and videos, and says how long it took.

    Args:
      segmenter: the network.
      pattern: what to predict, see `images.find`.
      output: folder for the results; of each input `<kind>/<its place below what was searched>`, PNGs of images, videos
        of videos, `card.json`, the names and colours of the classes, and two notes, see `record.Record`.
      kinds: which of `KINDS` are written.
      skip_existing: leave out what an interrupted prediction by the same network and options has done already.
      untagged_video: what colours of videos mean that do not say so, see `video_colours.settle`.

    Raises:
      ValueError: there is nothing to predict or nowhere to write, results of another network are to be skipped, or,
        once the others are done, some of the files could not be predicted.
    """
    check_kinds(kinds, segmenter.card)
    inputs, passed_over = images.find(pattern, output, KINDS)
    output = epath.Path(expanded(output))
    check_writable(output, "--output")
    record, all_of_them = Record(output, kinds), len(inputs)
    if skip_existing:
        record.check(segmenter, untagged_video)
        inputs = [entry for entry in inputs if not record.is_done(entry)]
    else:
        record.begin(segmenter, untagged_video)
    with progress("predicting", len(inputs)) as bar:
        files = Files(segmenter, record, output, kinds, bar, untagged_video)
        try:
            write_atomically(output / "card.json", json.dumps(segmenter.card.as_json(), indent=2))
            with contextlib.closing(record):
                files.predict_images([entry for entry in inputs if not entry.is_video])
                files.predict_videos([entry for entry in inputs if entry.is_video])
        except OSError as error:
            raise ValueError(f"--output={output} cannot be written to any more ({error})") from error
    speed = "" if files.speed is None else f"; {files.speed:.2f} a second without those"
    print(f"{files.done} images and frames in {files.seconds:.1f} s, of which {files.compiling:.1f} s for the first of "
          f"each size, when the network is compiled{speed}")  # fmt: skip
    if all_of_them > len(inputs):
        print(f"skipped: {all_of_them - len(inputs)} of {all_of_them} files, which were done already")
    for line in passed_over.lines():
        print(f"passed over: {line}")
    if files.paged:
        print(f"{len(files.paged)} images have several pages or frames, of which the first was taken, such as "
              f"{shown(min(files.paged))}")  # fmt: skip
    print(f"results: {output}")
    files.raise_for_failures(all_of_them, passed_over)


def check_kinds(kinds: Sequence[str], card: Card) -> None:
    """Refuses kinds of results that there are not, or not of this network."""
    if not kinds or (unknown := [kind for kind in kinds if kind not in KINDS]):
        raise ValueError(f"--write={','.join(unknown) if kinds else ''}: expected some of {', '.join(KINDS)}")
    if "label_ids" in kinds and card.label_ids is None:
        raise ValueError("--write=label_ids: the labels of this network's data set are colours, or nobody noted what "
                         "they are: leave it out, or name the configuration that it was trained with")  # fmt: skip


def picture(segmenter: Segmenter, kind: str, image: np.ndarray, found: Prediction) -> np.ndarray:
    """One of `KINDS` of an image [height, width, 3] and its prediction, as its file holds it."""
    if kind == "label_ids":
        ids = np.array(segmenter.card.label_ids)
        return ids.astype(np.uint8 if ids.max() < 256 else np.uint16)[found.labels]
    if kind == "colors":
        return segmenter.colorize(found.labels)
    if kind == "overlays":
        return segmenter.overlay(image, found.labels)
    return {"ids": found.labels, "confidence": found.confidence, "entropy": found.entropy}[kind]


class Files:
    """Predicts files with one network and writes what is wanted of each.

    Attributes:
      failed: files that could not be predicted, with the reason.
      paged: images with several pages or frames, of which the first counts.
      done: images and frames that were predicted.
      compiling: seconds that went into the first batch of each size.
      first: images and frames in these batches.
    """

    def __init__(
        self, segmenter: Segmenter, record: Record, output: epath.Path, kinds: Sequence[str], bar: Progress,
        untagged_video: str = video_colours.AUTO,
    ):  # fmt: skip
        self._segmenter, self._output, self._kinds, self._bar = segmenter, output, kinds, bar
        self._record = record
        self._untagged_video = untagged_video
        self._compiled: set[tuple] = set()
        self._started = time.monotonic()
        self._large: list[Input] = []
        self._no_images: list[Input] = []
        self.failed: dict[epath.Path, str] = {}
        self.paged: list[epath.Path] = []
        self.done, self.compiling, self.first = 0, 0.0, 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    @property
    def speed(self) -> float | None:
        """Images and frames a second, reading and writing included, without the first batches; None without others."""
        others, took = self.done - self.first, self.seconds - self.compiling
        return others / took if others and took > 0 else None

    def predict_images(self, inputs: Iterable[Input]) -> None:
        """Predicts image files; they are read and written beside, and images of one size are predicted together.

        Large ones come last, one after another, so that the memory which is taken does not grow with their number.
        """
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            read = in_order(pool, self._read, inputs, ahead=2 * cores())
            self._finish(in_order(pool, lambda task: self._write(*task), self._batched(read), ahead=2 * cores()))
        for entry in self._large:
            self._finish(self._write(*task) for task in self._batched([self._read(entry, large=True)]))
        self.predict_videos(self._no_images)  # in spite of their names

    def predict_videos(self, inputs: Iterable[Input]) -> None:
        """Predicts videos, every frame of each, and writes videos of the same times.

        Frames are read and written beside, each in a thread, in their order.
        """
        for entry in inputs:
            try:
                self._predict_video(entry)
            except (Unreadable, OSError) as error:
                self._leave_out(entry, reason_of(error))

    def _predict_video(self, entry: Input) -> None:
        self._record.look(entry)
        opened = Reader(entry.path, self._untagged_video, self._segmenter.value_range)
        with contextlib.closing(opened) as reader, contextlib.ExitStack() as stack:
            writers = {
                kind: stack.enter_context(Writer(self._output / kind / entry.name, reader, grey=kind not in COLORED))
                for kind in self._kinds
            }
            # after the writers, so that nothing is written any more when they end
            reading, writing = (stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)) for _ in range(2))
            self._bar.extend(max(reader.count - 1, 0))
            seen = ((at, frame, self._segmenter.resized(frame)) for frame, at in reader.frames())
            frames = ahead(reading, seen, FRAMES)
            batches = grouped(frames, self._program, lambda key: self._segmenter.batch_size(key[0]), in_turn=True)
            size: tuple[int, int] | None = None  # of the first frame

            def write(predicted: tuple[int | None, np.ndarray, Prediction]) -> None:
                nonlocal size
                at, frame, found = predicted
                size = size or frame.shape[:2]
                if frame.shape[:2] != size:
                    frame = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
                for kind, writer in writers.items():
                    writer.add(self._picture(kind, frame, found.at(size)), at)
                self._bar.update()

            self._finish(in_order(writing, write, self._predicted(batches), ahead=FRAMES))
            if size is None:
                raise Unreadable("it holds no frame that can be read")
        self._record.note(entry)
        for note in reader.notes:
            say(f"{shown(entry.path)}: {note}")

    def _read(self, entry: Input, *, large: bool = False) -> tuple[Input, np.ndarray, np.ndarray] | None:
        """An image and how the network sees it; None, once that is noted, where it cannot be read or has to wait."""
        try:
            self._record.look(entry)
            encoded = entry.path.read_bytes()
            with pixels.opened(encoded) as image:
                size, paged = image.width * image.height, pixels.has_pages(image)
            if size > LARGE and not large:
                self._large.append(entry)
                return None
            if size > LARGE and (free := memory.free() or np.inf) < size * BYTES:
                wanted = f"{size / 1e6:.0f} megapixels take {size * BYTES / 1e9:.1f} GB of memory"
                raise Unreadable(f"its {wanted}, of which {free / 1e9:.1f} are free")
            image = pixels.read(encoded, self._segmenter.value_range)
            if paged:
                self.paged.append(entry.path)
            return entry, image, self._segmenter.resized(image)
        except (Unreadable, OSError) as error:
            if isinstance(error, pixels.NoImage) and video.is_video(entry.path):
                self._no_images.append(entry)
            else:
                self._leave_out(entry, reason_of(error))
            return None

    def _leave_out(self, entry: Input, reason: str) -> None:
        self.failed[entry.path] = reason
        say(f"{shown(entry.path)} is left out: {reason}")
        self._bar.update()

    def _program(self, read: tuple[Any, np.ndarray, np.ndarray]) -> tuple:
        """What decides which program predicts an image: its size as the network sees it, and roughly its own."""
        _, image, seen = read
        return seen.shape[:2], self._segmenter.computed_size(image.shape[:2])

    def _batched(self, read: Iterable[tuple | None]) -> Iterator[tuple[Input, np.ndarray, Prediction]]:
        batches = grouped(filter(None, read), self._program, lambda key: self._segmenter.batch_size(key[0]))
        return self._predicted(batches)

    def _predicted(self, batches: Iterable[list[tuple]]) -> Iterator[tuple[Any, np.ndarray, Prediction]]:
        """(what it is, image, prediction) of batches of (what it is, image, image as the network sees it)."""
        for batch in batches:
            program, started = self._program(batch[0]), time.monotonic()
            new = program not in self._compiled
            _, whole, seen = zip(*batch, strict=True)
            try:
                with self._bar.during(doing) if (doing := self._doing(program[0], new)) else contextlib.nullcontext():
                    found = self._segmenter.predict(whole, seen, entropy="entropy" in self._kinds)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                self._give_up([what for what, *_ in batch], (str(error).splitlines() or ["not enough memory"])[0])
                continue
            if new:
                self._compiled.add(program)
                self.compiling += time.monotonic() - started
                self.first += len(batch)
            self.done += len(batch)
            if self.speed is not None:
                self._bar.show([f"{self.speed:.3g} images/s"])
            for (what, image, _), prediction in zip(batch, found, strict=True):
                yield what, image, prediction

    def _give_up(self, batch: Sequence[Any], reason: str) -> None:
        """Leaves out images that cannot be predicted; of a video, all of it."""
        for entry in batch:
            if not isinstance(entry, Input):
                raise Unreadable(f"it cannot be predicted: {reason}")
            self._leave_out(entry, f"it cannot be predicted: {reason}")

    def _doing(self, size: tuple[int, int], new: bool) -> str:
        """What takes long about images that the network sees at this size; '' if nothing does."""
        sizes = "{} x {} pixels".format(*size)
        if self._segmenter.is_windowed(size):
            return f"{sizes} in windows"
        return f"compiling for {sizes}" if new else ""

    def _write(self, entry: Input, image: np.ndarray, found: Prediction) -> None:
        """Writes what is wanted of an image; leaves it out where it is the image whose results cannot be written.

        Raises:
          NotWritten: nothing can be written any more.
        """
        try:
            for kind in self._kinds:
                path = self._output / kind / f"{entry.name}.png"
                write_atomically(path, images.png(self._picture(kind, image, found)))
        except NotWritten as error:
            if error.errno not in _OF_ONE_FILE:
                raise
            self._leave_out(entry, f"its result {shown(path)} cannot be written ({error.reason})")
        else:
            self._record.note(entry)
            self._bar.update()

    def _finish(self, written: Iterable[None]) -> None:
        for _ in written:
            pass

    def _picture(self, kind: str, image: np.ndarray, found: Prediction) -> np.ndarray:
        return picture(self._segmenter, kind, image, found)

    def raise_for_failures(self, count: int, passed_over: PassedOver) -> None:
        """Says what could not be predicted, of so many files.

        Raises:
          ValueError: there is something.
        """
        names = [f"{shown(path)} ({reason})" for path, reason in self.failed.items()]
        more = f", and {len(names) - 5} more" if len(names) > 5 else ""
        problems = []
        if names:
            problems = [f"{len(names)} of {count} files could not be predicted: {', '.join(names[:5])}{more}"]
        if passed_over.lost:
            problems.append(f"{passed_over.lost} were passed over that may be missed, see above")
        if problems:
            raise ValueError("; ".join(problems))


def reason_of(error: Exception) -> str:
    """Why a file cannot be predicted, without its name.

    Raises:
      OSError: nothing can be written any more, whichever the file.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {shown(error.filename)}" if error.filename else error.strerror
    return str(error)


def in_order(
    pool: concurrent.futures.Executor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """`work(item)` of each item, in order, while up to `ahead` further ones are worked on."""
    waiting = collections.deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ahead(pool: concurrent.futures.Executor, items: Iterator[Any], count: int) -> Iterator[Any]:
    """Items of an iterator, of which a pool of one thread makes up to `count` before they are asked for."""
    end = object()
    made = in_order(pool, lambda _: next(items, end), itertools.repeat(None), count)
    return itertools.takewhile(lambda item: item is not end, made)


def grouped(
    items: Iterable[Any], key: Callable[[Any], Any], size: Callable[[Any], int], *, in_turn: bool = False
) -> Iterator[list[Any]]:
    """Items of one key together, up to `size(key)` of them, in the order in which they come.

    Once `WAITING` items wait for others of their key, and more than two groups hold, the largest group goes as it is;
    with `in_turn` each group goes once an item of another key comes, so that all stay in order.
    """
    groups: dict[Any, list[Any]] = {}
    for item in items:
        of_item = key(item)
        if in_turn and of_item not in groups:
            yield from groups.values()
            groups.clear()
        groups.setdefault(of_item, []).append(item)
        if len(groups[of_item]) >= size(of_item):
            yield groups.pop(of_item)
        elif sum(map(len, groups.values())) >= max(WAITING, 2 * size(of_item)):
            yield groups.pop(max(groups, key=lambda name: len(groups[name])))
    yield from groups.values()
