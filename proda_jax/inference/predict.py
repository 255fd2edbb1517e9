"""Predicts files: which of them, in which batches, and what is written of each."""

import collections
import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from proda_jax.data.decode import cores
from proda_jax.inference import images
from proda_jax.inference.images import Input, Unreadable
from proda_jax.inference.segmenter import BUCKET, Prediction, Segmenter
from proda_jax.inference.video import Reader, Writer
from proda_jax.system.files import check_writable, write_atomically
from proda_jax.system.progress import Progress, progress, say

KINDS = ("ids", "colors", "overlays", "confidence")  # what can be written of each file, each in a folder of that name
GREY = ("ids", "confidence")
WAITING = 32  # images at most that wait for others of their size


def predict(
    segmenter: Segmenter, pattern: str, output: epath.PathLike, kinds: Sequence[str] = ("ids", "colors", "overlays")
) -> None:
    """Predicts images and videos, and says how long it took.

    Args:
      segmenter: the network.
      pattern: what to predict, see `images.find`.
      output: folder for the results; of each input `<kind>/<its place below what was searched>`, PNGs of images, videos
        of videos, and `card.json`, the names and colours of the classes.
      kinds: which of `KINDS` are written.

    Raises:
      ValueError: there is nothing to predict or nowhere to write, or, once the others are done, some of the files could
        not be read.
    """
    if not kinds or (unknown := [kind for kind in kinds if kind not in KINDS]):
        raise ValueError(f"--write={','.join(unknown) if kinds else ''}: expected some of {', '.join(KINDS)}")
    inputs, output = images.find(pattern, output, KINDS), epath.Path(output)
    check_writable(output, "--output")
    Image.MAX_IMAGE_PIXELS = None  # whoever names an image knows how large it is
    with progress("predicting", len(inputs)) as bar:
        files = Files(segmenter, output, kinds, bar)
        try:
            write_atomically(output / "card.json", json.dumps(segmenter.card.as_json(), indent=2))
            files.predict_images([entry for entry in inputs if not entry.is_video])
            for entry in inputs:
                if entry.is_video:
                    files.predict_video(entry)
        except OSError as error:
            raise ValueError(f"--output={output} cannot be written to any more ({error})") from error
    speed = "" if files.speed is None else f"; {files.speed:.2f} a second without those"
    print(f"{files.done} images and frames in {files.seconds:.1f} s, of which {files.compiling:.1f} s for the first of "
          f"each size, when the network is compiled{speed}")  # fmt: skip
    print(f"results: {output}")
    if files.failed:
        names = [f"{path} ({reason})" for path, reason in files.failed.items()]
        more = f", and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"{len(names)} of {len(inputs)} files could not be read: {', '.join(names[:5])}{more}")


class Files:
    """Predicts files with one network and writes what is wanted of each.

    Attributes:
      failed: files that could not be read, with the reason.
      done: images and frames that were predicted.
      compiling: seconds that went into the first batch of each size.
      first: images and frames in these batches.
    """

    def __init__(self, segmenter: Segmenter, output: epath.Path, kinds: Sequence[str], bar: Progress):
        self._segmenter, self._output, self._kinds, self._bar = segmenter, output, kinds, bar
        self._compiled: set[tuple] = set()
        self._started = time.monotonic()
        self.failed: dict[epath.Path, str] = {}
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
        """Predicts image files; they are read and written beside, and images of one size are predicted together."""
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            read = in_order(pool, self._read, inputs, ahead=2 * cores())
            batches = grouped(filter(None, read), self._program, lambda key: self._segmenter.batch_size(key[0]))
            for _ in in_order(pool, lambda task: self._write(*task), self._predicted(batches), ahead=2 * cores()):
                self._bar.update()

    def predict_video(self, entry: Input) -> None:
        """Predicts a video, every frame of it, and writes videos of the same rate."""
        try:
            with contextlib.closing(Reader(entry.path)) as reader, contextlib.ExitStack() as stack:
                writers = [
                    (kind, stack.enter_context(Writer(self._output / kind / entry.name, reader, grey=kind in GREY)))
                    for kind in self._kinds
                ]
                self._bar.extend(max(reader.count - 1, 0))
                frames = ((at, frame, self._segmenter.resized(frame)) for frame, at in reader.frames())
                batches = grouped(frames, self._program, lambda key: self._segmenter.batch_size(key[0]))
                before = self.done
                for at, frame, found in self._predicted(batches):
                    for kind, writer in writers:
                        writer.add(self._picture(kind, frame, found), at)
                    self._bar.update()
                if self.done == before:
                    raise Unreadable("it holds no frame that can be read")
        except Unreadable as error:
            self._leave_out(entry, str(error))

    def _read(self, entry: Input) -> tuple[Input, np.ndarray, np.ndarray] | None:
        """An image and how the network sees it; None, once that is noted, where it cannot be read."""
        try:
            image = images.read(entry.path)
            return entry, image, self._segmenter.resized(image)
        except Unreadable as error:
            self._leave_out(entry, str(error))
            return None

    def _leave_out(self, entry: Input, reason: str) -> None:
        self.failed[entry.path] = reason
        say(f"{entry.path} is left out: {reason}")
        self._bar.update()

    def _program(self, read: tuple[Any, np.ndarray, np.ndarray]) -> tuple:
        """What decides which program predicts an image: its size as the network sees it, and roughly its own."""
        _, image, seen = read
        return seen.shape[:2], tuple(-(-size // BUCKET) for size in image.shape[:2])

    def _predicted(self, batches: Iterable[list[tuple]]) -> Iterator[tuple[Any, np.ndarray, Prediction]]:
        """(what it is, image, prediction) of batches of (what it is, image, image as the network sees it)."""
        for batch in batches:
            program, started = self._program(batch[0]), time.monotonic()
            new = program not in self._compiled
            _, whole, seen = zip(*batch, strict=True)
            with self._bar.during(doing) if (doing := self._doing(program[0], new)) else contextlib.nullcontext():
                found = self._segmenter.predict(whole, seen)
            if new:
                self._compiled.add(program)
                self.compiling += time.monotonic() - started
                self.first += len(batch)
            self.done += len(batch)
            if self.speed is not None:
                self._bar.show([f"{self.speed:.3g} images/s"])
            for (what, image, _), prediction in zip(batch, found, strict=True):
                yield what, image, prediction

    def _doing(self, size: tuple[int, int], new: bool) -> str:
        """What takes long about images that the network sees at this size; '' if nothing does."""
        sizes = "{} x {} pixels".format(*size)
        if self._segmenter.is_windowed(size):
            return f"{sizes} in windows"
        return f"compiling for {sizes}" if new else ""

    def _write(self, entry: Input, image: np.ndarray, found: Prediction) -> None:
        for kind in self._kinds:
            write_atomically(self._output / kind / f"{entry.name}.png", images.png(self._picture(kind, image, found)))

    def _picture(self, kind: str, image: np.ndarray, found: Prediction) -> np.ndarray:
        if kind in GREY:
            return found.labels if kind == "ids" else found.confidence
        if kind == "colors":
            return self._segmenter.colorize(found.labels)
        return self._segmenter.overlay(image, found.labels)


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


def grouped(items: Iterable[Any], key: Callable[[Any], Any], size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Items of one key together, up to `size(key)` of them, in the order in which they come.

    Once `WAITING` items wait for others of their key, and more than two groups hold, the largest group goes as it is.
    """
    groups: dict[Any, list[Any]] = {}
    for item in items:
        of_item = key(item)
        groups.setdefault(of_item, []).append(item)
        if len(groups[of_item]) >= size(of_item):
            yield groups.pop(of_item)
        elif sum(map(len, groups.values())) >= max(WAITING, 2 * size(of_item)):
            yield groups.pop(max(groups, key=lambda name: len(groups[name])))
    yield from groups.values()
