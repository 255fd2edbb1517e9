"""Predictions of a whole split: what is written, and that the scores are those of what was written."""

import numpy as np
import pytest
from PIL import Image
from runs import write_run
from tiny import CLASSES, block_source, tiny_config

from proda_jax import load
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.memory import MemorySource
from proda_jax.inference import split
from proda_jax.run import predictions
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources

SIZES = ((96, 192), (48, 96), (40, 100))  # of labels; images have 48 x 96 pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Experiment:
    folder = write_run(tmp_path_factory.mktemp("run"))
    generator, images = np.random.default_rng(0), block_source(3, 5)
    labels = [generator.choice([*range(CLASSES), IGNORE], size).astype(np.uint8) for size in SIZES]
    validation = MemorySource(images.images, images.labels, ["a/1", "b/1", "b/2"], labels)
    config = tiny_config()
    config.stages = ("source", "stage1")
    config.source, config.stage1 = base.supervised("random", 4), base.denoise("source", 4)
    return Experiment(config, folder, Sources(config, folder, given={"validation": validation}), devices_used=1)


def predict(run, output, *kinds) -> dict:
    model, variables, origin = run.networks.choose("stage1", "last")
    return split.predict(run.config, run.sources, model, variables, origin, output, kinds, run.mesh)


def test_each_image_is_written_at_the_size_of_its_label_and_scored_as_it_was_written(run, tmp_path):
    scores = predict(run, tmp_path, "ids", "label_ids", "colors", "overlays", "confidence", "entropy")
    validation, segmenter = run.sources.open("validation"), load(run.workdir.path, stage="stage1")
    for record, size in enumerate(SIZES):
        written = {path.parts[-3]: np.asarray(Image.open(path))
                   for path in tmp_path.glob(f"*/{validation.names[record]}.png")}  # fmt: skip
        assert len(written) == 6 and {pixels.shape[:2] for pixels in written.values()} == {size}
        np.testing.assert_array_equal(written["label_ids"], written["ids"])  # of CamVid
        np.testing.assert_array_equal(segmenter.colorize(written["ids"]), written["colors"])
    np.testing.assert_array_equal(Image.open(tmp_path / "ids" / "b" / "1.png"), segmenter(validation.image(1)))
    again = predictions.score(run.config, run.sources, tmp_path / "ids")
    for measure in ("miou", "iou", "pixel_accuracy", "mdice", "dice"):
        assert scores[measure] == again[measure]
    assert (scores["stage"], scores["checkpoint"], scores["step"], scores["images"]) == ("stage1", "last", 4, 3)


def test_scores_are_those_of_an_evaluation_but_for_rounding(run, tmp_path):
    written, evaluated = predict(run, tmp_path, "ids"), run.evaluate("stage1", "last")
    assert written["pixel_accuracy"] == pytest.approx(evaluated["pixel_accuracy"], abs=0.05)
    assert written.keys() == evaluated.keys()


def test_what_is_unknown_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(ValueError, match="--write=idz: expected some of ids, label_ids"):
        predict(run, tmp_path / "out", "idz")
    assert not (tmp_path / "out").exists()
