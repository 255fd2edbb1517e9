"""Prediction by ONNX Runtime gives what prediction by XLA gives."""

import importlib.util

import numpy as np
import pytest
import runs
from runs import IMAGES

from proda_jax.inference import onnx_engine
from proda_jax.inference.segmenter import ENGINES, Segmenter


def by_each_engine(**options) -> list[Segmenter]:
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    made = runs.segmenter()
    return [Segmenter(*made.network, made.card, made._mesh, engine=engine, **options) for engine in ENGINES]


@pytest.mark.parametrize("options", [
    {"resize": 48}, pytest.param({"scales": (0.75, 1.0), "flip": True}, marks=pytest.mark.slow),
])  # fmt: skip
def test_both_engines_give_the_same_labels_and_probabilities(options):
    (ours, theirs), image = by_each_engine(**options), IMAGES[0]
    (wanted,), (found,) = (segmenter.predict([image], entropy=True) for segmenter in (ours, theirs))
    assert len(np.unique(wanted.labels)) > 3
    assert (found.labels != wanted.labels).mean() <= 0.001
    np.testing.assert_allclose(theirs.probabilities(image), ours.probabilities(image), atol=1e-5)
    assert np.abs(found.entropy.astype(int) - wanted.entropy).max() <= 1


def test_images_of_another_shape_have_a_program_of_their_own(monkeypatch):
    converted = []
    monkeypatch.setattr(onnx_engine, "convert", lambda function, variables, shape, *rest: converted.append(shape))
    monkeypatch.setattr(onnx_engine, "runner", lambda written, instead: lambda images: images[:, None, ..., :1])
    monkeypatch.setattr(onnx_engine.Logits, "_compare", lambda self, images, found: None)
    logits = onnx_engine.Logits(runs.segmenter().network[0], None, (1.0,), False)
    for height in (32, 48, 32):
        assert [scale.shape for scale in logits(np.zeros((1, height, 64, 3), np.uint8))] == [(1, 1, height, 64, 1)]
    assert converted == [(1, 32, 64, 3), (1, 48, 64, 3)]


@pytest.mark.parametrize("wrong", [lambda logits: logits + 0.1, lambda logits: logits[:, :, 1:], lambda x: x * np.nan])
def test_a_conversion_that_is_wrong_is_noticed_at_the_first_image(wrong, monkeypatch):
    ours, theirs = by_each_engine()
    right = ours._logits(IMAGES[:1])[0]
    monkeypatch.setattr(onnx_engine, "convert", lambda *_: b"")
    monkeypatch.setattr(onnx_engine, "runner", lambda *_: lambda images: wrong(np.asarray(right)))
    with pytest.raises(ValueError, match="other scores to the first image.*: leave out --engine=onnxruntime"):
        theirs(IMAGES[0])


def test_an_engine_that_there_is_not_is_refused_with_those_there_are(monkeypatch):
    made = runs.segmenter()
    with pytest.raises(ValueError, match="engine = 'onnx': expected one of xla, onnxruntime"):
        Segmenter(*made.network, made.card, made._mesh, engine="onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ValueError, match=r"--engine=onnxruntime needs onnxruntime, .*: pip install 'proda-jax\[onnx"):
        Segmenter(*made.network, made.card, made._mesh, engine="onnxruntime")
