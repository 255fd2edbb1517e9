"""Backbones against other libraries': the same random weights, read from their files, give the same features."""

from functools import partial

import jax
import numpy as np
import pytest
import reference
import torch

from proda_jax.models import weights
from proda_jax.models.backbones import BACKBONES
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.weights.torch_names import from_torch

TOLERANCE = 1e-4
SEGFORMER = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 2, 1, 1]}


def maps_of(read: weights.Weights, images: np.ndarray, **settings) -> list[np.ndarray]:
    """What the backbone in a file gives of images in RGB in [0, 1], one array a level."""
    makers = partial(Conv), partial(BatchNorm, use_running_statistics=True)
    network = read.backbone.module(*makers, recompute=False, name=None)
    given = (images - read.arrays["input.mean"]) / read.arrays["input.std"]
    arguments = (given, None) if read.backbone.draws else (given,)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    below = {kind: {"backbone": tree} for kind, tree in shapes.items()}
    variables = {kind: tree["backbone"] for kind, tree in from_torch(read.arrays, below).items()}
    return [np.asarray(x) for x in jax.jit(network.apply)(variables, *arguments)]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for actual, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, wanted.detach().permute(0, 2, 3, 1), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("settings", "size"), [(SEGFORMER, (64, 96)), (SEGFORMER, (70, 58)), ({}, (64, 64))])
def test_mix_transformers_are_those_of_transformers(settings, size, tmp_path):
    library, images = reference.library("transformers"), reference.image(*size)
    config = library.SegformerConfig(**settings)
    theirs = reference.randomise(library.SegformerForSemanticSegmentation(config))
    theirs.save_pretrained(tmp_path)
    read = weights.load(tmp_path / "model.safetensors")
    assert read.backbone.family == "mit" and read.backbone.depths == tuple(config.depths)
    found = theirs.segformer(reference.normalised(images), output_hidden_states=True)
    assert_equal(maps_of(read, images), found.hidden_states)
    if settings:  # names of its files are not those in memory
        torch.save({"state_dict": theirs.state_dict()}, tmp_path / "network.pth")
        again = weights.load(tmp_path / "network.pth")
        assert all(np.array_equal(again.arrays[name], array) for name, array in read.arrays.items())
    else:
        assert read.backbone == BACKBONES["mit_b0"]


def test_transformers_normalises_with_another_epsilon_than_its_configuration_says():
    library = reference.library("transformers")
    network = library.SegformerModel(library.SegformerConfig(**SEGFORMER))
    assert network.config.layer_norm_eps == 1e-6
    assert {layer.eps for layer in network.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-5}


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    library = reference.library("transformers")
    state = library.SegformerModel(library.SegformerConfig(**SEGFORMER)).state_dict()
    del state["stages.0.blocks.0.attention.k_proj.weight"], state["stages.3.layer_norm.bias"]
    state["stages.1.blocks.0.mlp.fc1.weight"] = torch.zeros(5, 16)
    torch.save(state, tmp_path / "network.pth")
    with pytest.raises(ValueError) as raised:
        weights.load(tmp_path / "network.pth")
    for part in ("missing: block1.0.attn.kv.weight, norm4.bias", "block2.0.mlp.fc1.weight has shape (5, 16), expected "
                 "(64, 16)", "block1.0.attn.kv.weight is made of 2 arrays of one shape"):  # fmt: skip
        assert part in str(raised.value)
