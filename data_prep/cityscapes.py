"""Cityscapes (Cordts et al., 2016), with raw label ids."""

from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from proda_jax.data import decode_pillow
from proda_jax.data.label_spaces import CITYSCAPES_IDS
from proda_jax.data_prep.base import LABEL_SUFFIXES, DataSet
from proda_jax.data_prep.examples import naming
from proda_jax.data_prep.png import encode_png, index_png
from proda_jax.data_prep.records import Record

_IMAGE, _LABEL, _TRAIN_LABEL = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
_UNLABELLED = 0  # label id of what has no train id, which is 255 in files of train ids


class Cityscapes(DataSet):
    """The splits 'train', which may come without labels, 'val', and 'test', whose labels are withheld.

    Where an image has a file of train ids alone, its values are stored as label ids, too.
    """

    name = "cityscapes"
    layout = (
        f"leftImg8bit/{{train,val,test}}/<city>/*{_IMAGE}.png and gtFine/{{train,val}}/<city>/*{_LABEL}.png, or "
        f"*{_TRAIN_LABEL}.png (gtFine/train and leftImg8bit/test are not needed)"
    )

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of each split; what gtFine/test holds is a placeholder, and not read."""
        return {split: self._records(split, labelled=split != "test") for split in ("train", "val", "test")}

    def own_values(self, record: Record, label: bytes) -> bytes:
        """A label with label ids, of a file of train ids, too."""
        if not label or not record.label.stem.endswith(_TRAIN_LABEL):
            return label
        with naming(record.label):
            return _as_label_ids(label)

    def _records(self, split: str, *, labelled: bool) -> list[Record]:
        images = _named(self.files(f"leftImg8bit/{split}").values(), _IMAGE)
        files = self.files(f"gtFine/{split}", LABEL_SUFFIXES).values() if labelled else ()
        ids, train_ids = {}, {}
        for labels, ending in ((ids, _LABEL), (train_ids, _TRAIN_LABEL)):
            for name, path in _named(files, ending):
                self.add(labels, name, path)
        return self.match(train_ids | ids, images)


def _named(files: Iterable[epath.Path], ending: str) -> list[tuple[str, epath.Path]]:
    """(name, file) of the files whose names end so."""
    return [(path.stem.removesuffix(ending), path) for path in files if path.stem.endswith(ending)]


def _as_label_ids(png: bytes) -> bytes:
    raw = decode_pillow.raw_label(index_png(png), in_color=False)
    ids = np.full(256, -1)
    ids[255] = _UNLABELLED
    ids[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
    values = np.unique(raw)
    if strange := [int(value) for value in values if value > 255 or ids[value] < 0]:
        last = len(CITYSCAPES_IDS) - 1
        raise ValueError(f"it holds {strange[0]}, which is no train id: expected 0 to {last}, and 255")
    return encode_png(ids[raw].astype(np.uint8))
