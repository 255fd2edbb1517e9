"""The table of backbones against the libraries whose networks they are, and the page about it against the table."""

import math
import pathlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
import reference
import torch
from multiply_adds import multiply_adds

from proda_jax.models.backbones import BACKBONES
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "backbones.md"
DEPTHS = {"mit_b0": [2, 2, 2, 2], "mit_b3": [3, 4, 18, 3]}  # SegFormer, Table 6


def parameters(name: str) -> int:
    shapes = dict(BACKBONES[name].shapes())
    return sum(math.prod(shape) for key, shape in shapes.items() if "running_" not in key)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", DEPTHS)
def test_mix_transformers_have_as_many_parameters_as_those_of_transformers(name):
    library = reference.library("transformers")
    widths = [32, 64, 160, 256] if name == "mit_b0" else [64, 128, 320, 512]
    with torch.device("meta"):
        theirs = library.SegformerModel(library.SegformerConfig(depths=DEPTHS[name], hidden_sizes=widths))
    assert parameters(name) == count(theirs)


@pytest.mark.parametrize(("name", "theirs"), [
    ("dinov2_vits14", "vit_small_patch14_dinov2"), ("dinov2_vitb14", "vit_base_patch14_dinov2"),
    ("dinov2_vitl14", "vit_large_patch14_dinov2"), ("dinov2_vitl14_reg", "vit_large_patch14_reg4_dinov2"),
    ("dinov3_vits16", "vit_small_patch16_dinov3_qkvb"), ("dinov3_vitl16", "vit_large_patch16_dinov3_qkvb"),
])  # fmt: skip
def test_vision_transformers_have_as_many_parameters_as_those_of_timm(name, theirs):
    library = reference.library("timm")
    with torch.device("meta"):
        network = library.create_model(theirs)
    row = BACKBONES[name]
    more = row.width * row.depths[0] if row.family == "dinov3" else row.width * bool(row.registers)
    # ours keeps the bias of keys that the authors' files hold; timm's first token beside registers has no position
    assert parameters(name) == count(network) + more


def test_residual_networks_have_as_many_parameters_as_torchvisions():
    models = reference.library("torchvision").models
    with torch.device("meta"):
        for name in ("resnet50", "resnet101"):
            theirs = getattr(models, name)()
            assert parameters(name) == count(theirs) - count(theirs.fc)


def page() -> dict[str, tuple[float, float]]:
    """{backbone: (millions of parameters, thousand millions of multiply-adds)} as the page's first table says."""
    found = {}
    table = re.search(r"^\| `backbone` \| parameters, M \|.*\n(?:\|.*\n)+", PAGE.read_text(), re.M).group()
    for names, millions, billions in re.findall(r"^\| (`.+?`) \| ([\d.]+) \| ([\d., ]+) \|", table, re.M):
        names, billions = re.findall(r"`(\w+)`", names), billions.split(", ")
        found |= {name: (float(millions), float(number)) for name, number in zip(names, billions, strict=True)}
    return found


def test_the_page_says_how_many_parameters_each_backbone_has():
    said = page()
    assert set(BACKBONES) == set(said)
    assert {name: round(parameters(name) / 1e6, 2) for name in said} == {name: number for name, (number, _) in
                                                                        said.items()}  # fmt: skip


@pytest.mark.parametrize("name", ["efficientnet_lite2", "mit_b0", "dinov2_vits14_reg"])
def test_the_page_says_how_many_multiply_adds_a_backbone_takes(name):
    row = BACKBONES[name]
    network = row.module(partial(Conv), partial(BatchNorm, use_running_statistics=True), recompute=False, name=None)
    images = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    drawing = (None,) * row.draws
    variables = jax.eval_shape(network.init, jax.random.key(0), images, *drawing)
    counted = multiply_adds(lambda variables, x: network.apply(variables, x, *drawing), variables, images)
    assert round(counted / 1e9, 1) == page()[name][1]
