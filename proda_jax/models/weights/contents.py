"""What a file of weights holds: as it lies there, and as our networks take it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from proda_jax.models.backbones import Backbone
from proda_jax.models.weights.layout import Layout, read_off
from proda_jax.system import digests
from proda_jax.system.stand_ins import stand_in

FACTS = ("step", "best_miou")


@dataclasses.dataclass
class Weights:
    """A network's weights and what is known of them.

    Attributes:
      arrays: float32 under the released code's names, in PyTorch's layouts (see `torch_names`), with 'input.mean' and
        'input.std' [3]: the network sees (image - mean) / std of images in RGB in [0, 1].
      prototypes: [classes, feature channels] float32, zero where a class has none; or None.
      step: training step, or None.
      best_miou: score on the validation set as a share of one, which is how released files hold it; or None.
      notes: where in the file they were found, and how images are fed.
      guessed: whether the last is a guess, as the file does not say.
    """

    arrays: dict[str, np.ndarray]
    prototypes: np.ndarray | None = None
    step: int | None = None
    best_miou: float | None = None
    notes: Sequence[str] = ()
    guessed: bool = False

    @property
    def layout(self) -> Layout:
        """Sizes of the network, read off the arrays."""
        return read_off({name: array.shape for name, array in self.arrays.items()})

    @property
    def backbone(self) -> Backbone:
        """The backbone that they are of."""
        return self.layout.backbone

    @property
    def extra_norm(self) -> bool:
        """Whether one more batch normalisation follows the backbone."""
        return self.layout.extra_norm

    @property
    def head(self) -> str | None:
        """A name of `heads.HEADS`, or None where there is only a backbone."""
        return self.layout.head

    @property
    def has_head(self) -> bool:
        return self.head is not None

    @property
    def classes(self) -> int | None:
        """Number of classes; None without a classifier."""
        return self.layout.classes


@dataclasses.dataclass
class Contents:
    """What a file holds, before it is compared with what a network needs.

    Attributes:
      arrays: under the file's own names.
      left_over: names of what lies beside the network.
      prototypes, step, best_miou: as in `Weights`.
      notes: what the reader should know of where they were found.
    """

    arrays: dict[str, np.ndarray]
    left_over: Sequence[str] = ()
    prototypes: np.ndarray | None = None
    step: int | None = None
    best_miou: float | None = None
    notes: Sequence[str] = ()


def from_own_arrays(arrays: dict[str, np.ndarray]) -> Contents:
    """Contents of our own formats, where everything is an array."""
    step, best_miou = (arrays.pop(name, None) for name in FACTS)
    return Contents(
        arrays,
        prototypes=arrays.pop("prototypes", None),
        step=None if step is None else int(step),
        best_miou=None if best_miou is None else float(best_miou),
    )


def own_arrays(weights: Weights) -> dict[str, np.ndarray]:
    """The inverse of `from_own_arrays`, without step and score."""
    prototypes = {} if weights.prototypes is None else {"prototypes": weights.prototypes}
    return weights.arrays | prototypes


def safetensors_digest(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of a safetensors file of ours, which stands in its metadata beside these."""
    return digests.of_json([dict(metadata), digests.of_arrays(arrays)])


def file_bytes(path: epath.Path) -> bytes:
    if not path.is_file():
        raise ValueError(
            f"{path}: expected a file of weights, a TensorFlow checkpoint or a stage's folder; there is none"
        )
    contents = path.read_bytes()
    if reason := stand_in(contents):
        raise ValueError(f"{path}: expected a file of weights, and {reason}")
    return contents
