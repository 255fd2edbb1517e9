"""Writes a network as ONNX."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from proda_jax.inference.onnx_conversion import NotConverted, convert, runner
from proda_jax.system.files import write_atomically

FILE = "network.onnx"
MOST_DIFFERING = 0.001  # share of pixels whose two best classes may be told apart by the order of sums alone
INSTEAD = "--format=savedmodel and stablehlo are there for each"


def write(
    predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int], output: epath.Path
) -> None:
    """Writes `FILE`: 'images', uint8 [1, height, width, 3], to 'labels', uint8 [1, height, width].

    Args:
      predict: (variables, images) -> labels.
      variables: of the network; they are in the file.
      size: height and width of the images.
      output: its folder.

    Raises:
      NotConverted: the converter cannot convert this network, or not rightly.
    """
    written = convert(predict, variables, (1, *size, 3), "labels", INSTEAD)
    check(written, predict, variables, size)
    write_atomically(output / FILE, written)


def check(
    written: bytes, predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int]
) -> None:
    """Refuses a file whose labels of an image of noise, in ONNX Runtime, are not ours.

    Raises:
      NotConverted: it cannot be run, or gives other labels.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    found, ours = runner(written, INSTEAD)(image), np.asarray(jax.jit(predict)(variables, image))
    differing = (found != ours).mean() if found.shape == ours.shape else 1.0
    if differing > MOST_DIFFERING:
        reason = f"what it makes of it gives other labels to {100 * differing:.3g} % of the pixels of noise"
        raise NotConverted(reason, INSTEAD)
