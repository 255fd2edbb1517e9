"""A trained network that takes images of any size, see `loading.load`."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from proda_jax.adaptation.averaging import logits_of_views, mean_probabilities
from proda_jax.data import pixels
from proda_jax.data.pixels import Range, Unreadable
from proda_jax.inference import model_card, windows
from proda_jax.inference.facts import facts
from proda_jax.inference.prediction import Prediction, maps_of
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.ensemble import Ensemble
from proda_jax.models.resizing import HIGHEST, align_corners_weights
from proda_jax.models.weights import pretrained_folder
from proda_jax.run.card import Card
from proda_jax.system import devices
from proda_jax.system.extras import need
from proda_jax.system.paths import expanded

MOST_PIXELS = 2**22  # that a device predicts at once; ResNet-101 takes 1.6 kB for each (on a CPU, by XLA's account)
WINDOW = 2048  # side of the windows in which larger images are predicted, pixels
BAND = 64  # rows of the result that are computed at once, so that scores of all pixels never are in memory
COARSE, FINE = 256, BAND  # results have multiples of these as they are computed, and are cut: few sizes are compiled
SMALL = 512  # pixels of a side up to which the finer ones count, as the others would be much of the work
KEPT = 4  # pairs of sizes whose weights of resizing stay on the devices: a video has one, a folder of photographs few
BANDS = 2**20  # pixels of a large image that are worked on at once
MOST_SEEN = 2**28  # pixels of an image as the network sees it, if that is much more than the image has


class Segmenter:
    """Images in, labels out: `labels = segmenter(image)`.

    Attributes:
      card: what is known of the network.
      origin: where it was found, for people to read.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        variables: Any,
        card: Card,
        mesh: Mesh,
        *,
        origin: str = "",
        resize: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | None = None,
        batch_size: int | None = None,
        value_range: Sequence[float] | None = None,
        engine: str = "xla",
    ):
        """Compiles nothing yet.

        Args:
          model: the network, with no axis over the devices.
          variables: of the network, replicated over the mesh.
          card: of the network.
          mesh: the devices, over which batches are split.
          origin: where the network was found.
          resize: width to which images are resized before they are predicted, keeping their shape; 0: they stay as they
            are; None: the width of the images that the network was trained for.
          scales, flip: predictions that are averaged, see `averaging.logits_of_views`.
          window: side of the windows in which an image is predicted that is larger than that; None: `WINDOW`, and only
            where the image is larger than `MOST_PIXELS`.
          batch_size: images that one device predicts at once; None: as many as have `MOST_PIXELS`, up to 8, on a CPU 1.
          value_range: values that are black and white in images of more than 8 bits, see `pixels.read`; None: as the
            network was trained; (): the upper 8 of 16 bits.
          engine: what computes the network's scores, one of `ENGINES`.

        Raises:
          ValueError: a value that cannot work.
        """
        if resize is not None and resize < 0:
            raise ValueError(f"resize = {resize}: expected a width in pixels, or 0 for images as they are")
        if window is not None and window < 32:
            raise ValueError(f"window = {window}: expected at least 32 pixels")
        if not scales or not all(0 < scale < 100 for scale in scales):
            raise ValueError(f"scales = {tuple(scales)}: expected positive numbers, such as (0.75, 1.0, 1.25)")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: expected at least 1")
        if engine not in ENGINES:
            raise ValueError(f"engine = {engine!r}: expected one of {', '.join(ENGINES)}")
        self.card, self.origin, self.scales, self.flip = card, origin, tuple(scales), flip
        self._model, self._variables, self._mesh = model, variables, mesh
        self._resize, self._window, self._batch_size = resize, window, batch_size
        chosen = card.value_range if value_range is None else value_range
        self.value_range: Range | None = pixels.check_range(chosen, "value_range")
        self._logits = ENGINES[engine](self)
        self._label = {
            entropy: devices.map_step(functools.partial(_label, entropy=entropy), mesh, "bbb", maps)
            for entropy, maps in ((False, "bb"), (True, "bbb"))
        }
        self._average = jax.jit(mean_probabilities, static_argnums=1)
        self._resizing = functools.lru_cache(KEPT)(functools.partial(_resizing_weights, mesh))

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each train id."""
        return self.card.classes

    @property
    def colors(self) -> np.ndarray:
        """RGB colour of each train id, uint8 [classes, 3]."""
        return self.card.space.colors

    @property
    def known_size(self) -> tuple[int, int] | None:
        """(height, width) at which the network sees images of the shape that it knows; None: whatever they have."""
        height, width = self.card.image_size
        seen = width if self._resize is None else self._resize
        return (max(round(height * seen / width), 1), seen) if seen else None

    @property
    def options(self) -> dict[str, Any]:
        """What decides its labels besides the network, by the names of its arguments."""
        return {
            "resize": self._resize, "scales": self.scales, "flip": self.flip, "window": self._window,
            "value_range": self.value_range,
        }  # fmt: skip

    @property
    def network(self) -> tuple[SegmentationNetwork, Any]:
        """The network and its variables."""
        return self._model, self._variables

    def __call__(self, image: Any) -> np.ndarray:
        """Labels of one image.

        Args:
          image: uint8 [height, width, 3], RGB, a Pillow image, or the path of a file.

        Returns:
          Train ids uint8 [height, width], of the image's own size.
        """
        return self.predict([image])[0].labels

    def probabilities(self, image: Any) -> np.ndarray:
        """Probability of each class, float32 [height, width, classes], of the image's own size."""
        image = self.as_array(image)
        seen = self.resized(image)
        if self.is_windowed(seen.shape[:2]):
            return np.concatenate(list(self._bands(image, seen)))
        return np.asarray(self._average(self._logits_of([seen]), image.shape[:2])[0])

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Labels [height, width] in the classes' colours, uint8 [height, width, 3], RGB; what is no class is black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = self.colors
        return table[labels]

    def overlay(self, image: Any, labels: np.ndarray | None = None, opacity: float = 0.5) -> np.ndarray:
        """An image [height, width, 3], RGB, with its labels' colours laid over it; they are predicted unless given."""
        image = self.as_array(image)
        labels = self(image) if labels is None else labels
        laid = np.empty_like(image)
        for band in _bands_of(image.shape[:2]):
            under, over = Image.fromarray(image[band]), Image.fromarray(self.colorize(labels[band]))
            laid[band] = np.asarray(Image.blend(under, over, opacity))
        return laid

    def save_pretrained(self, folder: epath.PathLike, *, license: str | None = None) -> None:
        """Writes the network for others: weights, `card.json`, and a page, as Hugging Face's hub shows it.

        `loading.load` opens it, and gives the same logits to the bit. Sizes, windows and averaging are no part of it.
        Scores and settings are those that its run noted, where it still lies in its workdir.

        Args:
          folder: new, empty, or one that was written like this, which is replaced; may be in a bucket.
          license: of the weights that training started from, such as 'apache-2.0'; None: what the folder says that the
            network was loaded from, otherwise 'not stated'.

        Raises:
          ValueError: the folder holds something else, or the network is an average of several.
          NotWritten: with the system's reason; nothing is left of it, and what was there before is as it was.
        """
        if isinstance(self._model, Ensemble):
            raise ValueError(f"{self.card.stage} is the average of several networks, and what is shared is one: name a "
                             "stage")  # fmt: skip
        about = facts(self.origin, self.card)
        if license is not None:
            about = about | {"license": license}
        page = model_card.page(self.card, about, self._variables)
        pretrained_folder.write(expanded(folder), self._variables, self.card.as_json() | {"about": about}, page)

    def predict(
        self, batch: Sequence[Any], seen: Sequence[np.ndarray] | None = None, *, entropy: bool = False
    ) -> list[Prediction]:
        """Labels and confidence of several images, which have one size once they are `resized`.

        Args:
          batch: images, as `__call__` takes them.
          seen: the same as the network sees them, where that is known already.
          entropy: whether it is wanted.
        """
        batch = [self.as_array(image) for image in batch]
        seen = [self.resized(image) for image in batch] if seen is None else seen
        if self.is_windowed(seen[0].shape[:2]):
            return [self._predict_windows(*pair, entropy) for pair in zip(batch, seen, strict=True)]
        most = self.batch_size(seen[0].shape[:2])
        predictions = []
        for first in range(0, len(batch), most):
            predictions += self._predict_whole(batch[first : first + most], seen[first : first + most], entropy)
        return predictions

    def as_array(self, image: Any) -> np.ndarray:
        """An image as uint8 [height, width, 3], RGB.

        Args:
          image: that, a Pillow image, or the path of a file.

        Raises:
          ValueError: it is another array, or a file that cannot be read.
        """
        if isinstance(image, str | os.PathLike):
            path = epath.Path(expanded(image))
            try:
                return pixels.read(path.read_bytes(), self.value_range)
            except (Unreadable, OSError) as error:
                raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if isinstance(image, Image.Image):
            return pixels.of(image, self.value_range)
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"expected an image as uint8 [height, width, 3], RGB, not {found}")
        return array

    # How large an image is where the network sees it

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which an image of this size is resized before it is predicted.

        Its width is what the network knows, its height in proportion, in whole steps from the height that the network
        knows: of 1/32 of the width, at least 8 pixels. So images of a hundred sizes need a few compiled programs, for a
        change of their shape that is less than half a step; images of the shape that it knows keep it exactly.
        """
        if self.known_size is None:
            return size
        known, width = self.known_size
        step = max(width // 32, 8)
        height = known + step * round((size[0] * width / size[1] - known) / step)
        return max(height, 8), width

    def resized(self, image: np.ndarray) -> np.ndarray:
        """An image [height, width, 3] as large as the network sees it; where it shrinks, pixels are averaged.

        Raises:
          Unreadable: a strip, which would have very many pixels.
        """
        height, width = self.network_size(image.shape[:2])
        if image.shape[:2] == (height, width):
            return image
        if height * width > max(MOST_SEEN, 16 * image.size):
            own = "{} x {}".format(*image.shape[:2])
            raise Unreadable(f"it has {own} pixels, of which the network would see {height} x {width}: cut it into "
                             "shorter pieces, or name a smaller --resize")  # fmt: skip
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    @staticmethod
    def computed_size(size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the result for an image of this size is computed, before it is cut."""
        unit = [FINE if n <= SMALL else COARSE for n in size]
        return tuple(-(-n // of) * of for n, of in zip(size, unit, strict=True))

    def is_windowed(self, size: tuple[int, int]) -> bool:
        """Whether images that the network sees at this size are predicted in windows."""
        return max(size) > self._window if self._window else self._pixels(size) > MOST_PIXELS

    def batch_size(self, size: tuple[int, int]) -> int:
        """How many images of this size are predicted at once, over all devices."""
        fitting = 1 if jax.default_backend() == "cpu" else max(min(MOST_PIXELS // self._pixels(size), 8), 1)
        return (self._batch_size or fitting) * self._mesh.devices.size

    def _pixels(self, size: tuple[int, int]) -> int:
        """Pixels of an image of this size that the network sees at once."""
        return max(int(size[0] * size[1] * max(self.scales) ** 2), 1) * (2 if self.flip else 1)

    # What runs on the devices

    def _logits_of(self, seen: Sequence[np.ndarray]) -> list[Any]:
        """Scores of images of one size, [batch, views, h, w, classes] for each scale; the last fills up the batch."""
        filled = [*seen, *[seen[-1]] * (self.batch_size(seen[0].shape[:2]) - len(seen))]
        return self._logits(np.stack(filled))

    def _by_xla(self) -> Callable[[np.ndarray], list[jax.Array]]:
        views = functools.partial(logits_of_views, self._model, scales=self.scales, flip=self.flip)
        logits = devices.map_step(views, self._mesh, "rb", "b")
        return lambda images: logits(self._variables, devices.put_batch(images, self._mesh))

    def _by_onnx_runtime(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        need("--engine=onnxruntime", "onnx", "jax2onnx", "onnxruntime")
        from proda_jax.inference.onnx_engine import Logits

        return Logits(self._model, self._variables, self.scales, self.flip)

    def _predict_whole(
        self, batch: Sequence[np.ndarray], seen: Sequence[np.ndarray], entropy: bool
    ) -> list[Prediction]:
        logits = self._logits_of(seen)
        sizes = [image.shape[:2] for image in batch]
        sizes += [sizes[-1]] * (len(logits[0]) - len(sizes))
        height, width = self.computed_size(tuple(map(max, zip(*sizes, strict=True))))
        weights = self._resizing(tuple(of_scale.shape[2:4] for of_scale in logits), tuple(sizes), (height, width))
        found = self._label[entropy](logits, *weights)
        found, sizes = [np.asarray(maps) for maps in found], sizes[: len(batch)]
        return [Prediction(*(maps[i, :height, :width] for maps in found)) for i, (height, width) in enumerate(sizes)]

    def _predict_windows(self, image: np.ndarray, seen: np.ndarray, entropy: bool) -> Prediction:
        bands = [maps_of(np, band, entropy) for band in self._bands(image, seen)]
        return Prediction(*map(np.concatenate, zip(*bands, strict=True)))

    def _bands(self, image: np.ndarray, seen: np.ndarray) -> Iterator[np.ndarray]:
        """Probabilities [rows, width, classes] of an image of this size, from windows, from top to bottom."""
        if seen.shape == image.shape:
            yield from self._windows(seen)
            return
        (height, width), rows = image.shape[:2], seen.shape[0]
        whole = np.concatenate(list(self._windows(seen)))
        planes = [Image.fromarray(np.ascontiguousarray(whole[..., number])) for number in range(whole.shape[-1])]
        del whole
        for band in _bands_of((height, width)):
            box = (0, band.start * rows / height, seen.shape[1], band.stop * rows / height)
            size = (width, band.stop - band.start)
            resized = [plane.resize(size, Image.Resampling.BILINEAR, box=box) for plane in planes]
            yield np.stack([np.asarray(plane) for plane in resized], axis=-1)

    def _windows(self, seen: np.ndarray) -> Iterator[np.ndarray]:
        """Probabilities of an image, as large as the network sees it, band by band from top to bottom."""
        side = self._window or WINDOW
        size = (min(side, seen.shape[0]), min(side, seen.shape[1]))

        def predict(parts: np.ndarray) -> np.ndarray:
            return np.asarray(self._average(self._logits_of(parts), size))[: len(parts)]

        return windows.blended(seen, side, self.batch_size(size), predict)


# what computes a network's scores, of a segmenter: (images) -> logits of each scale
ENGINES: dict[str, Callable[[Segmenter], Callable[[np.ndarray], list[Any]]]] = {
    "xla": Segmenter._by_xla,
    "onnxruntime": Segmenter._by_onnx_runtime,
}


def _resizing_weights(
    mesh: Mesh, grids: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]], computed: tuple[int, int]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """What `_label` takes of rows and of columns, from each scale's grid to images of these sizes; on the devices."""
    (height, width), put = computed, functools.partial(devices.put_batch, mesh=mesh)
    rows = [np.stack([_weights(grid[0], size[0], height) for size in sizes]) for grid in grids]
    columns = [np.stack([_weights(grid[1], size[1], width) for size in sizes]) for grid in grids]
    return put([weights.reshape(len(sizes), -1, BAND, weights.shape[-1]) for weights in rows]), put(columns)


def _weights(size_in: int, size_out: int, padded: int) -> np.ndarray:
    """Weights of resizing with corners aligned, and zeros below, float32 [padded, size_in]."""
    weights = np.zeros((padded, size_in), np.float32)
    weights[:size_out] = align_corners_weights(size_in, size_out)
    return weights


def _bands_of(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of an image of this size that are worked on at once."""
    rows = max(BANDS // size[1], 1)
    return (slice(top, min(top + rows, size[0])) for top in range(0, size[0], rows))


def _label(
    logits: list[jax.Array], rows: list[jax.Array], columns: list[jax.Array], *, entropy: bool
) -> tuple[jax.Array, ...]:
    """Classes and their probability, from the mean over all views of the softmax of their resized logits.

    The weights of resizing are arguments and not constants, so that images of many sizes share a compiled program.

    Args:
      logits: for each scale [batch, views, h, w, classes].
      rows: for each scale [batch, bands, BAND, h], weights of the result's rows.
      columns: for each scale [batch, width, w], of its columns.
      entropy: whether it is wanted.

    Returns:
      Train ids, their probability and perhaps the entropy, see `Prediction`, each uint8 [batch, bands * BAND, width].
    """

    def label_band(of_band: list[jax.Array]) -> tuple[jax.Array, ...]:
        total, views = 0.0, 0
        for scale, weights, across in zip(logits, of_band, columns, strict=True):
            resized = jnp.einsum("bHh,bvhwc->bvHwc", weights, scale, precision=HIGHEST)
            resized = jnp.einsum("bWw,bvHwc->bvHWc", across, resized, precision=HIGHEST)
            total, views = total + jax.nn.softmax(resized, axis=-1).sum(1), views + scale.shape[1]
        return maps_of(jnp, total / views, entropy)

    bands = jax.lax.map(label_band, [jnp.moveaxis(weights, 1, 0) for weights in rows])
    return tuple(jnp.moveaxis(band, 0, 1).reshape(band.shape[1], -1, band.shape[-1]) for band in bands)
