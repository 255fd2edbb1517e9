"""Pseudo labels on disk."""

from collections.abc import Iterator, Sequence

import numpy as np

from proda_jax.data.source import Batch
from proda_jax.data.store import Store
from proda_jax.system.files import npz, parse_npz


class PseudoLabels(Store):
    """A folder of pseudo labels.

    Soft labels are float16 [grid height, grid width, classes], a grid of every 8th pixel for most (1.3 MB for a
    Cityscapes image); hard labels are uint8 [height, width], IGNORE where not confident, and compressed.
    """

    what, ending = "pseudo labels", ".npz"

    @staticmethod
    def encode(values: np.ndarray) -> bytes:
        """An archive; probabilities hardly compress."""
        return npz(values.dtype != np.float16, label=values)

    @staticmethod
    def decode(contents: bytes) -> np.ndarray:
        """The labels in an archive."""
        return parse_npz(contents)["label"]


def with_pseudo_labels(
    batches: Iterator[Batch], store: PseudoLabels, names: Sequence[str], key: str
) -> Iterator[Batch]:
    """Adds each record's pseudo labels to its batch under `key`: [batch, ...]."""
    for batch in batches:
        yield batch | {key: np.stack([store.read(names[record]) for record in batch["record"]])}
