"""Backbones against other libraries': the same random weights, read from their files, give the same features."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
import reference
import torch

from proda_jax.models import weights
from proda_jax.models.backbones import BACKBONES
from proda_jax.models.backbones.dinov3 import DINOv3Backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.weights.torch_names import from_torch

TOLERANCE = 1e-4
SEGFORMER = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1]}


def maps_of(read: weights.Weights, images: np.ndarray, **settings) -> list[np.ndarray]:
    """What the backbone in a file gives of images in RGB in [0, 1], one array a level."""
    makers = partial(Conv), partial(BatchNorm, use_running_statistics=True)
    network = dataclasses.replace(read.backbone, **settings).module(*makers, recompute=False, name=None)
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


@pytest.mark.parametrize(("settings", "size"), [(SEGFORMER, (70, 58)), ({}, (64, 96))])
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


DINOV2 = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}


@pytest.mark.parametrize(("size", "registers"), [
    ((70, 70), 0), ((56, 98), 0), ((112, 84), 4),  # the first is that of the positions
])  # fmt: skip
def test_vision_transformers_are_those_of_transformers(size, registers, tmp_path):
    library, images = reference.library("transformers"), reference.image(*size)
    if registers:
        config = library.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=registers)
        theirs = library.Dinov2WithRegistersModel(config)
    else:
        theirs = library.Dinov2Model(library.Dinov2Config(**DINOV2))
    reference.randomise(theirs).save_pretrained(tmp_path)
    read = weights.load(tmp_path / "model.safetensors")
    found = theirs(reference.normalised(images), output_hidden_states=True)
    wanted = [patches(theirs.layernorm(x), size, registers) for x in found.hidden_states[1:]]
    way = "antialias" if registers else "plain"
    assert_equal(maps_of(read, images, position_resize=way), wanted)
    torch.save(theirs.state_dict(), tmp_path / "network.pth")  # names of its files are not those in memory
    again = weights.load(tmp_path / "network.pth")
    assert all(np.array_equal(again.arrays[name], array) for name, array in read.arrays.items())


def patches(tokens: torch.Tensor, size: tuple[int, int], registers: int, side: int = 14) -> torch.Tensor:
    """[1, channels, rows, columns] of tokens [1, 1 + registers + rows * columns, channels]."""
    return tokens[:, 1 + registers :].reshape(1, size[0] // side, size[1] // side, -1).permute(0, 3, 1, 2)


def test_dinov3_is_that_of_transformers(tmp_path):
    size = (80, 48)
    library, images = reference.library("transformers"), reference.image(*size)
    theirs = reference.randomise(library.DINOv3ViTModel(library.DINOv3ViTConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=4,
    )))  # fmt: skip
    theirs.save_pretrained(tmp_path)
    read = weights.load(tmp_path / "model.safetensors")
    assert read.backbone == DINOv3Backbone((2,), 128)
    found = theirs(reference.normalised(images), output_hidden_states=True)
    assert_equal(maps_of(read, images), [patches(theirs.norm(x), size, 4, 16) for x in found.hidden_states[1:]])
    torch.save(theirs.state_dict(), tmp_path / "network.pth")  # names of its files are not those in memory
    again = weights.load(tmp_path / "network.pth")
    assert all(np.array_equal(again.arrays[name], array) for name, array in read.arrays.items())


def test_dinov3_is_that_of_timm(tmp_path):
    library, images = reference.library("timm"), reference.image(64, 96)
    theirs = library.create_model("vit_small_patch16_dinov3_qkvb", embed_dim=128, num_heads=2, depth=2)
    torch.save(reference.randomise(theirs).state_dict(), tmp_path / "network.pth")
    read = weights.load(tmp_path / "network.pth")
    wanted = theirs.forward_intermediates(reference.normalised(images), norm=True, intermediates_only=True)
    assert_equal(maps_of(read, images), wanted)


@pytest.mark.parametrize(("name", "size"), [
    ("vit_small_patch14_dinov2", (56, 98)), ("vit_small_patch14_reg4_dinov2", (112, 84)),
])  # fmt: skip
def test_vision_transformers_are_those_of_timm(name, size, tmp_path):
    library, images = reference.library("timm"), reference.image(*size)
    theirs = library.create_model(name, img_size=70, embed_dim=128, num_heads=2, depth=2, dynamic_img_size=True)
    torch.save(reference.randomise(theirs).state_dict(), tmp_path / "network.pth")
    read = weights.load(tmp_path / "network.pth")
    wanted = theirs.forward_intermediates(reference.normalised(images), norm=True, intermediates_only=True)
    assert_equal(maps_of(read, images, position_resize="antialias"), wanted)


def test_the_small_vision_transformer_is_that_of_transformers_at_another_size_than_it_was_trained_for(tmp_path):
    library, images = reference.library("transformers"), reference.image(70, 98)
    theirs = reference.randomise(library.Dinov2Model(library.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14,
    )))  # fmt: skip
    theirs.save_pretrained(tmp_path)
    read = weights.load(tmp_path / "model.safetensors")
    assert read.backbone == BACKBONES["dinov2_vits14"]
    wanted = patches(theirs(reference.normalised(images)).last_hidden_state, (70, 98), 0)
    assert_equal(maps_of(read, images, position_resize="plain")[-1:], [wanted])


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_a_resnet_with_its_stride_in_the_3x3_is_torchvisions(stride_in, tmp_path):
    library = reference.library("torchvision").models.resnet
    theirs = library.ResNet(library.Bottleneck, [1, 2, 2, 2], replace_stride_with_dilation=[False, True, True])
    # the first block of a group of DeepLabv2's is dilated, too
    for group, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        group[0].conv2.dilation = group[0].conv2.padding = (dilation, dilation)
    torch.save(reference.randomise(theirs).state_dict(), tmp_path / "network.pth")
    read, images = weights.load(tmp_path / "network.pth", images="imagenet"), reference.image(65, 97)
    x = theirs.relu(theirs.bn1(theirs.conv1(reference.normalised(images))))
    x, wanted = theirs.maxpool(x), []
    for group in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        wanted.append(x := group(x))
    ours = maps_of(read, images, stride_in=stride_in)
    if stride_in == "3x3":
        assert_equal(ours, wanted)
    else:  # they differ from the second group on, in size not at all
        assert_equal(ours[:1], wanted[:1])
        assert np.abs(ours[1] - wanted[1].detach().permute(0, 2, 3, 1).numpy()).max() > 0.1


@pytest.mark.parametrize("size", [(65, 98), (64, 96), (67, 99)])
def test_a_resnet_with_contracted_dilations_and_a_pooling_that_rounds_down_is_torchvisions_own(size, tmp_path):
    library, images = reference.library("torchvision").models.resnet, reference.image(*size)
    theirs = library.ResNet(library.Bottleneck, [1, 2, 2, 2], replace_stride_with_dilation=[False, True, True])
    torch.save(reference.randomise(theirs).state_dict(), tmp_path / "network.pth")
    x = theirs.relu(theirs.bn1(theirs.conv1(reference.normalised(images))))
    x, wanted = theirs.maxpool(x), []
    for group in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        wanted.append(x := group(x))
    read = weights.load(tmp_path / "network.pth", images="imagenet")
    assert_equal(maps_of(read, images, stride_in="3x3", contract_dilation=True, ceil_mode=False), wanted)


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
