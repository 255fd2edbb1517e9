"""What is said of an image: its labels, and how sure the network is of them."""

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network says of an image, at the image's own size.

    Attributes:
      labels: train ids, uint8 [height, width].
      confidence: probability of that class, 0..255, uint8 [height, width].
      entropy: of all classes' probabilities over that of a guess, 0..255, uint8 [height, width]; None: not asked for.
    """

    labels: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray | None = None

    def at(self, size: tuple[int, int]) -> "Prediction":
        """The same at another size (height, width): each pixel is the nearest one, so no label is made up."""
        if self.labels.shape == size:
            return self
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, self.labels.shape, strict=True)
        )
        near = (rows[:, None], columns)
        maps = (self.labels, self.confidence, self.entropy)
        return Prediction(*(values if values is None else values[near] for values in maps))


def maps_of(library: ModuleType, probabilities: Any, entropy: bool) -> tuple[Any, ...]:
    """The maps of a `Prediction`, from probabilities [..., classes], in NumPy or JAX."""
    maps = [probabilities.argmax(-1), library.round(255 * probabilities.max(-1))]
    if entropy:
        logs = library.log(library.maximum(probabilities, 1e-30))  # 0 log 0 is 0
        most = max(np.log(probabilities.shape[-1]), 1e-30)
        maps.append(library.round(library.clip((probabilities * logs).sum(-1) * (-255 / most), 0, 255)))
    return tuple(values.astype(library.uint8) for values in maps)
