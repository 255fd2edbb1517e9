"""TFDS builder of Cityscapes (Cordts et al., 2016), with raw label ids."""

from collections.abc import Sequence

from proda_jax.data_prep.base import LABEL_SUFFIXES, SegmentationBuilder
from proda_jax.data_prep.records import Record

_IMAGE, _LABEL = "_leftImg8bit", "_gtFine_labelIds"


class Cityscapes(SegmentationBuilder, skip_registration=True):
    """The splits 'train', which may come without labels, 'val', and 'test', whose labels are withheld."""

    name = "cityscapes"
    LAYOUT = (
        f"leftImg8bit/{{train,val,test}}/<city>/*{_IMAGE}.png and gtFine/{{train,val}}/<city>/*{_LABEL}.png "
        "(gtFine/train and leftImg8bit/test are not needed)"
    )

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each split; what gtFine/test holds is a placeholder, and not read."""
        return {split: self._records(split, labelled=split != "test") for split in ("train", "val", "test")}

    def _records(self, split: str, *, labelled: bool) -> list[Record]:
        images, labels = [], {}
        for city in self.entries("leftImg8bit", split):
            files = self.files("leftImg8bit", split, city.name)
            images += [(f.stem.removesuffix(_IMAGE), f) for f in files if f.stem.endswith(_IMAGE)]
            for file in self.files("gtFine", split, city.name, suffixes=LABEL_SUFFIXES) if labelled else ():
                if file.stem.endswith(_LABEL):
                    self.add(labels, file.stem.removesuffix(_LABEL), file)
        return self.match(labels, images)
