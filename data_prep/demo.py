"""The demo: rendered streets, so nothing is downloaded."""

from collections.abc import Sequence

from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.demo_streets import render
from proda_jax.data_prep.png import encode_png
from proda_jax.data_prep.records import Record

_COUNTS = {"source_train": 600, "source_val": 60, "target_train": 600, "target_val": 100}
_SEEDS = {"train": 0, "val": 1_000_000}  # far apart, so that splits may grow without sharing a scene


class Demo(DataSet):
    """Small streets in two domains, 96 x 192; target_train has labels too, for the supervised upper bound."""

    name = "demo"
    domains, size = ("source", "target"), (96, 192)

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of 'source_train', 'source_val', 'target_train' and 'target_val'; their image is (domain, seed)."""
        return {split: _records(split, count) for split, count in _COUNTS.items() if split.startswith(self.domains)}

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """Renders the scene."""
        image, label = render(*record.image, self.size)
        return encode_png(image), encode_png(label)


class DemoForPhotographs(Demo):
    """The same in the source's looks alone, as large as CamVid's photographs: synthetic images for a real target."""

    name = "demo_360x480"
    domains, size = ("source",), (360, 480)


def _records(split: str, count: int) -> list[Record]:
    domain, part = split.split("_")
    scenes = [(domain, _SEEDS[part] + i) for i in range(count)]
    return [Record(f"{split}_{i:04d}", scene, scene) for i, scene in enumerate(scenes)]
