"""Data sets that are odd and yet run."""

import numpy as np
import pytest
from survival import config_of, run

from proda_jax.data.memory import MemorySource
from proda_jax.models.weights.files import load
from proda_jax.run.sources import Sources


@pytest.mark.slow  # views that are not filled, and odd sizes: test_weak_views.py, test_networks.py
def test_odd_data_sets_run_through(tmp_path):
    """One image in each, of sizes that no stride divides; the crop's neither, and target images do not fill it."""
    config = config_of(**{"source.steps": 1, "stage1.steps": 1})
    config.views.crop_size = (36, 68)
    sizes = {"source": (50, 91), "target": (25, 43), "validation": (25, 43)}
    generator, given = np.random.default_rng(0), {}
    for role, size in sizes.items():
        config.data[role].image_size = size
        image = generator.integers(0, 256, (1, *size, 3)).astype(np.uint8)
        label = generator.integers(0, 11, (1, *size)).astype(np.uint8)
        given[role] = MemorySource(image, None if role == "target" else label)
    results = run(tmp_path, config, Sources(config, tmp_path, given=given))
    assert [stage["last"]["step"] for stage in results["stages"]] == [1, 1]
    assert all(np.isfinite(array).all() for array in load(tmp_path / "stage1").arrays.values())
