"""TFDS builder of Cityscapes (Cordts et al., 2016), with raw label ids."""

from collections.abc import Sequence

from data_prep.base import Record, StreetBuilder

_IMAGE, _LABEL = "_leftImg8bit", "_gtFine_labelIds"


class Cityscapes(StreetBuilder, skip_registration=True):
    """The splits 'train', which may come without labels, and 'val'."""

    name = "cityscapes"
    LAYOUT = (
        f"leftImg8bit/{{train,val}}/<city>/*{_IMAGE}.png and gtFine/{{train,val}}/<city>/*{_LABEL}.png "
        "(gtFine/train is not needed)"
    )

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of 'train' and 'val'."""
        return {split: self._records(split) for split in ("train", "val")}

    def _records(self, split: str) -> list[Record]:
        records = []
        for city in (path.name for path in self.entries("leftImg8bit", split)):
            labels = {path.stem: path for path in self.files("gtFine", split, city)}
            for path in self.files("leftImg8bit", split, city):
                name = path.stem.removesuffix(_IMAGE)
                records.append(Record(name, path, labels.get(name + _LABEL)))
        return records
