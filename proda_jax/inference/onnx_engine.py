"""Prediction by ONNX Runtime, which is quicker than XLA on a CPU for small networks (docs/performance.md)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from proda_jax.adaptation.averaging import logits_of_views
from proda_jax.inference.onnx_conversion import NotConverted, convert, in_float32, runner
from proda_jax.models.deeplab import SegmentationNetwork

KEPT = 8  # programs for shapes of images that are held; a video has one, a folder of photographs few
MOST_APART = 1e-3  # of the largest score, between what both say of one image
INSTEAD = "leave out --engine=onnxruntime"


class Logits:
    """images uint8 [batch, height, width, 3] -> logits [batch, views, h, w, classes] of each scale.

    The network is converted for each shape of images; the first one's logits are compared with XLA's.
    """

    def __init__(self, model: SegmentationNetwork, variables: Any, scales: Sequence[float], flip: bool):
        """Converts nothing yet; the arguments are those of `averaging.logits_of_views`."""
        self._model, self._variables = in_float32(model), variables
        self._scales, self._flip, self._compared = scales, flip, False
        self._runner = functools.lru_cache(KEPT * len(scales))(self._converted)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The logits of each scale.

        Raises:
          NotConverted: the network cannot be converted, or not rightly.
        """
        found = [self._runner(images.shape, scale)(images) for scale in self._scales]
        if not self._compared:
            self._compare(images, found)
            self._compared = True
        return found

    def _of_scale(self, variables: Any, images: jax.Array, scale: float) -> jax.Array:
        return logits_of_views(self._model, variables, images, scales=(scale,), flip=self._flip)[0]

    def _converted(self, shape: tuple[int, ...], scale: float):
        return runner(
            convert(functools.partial(self._of_scale, scale=scale), self._variables, shape, "logits", INSTEAD), INSTEAD
        )

    def _compare(self, images: np.ndarray, found: list[np.ndarray]) -> None:
        for scale, ours in zip(self._scales, found, strict=True):
            wanted = np.asarray(jax.jit(functools.partial(self._of_scale, scale=scale))(self._variables, images))
            apart = np.abs(ours - wanted).max() if ours.shape == wanted.shape else np.inf
            if not apart <= MOST_APART * np.abs(wanted).max():
                raise NotConverted("what it makes of it gives other scores to the first image", INSTEAD)
