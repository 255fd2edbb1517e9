"""A run with self-training on mixed images: what it is given besides its batches, and what it leaves behind."""

import numpy as np
import pytest
from tiny import CLASSES, block_source, tiny_config, tiny_stage

from proda_jax.configs import base
from proda_jax.models.weights import stage_folder
from proda_jax.run import settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources
from proda_jax.system.files import read_npz


def given() -> dict:
    target = block_source(4, 1, labelled=False)
    return {"source": block_source(4, 0), "target": target, "validation": block_source(2, 2)}


def assert_counted(workdir) -> None:
    """The classes of the source's images are counted beside the stage that draws by them."""
    pixels = read_npz(workdir / "mix" / "source_class_pixels.npz")["pixels"]
    expected = [np.bincount(label.ravel(), minlength=CLASSES)[:CLASSES] for label in given()["source"].labels]
    np.testing.assert_array_equal(pixels, expected)


def test_classes_of_the_source_are_counted_once(tmp_path):
    c = tiny_config()
    c.stages, c.mix = ("mix",), tiny_stage(base.mix("random", 2), rare_class_sampling=True, rare_class_min_pixels=50)
    (tmp_path / "mix").mkdir()
    run, source = Experiment(c, tmp_path, Sources(c, tmp_path, given()), devices_used=1), given()["source"]
    drawn = [run.prepared.rare_classes("mix", 5, source).draw(n) for n in range(20)]
    assert_counted(tmp_path)
    source.labels[:] = 0  # which is not looked at again
    assert [run.prepared.rare_classes("mix", 5, source).draw(n) for n in range(20)] == drawn
    assert all(np.any(given()["source"].labels[record] == chosen) for record, chosen in drawn)


@pytest.mark.slow  # the step: test_stages.py and test_mix.py
def test_it_runs_with_rare_classes_frozen_features_masks_contrast_and_prototypes_that_learn(tmp_path):
    c = tiny_config()
    c.stages = ("source", "mix")
    c.source = tiny_stage(base.supervised("random", 2))
    c.mix = tiny_stage(
        base.mix("source", 2), weighting="prototypes", rare_class_sampling=True, rare_class_min_pixels=50,
        rare_class_crop_pixels=10, crop_tries=2, feature_distance_weight=0.1, feature_distance_classes=("sky", "road"),
        masked_weight=1.0, mask_block=8, statistics="target", prototype_distance="cosine", temperature=0.08,
        self_label_weight=0.1, self_label_pixels=9, self_label_queue=8, contrast_weight=1.0, contrast_channels=8,
    )  # fmt: skip
    c.mix.prototype_min_pixels = base.mix("source", 2).prototype_min_pixels
    for i, name in enumerate(c.stages):
        settings.check_stage(c, name, c.stages[:i])
    result = Experiment(c, tmp_path, Sources(c, tmp_path, given()), devices_used=1).run()
    assert result["stages"][1]["last"]["step"] == 2
    assert_counted(tmp_path)
    shares = read_npz(tmp_path / "mix" / "class_shares.npz")["shares"]
    assert shares.shape == (CLASSES,) and np.isclose(shares.sum(), 1) and shares.min() >= 0
    left = stage_folder.read(tmp_path / "mix").arrays
    assert left["projection.last.conv.weight"].shape == (8, 64, 1, 1)
    for line in Metrics(tmp_path / "mix" / "metrics.jsonl", 2).entries:
        assert all(line[name] > 0 for name in (
            "source_ce", "mixed_ce", "masked_ce", "feature_distance", "source_contrast", "self_labelling"
        ))  # fmt: skip
        assert line["skipped"] == 0
