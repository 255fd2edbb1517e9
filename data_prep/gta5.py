"""GTA5 (Richter et al., 2016): game images with palette labels of Cityscapes' label ids."""

from collections.abc import Sequence

from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.records import Record


class Gta5(DataSet):
    """All images as one split, 'train'."""

    name = "gta5"
    layout = "images/*.png and labels/*.png of the same names"

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of 'train'."""
        return {"train": self.labelled_pairs("images", "labels")}
