"""A trained network that takes images of any size, see `loading.load`."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from proda_jax.adaptation.averaging import logits_of_views, mean_probabilities
from proda_jax.adaptation.resizing import HIGHEST, align_corners_weights
from proda_jax.inference import images, model_card, windows
from proda_jax.inference.facts import facts
from proda_jax.models.deeplab import DeepLab
from proda_jax.models.weights import pretrained_folder
from proda_jax.run.card import Card
from proda_jax.system import devices

MOST_PIXELS = 2**22  # that a device predicts at once; ResNet-101 takes 1.6 kB for each (on a CPU, by XLA's account)
WINDOW = 2048  # side of the windows in which larger images are predicted, pixels
BAND = 64  # rows of the result that are computed at once, so that scores of all pixels never are in memory
BUCKET = 256  # results are computed at multiples of this size and cut, so that few sizes are compiled


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network says of an image, at the image's own size.

    Attributes:
      labels: train ids, uint8 [height, width].
      confidence: probability of that class, 0..255, uint8 [height, width].
    """

    labels: np.ndarray
    confidence: np.ndarray


class Segmenter:
    """Images in, labels out: `labels = segmenter(image)`.

    Attributes:
      card: what is known of the network.
      origin: where it was found, for people to read.
    """

    def __init__(
        self,
        model: DeepLab,
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
        self.card, self.origin, self.scales, self.flip = card, origin, tuple(scales), flip
        self._model, self._variables, self._mesh = model, variables, mesh
        self._resize, self._window, self._batch_size = resize, window, batch_size
        views = functools.partial(logits_of_views, model, scales=self.scales, flip=flip)
        self._logits = devices.map_step(views, mesh, "rb", "b")
        self._label = devices.map_step(_label, mesh, "bbb", "bb")
        self._average = jax.jit(mean_probabilities, static_argnums=1)

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
    def network(self) -> tuple[DeepLab, Any]:
        """The network and its variables."""
        return self._model, self._variables

    def __call__(self, image: Any) -> np.ndarray:
        """Labels of one image.

        Args:
          image: uint8 [height, width, 3], a Pillow image, or the path of a file.

        Returns:
          Train ids uint8 [height, width], of the image's own size.
        """
        return self.predict([image])[0].labels

    def probabilities(self, image: Any) -> np.ndarray:
        """Probability of each class, float32 [height, width, classes], of the image's own size."""
        image = as_array(image)
        seen = self.resized(image)
        if self.is_windowed(seen.shape[:2]):
            return np.stack(list(self._planes(image, seen)), axis=-1)
        return np.asarray(self._average(self._logits_of([seen]), image.shape[:2])[0])

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Labels [height, width] in the classes' colours, uint8 [height, width, 3]; what is no class is black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = self.colors
        return table[labels]

    def overlay(self, image: Any, labels: np.ndarray | None = None, opacity: float = 0.5) -> np.ndarray:
        """An image [height, width, 3] with its labels' colours laid over it; they are predicted unless given."""
        image = as_array(image)
        colors = self.colorize(self(image) if labels is None else labels)
        return np.asarray(Image.blend(Image.fromarray(image), Image.fromarray(colors), opacity))

    def save_pretrained(self, folder: epath.PathLike, *, license: str | None = None) -> None:
        """Writes the network for others: weights, `card.json`, and a page, as Hugging Face's hub shows it.

        `loading.load` opens it, and gives the same logits to the bit. Sizes, windows and averaging are no part of it.
        Scores and settings are those that its run noted, where it still lies in its workdir.

        Args:
          folder: new, empty, or one that was written like this, which is replaced; may be in a bucket.
          license: of the weights that training started from, such as 'apache-2.0'; None: what the folder says that the
            network was loaded from, otherwise 'not stated'.

        Raises:
          ValueError: the folder holds something else.
          NotWritten: with the system's reason; nothing is left of it, and what was there before is as it was.
        """
        about = facts(self.origin, self.card)
        if license is not None:
            about = about | {"license": license}
        page = model_card.page(self.card, about, self._variables)
        pretrained_folder.write(folder, self._variables, self.card.as_json() | {"about": about}, page)

    def predict(self, batch: Sequence[Any], seen: Sequence[np.ndarray] | None = None) -> list[Prediction]:
        """Labels and confidence of several images, which have one size once they are `resized`.

        Args:
          batch: images, as `__call__` takes them.
          seen: the same as the network sees them, where that is known already.
        """
        batch = [as_array(image) for image in batch]
        seen = [self.resized(image) for image in batch] if seen is None else seen
        if self.is_windowed(seen[0].shape[:2]):
            return [self._predict_windows(*pair) for pair in zip(batch, seen, strict=True)]
        most = self.batch_size(seen[0].shape[:2])
        predictions = []
        for first in range(0, len(batch), most):
            predictions += self._predict_whole(batch[first : first + most], seen[first : first + most])
        return predictions

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
        """An image [height, width, 3] as large as the network sees it; where it shrinks, pixels are averaged."""
        height, width = self.network_size(image.shape[:2])
        if image.shape[:2] == (height, width):
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

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

    def _logits_of(self, seen: Sequence[np.ndarray]) -> list[jax.Array]:
        """Scores of images of one size, [batch, views, h, w, classes] for each scale; the last fills up the batch."""
        filled = [*seen, *[seen[-1]] * (self.batch_size(seen[0].shape[:2]) - len(seen))]
        return self._logits(self._variables, devices.put_batch(np.stack(filled), self._mesh))

    def _predict_whole(self, batch: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> list[Prediction]:
        logits = self._logits_of(seen)
        sizes = [image.shape[:2] for image in batch]
        sizes += [sizes[-1]] * (len(logits[0]) - len(sizes))
        height, width = (-(-max(axis) // BUCKET) * BUCKET for axis in zip(*sizes, strict=True))
        rows = [np.stack([_weights(of_scale.shape[2], size[0], height) for size in sizes]) for of_scale in logits]
        columns = [np.stack([_weights(of_scale.shape[3], size[1], width) for size in sizes]) for of_scale in logits]
        rows = [weights.reshape(len(sizes), -1, BAND, weights.shape[-1]) for weights in rows]
        found = self._label(logits, *(devices.put_batch(weights, self._mesh) for weights in (rows, columns)))
        labels, confidence = map(np.asarray, found)
        return [
            Prediction(labels[i, : size[0], : size[1]], confidence[i, : size[0], : size[1]])
            for i, size in enumerate(sizes[: len(batch)])
        ]

    def _predict_windows(self, image: np.ndarray, seen: np.ndarray) -> Prediction:
        if seen.shape == image.shape:
            bands = [(band.argmax(-1), band.max(-1)) for band in self._windows(seen)]
            labels, most = (np.concatenate(kind) for kind in zip(*bands, strict=True))
        else:
            labels, most = np.zeros((2, *image.shape[:2]), np.float32)
            for number, plane in enumerate(self._planes(image, seen)):
                labels[plane > most] = number
                np.maximum(most, plane, out=most)
        return Prediction(labels.astype(np.uint8), np.round(255 * most).astype(np.uint8))

    def _planes(self, image: np.ndarray, seen: np.ndarray) -> Iterator[np.ndarray]:
        """Probability of each class in turn, float32 [height, width], of an image's own size, from windows."""
        whole, size = np.concatenate(list(self._windows(seen))), image.shape[1::-1]
        for number in range(whole.shape[-1]):
            yield np.asarray(Image.fromarray(whole[..., number]).resize(size, Image.Resampling.BILINEAR))

    def _windows(self, seen: np.ndarray) -> Iterator[np.ndarray]:
        """Probabilities of an image, as large as the network sees it, band by band from top to bottom."""
        side = self._window or WINDOW
        size = (min(side, seen.shape[0]), min(side, seen.shape[1]))

        def predict(parts: np.ndarray) -> np.ndarray:
            return np.asarray(self._average(self._logits_of(parts), size))[: len(parts)]

        return windows.blended(seen, side, self.batch_size(size), predict)


def _weights(size_in: int, size_out: int, padded: int) -> np.ndarray:
    """Weights of resizing with corners aligned, and zeros below, float32 [padded, size_in]."""
    weights = np.zeros((padded, size_in), np.float32)
    weights[:size_out] = align_corners_weights(size_in, size_out)
    return weights


def _label(
    logits: list[jax.Array], rows: list[jax.Array], columns: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Classes and their probability, from the mean over all views of the softmax of their resized logits.

    The weights of resizing are arguments and not constants, so that images of many sizes share a compiled program.

    Args:
      logits: for each scale [batch, views, h, w, classes].
      rows: for each scale [batch, bands, BAND, h], weights of the result's rows.
      columns: for each scale [batch, width, w], of its columns.

    Returns:
      Train ids and probability as 0..255, each uint8 [batch, bands * BAND, width].
    """

    def label_band(of_band: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, views = 0.0, 0
        for scale, weights, across in zip(logits, of_band, columns, strict=True):
            resized = jnp.einsum("bHh,bvhwc->bvHwc", weights, scale, precision=HIGHEST)
            resized = jnp.einsum("bWw,bvHwc->bvHWc", across, resized, precision=HIGHEST)
            total, views = total + jax.nn.softmax(resized, axis=-1).sum(1), views + scale.shape[1]
        most = jnp.round(total.max(-1) * (255.0 / views))
        return jnp.argmax(total, axis=-1).astype(jnp.uint8), most.astype(jnp.uint8)

    bands = jax.lax.map(label_band, [jnp.moveaxis(weights, 1, 0) for weights in rows])
    return tuple(jnp.moveaxis(band, 0, 1).reshape(band.shape[1], -1, band.shape[-1]) for band in bands)


def as_array(image: Any) -> np.ndarray:
    """An image as uint8 [height, width, 3].

    Args:
      image: that, a Pillow image, or the path of a file.

    Raises:
      ValueError: it is another array, or a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return images.read(image)
        except ValueError as error:
            raise ValueError(f"{image} cannot be read: {error}") from None
    array = images.pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
        raise ValueError(f"expected an image as uint8 [height, width, 3], not {array.dtype} {list(array.shape)}")
    return array
