"""Data sets that are odd and yet run."""

import numpy as np
import pytest
from survival import config_of, run

from proda_jax.data.memory import MemorySource
from proda_jax.models.weights.files import load
from proda_jax.run.sources import Sources


@pytest.mark.parametrize(
    ("records", "size", "crop"),
    [(1, (50, 91), (36, 68)), (2, (24, 40), (32, 64))],
    ids=["one image and a crop of odd eighths", "less than a crop"],
)
def test_odd_data_sets_run_through(records, size, crop, tmp_path):
    """A single image whose size no stride divides; images that do not fill the crop."""
    config = config_of(**{"source.steps": 1, "stage1.steps": 1})
    config.views.crop_size = crop
    for role in ("source", "target", "validation"):
        config.data[role].image_size = size
    generator = np.random.default_rng(0)

    def source(labelled: bool) -> MemorySource:
        image = generator.integers(0, 256, (records, *size, 3)).astype(np.uint8)
        label = generator.integers(0, 11, (records, *size)).astype(np.uint8)
        return MemorySource(image, label if labelled else None)

    given = {"source": source(True), "target": source(False), "validation": source(True)}
    results = run(tmp_path, config, Sources(config, tmp_path, given=given))
    assert [stage["last"]["step"] for stage in results["stages"]] == [1, 1]
    assert all(np.isfinite(array).all() for array in load(tmp_path / "stage1").arrays.values())
