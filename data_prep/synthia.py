"""SYNTHIA-RAND-CITYSCAPES (Ros et al., 2016): the class is the first channel of a 16-bit label PNG."""

from collections.abc import Sequence

from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.records import Record


class Synthia(DataSet):
    """All images as one split, 'train'."""

    name = "synthia"
    layout = "RGB/*.png and GT/LABELS/*.png of the same names"

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of 'train'."""
        return {"train": self.labelled_pairs("RGB", "GT/LABELS")}
