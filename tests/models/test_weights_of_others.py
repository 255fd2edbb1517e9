"""Weights that others trained: below any usual wrapper and prefix, under each library's names, and what is no use."""

import functools
import re

import numpy as np
import pytest
import reference
import safetensors.torch
import torch
import weight_fixtures as fixtures
from survival import config_of
from test_reference_networks import assert_equal, maps_of
from weight_fixtures import save_torch

from proda_jax.models import backbones, weights
from proda_jax.run.networks import Networks
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices


@functools.cache
def backbone() -> dict:
    """A small ResNet's state dict under torchvision's names."""
    return fixtures.network(head=None).state_dict()


def assert_taken(read: weights.Weights, state: dict) -> None:
    arrays = {name: array for name, array in read.arrays.items() if not name.startswith("input.")}
    assert set(arrays) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


OTHERS = {name: torch.zeros_like(value) for name, value in backbone().items()}


@pytest.mark.parametrize(("payload", "said"), [
    ({"model": backbone(), "epoch": 3}, "the network was taken from 'model'"),
    ({"meta": {"mmcv": "2"}, "state_dict": backbone()}, "taken from 'state_dict'"),
    ({"student": backbone(), "teacher": OTHERS}, "taken from 'student'; the file has 'teacher', too"),
    ({"ema": OTHERS, "model": backbone(), "optimizer": {"state": {0: {"step": torch.ones(())}}}},
     "taken from 'model'; the file has 'ema', too"),
    ({"trainer": {"network": backbone()}}, "taken from 'trainer.network'"),
    ({"something": backbone()}, "taken from 'something'"),
])  # fmt: skip
def test_a_network_is_found_below_any_wrapper_which_is_said(payload, said, tmp_path):
    read, account = weights.read(save_torch(payload, tmp_path / "a.pth"))
    assert_taken(read, backbone())
    assert any(said in note for note in account.notes), account.notes
    assert not account.missing


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_backbone_and_head_of_fada_are_found_where_its_code_keeps_them(wrapper, tmp_path):
    state = fixtures.network(head="deeplab").state_dict()
    parts = {"feature_extractor": {}, "classifier": {}}
    for name, value in state.items():
        head = name.startswith("layer5.")
        bare = name.removeprefix("layer5.") if head else f"backbone.{name}"
        parts["classifier" if head else "feature_extractor"][wrapper + bare] = value
    others = {"iteration": 40_000, "discriminator_cls": {f"{wrapper}D.0.weight": torch.ones(3, 4, 3, 3)}}
    read, account = weights.read(save_torch(parts | others, tmp_path / "a.pth"))
    assert_taken(read, state)
    np.testing.assert_allclose(read.arrays["input.mean"], [0.485, 0.456, 0.406])
    np.testing.assert_allclose(read.arrays["input.std"], [0.229, 0.224, 0.225])
    assert read.head == "deeplab" and not account.missing
    assert any("'feature_extractor' and 'classifier'" in note for note in account.notes)


@pytest.mark.parametrize(("prefixes", "said"), [
    (("backbone.",), "from below 'backbone.'"),  # mmsegmentation
    (("encoder.",), "from below 'encoder.'"),  # segmentation_models_pytorch
    (("module.encoder_q.", "module.encoder_k."), "below 'encoder_q.'; there is one below 'encoder_k.', too"),  # MoCo
    (("model.anything.at_all.",), "from below 'model.anything.at_all.'"),
])  # fmt: skip
def test_a_backbone_is_found_below_any_prefix_which_is_said(prefixes, said, tmp_path):
    states = dict(zip(prefixes, (backbone(), OTHERS), strict=False))
    state = {prefix + name: value for prefix, part in states.items() for name, value in part.items()}
    state["decode_head.conv.weight"] = torch.ones(3, 3, 1, 1)
    read, account = weights.read(save_torch({"state_dict": state}, tmp_path / "a.pth"))
    assert_taken(read, backbone())
    assert any(said in note for note in account.notes), account.notes
    assert "decode_head.conv.weight" in account.left_over


def test_a_resnet_under_hugging_faces_names_is_theirs(tmp_path):
    library, images = reference.library("transformers"), reference.image(65, 97)
    config = library.ResNetConfig(hidden_sizes=[256, 512, 1024, 2048], depths=[1, 2, 1, 1])
    theirs = reference.randomise(library.ResNetModel(config))
    theirs.save_pretrained(tmp_path)
    read = weights.load(tmp_path / "model.safetensors", images="imagenet")
    assert (read.backbone.depths, read.backbone.width) == ((1, 2, 1, 1), 64)
    found = theirs(reference.normalised(images), output_hidden_states=True)
    wanted = found.hidden_states[1:3]  # the others are dilated here
    assert_equal(maps_of(read, images, stride_in="3x3")[:2], wanted)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_deep_stem_under_timms_names_and_mmsegmentations_is_timms(prefix, tmp_path):
    library, images = reference.library("timm").models.resnet, reference.image(65, 98)
    theirs = library.ResNet(library.Bottleneck, (1, 2, 1, 1), stem_type="deep", stem_width=32, output_stride=8)
    state = {prefix + name: value for name, value in reference.randomise(theirs).state_dict().items()}
    stem = {rf"^{prefix}conv1\.(?=\d)": f"{prefix}stem.", rf"^{prefix}bn1\.": f"{prefix}stem.7."}
    renamed = {functools.reduce(lambda name, part: re.sub(*part, name), stem.items(), name): value
               for name, value in state.items()}  # fmt: skip
    wanted = theirs.forward_intermediates(reference.normalised(images), intermediates_only=True)[1:]
    for number, arrays in enumerate((state, renamed)):
        assert (f"{prefix}conv1.0.weight" in arrays) == (number == 0)
        read = weights.load(save_torch(arrays, tmp_path / f"{number}.pth"), images="imagenet")
        assert (read.backbone.depths, read.backbone.width, read.backbone.deep_stem) == ((1, 2, 1, 1), 64, True)
        ours = maps_of(read, images, stride_in="3x3", contract_dilation=True, ceil_mode=False)
        assert_equal(ours, wanted)


def test_shortcuts_that_are_averaged_are_refused_in_a_sentence(tmp_path):
    theirs = reference.library("timm").create_model("resnet26d")
    with pytest.raises(ValueError, match="a.pth holds a ResNet whose shortcuts are averaged.*expected one without"):
        weights.load(save_torch(theirs.state_dict(), tmp_path / "a.pth"))


def test_weights_of_another_backbone_than_the_configurations_are_refused_in_a_sentence(tmp_path):
    rows = {"depths": (3, 4, 6, 3), "width": 8}
    path = save_torch(fixtures.network(head=None, **rows).state_dict(), tmp_path / "a.pth")
    config = config_of(**{"model.imagenet_weights": str(path), "model.backbone": "resnet101", "model.depths": ()})
    networks = Networks(config, Workdir(tmp_path), devices.make_mesh(1), range(11))
    message = r"a.pth holds a resnet of depths \(3, 4, 6, 3\) and width 8.* are a resnet of depths \(3, 4, 23, 3\)"
    with pytest.raises(ValueError, match=message):
        networks.in_weights("imagenet", None)


@pytest.mark.parametrize("deep", [True, False])
def test_weights_with_the_other_stem_name_the_setting_that_takes_them(deep, tmp_path):
    row = backbones.backbone("resnet50", (1, 1, 1, 1), 8, deep_stem=deep)
    path = tmp_path / "a.npz"
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in row.shapes()})
    settings = {"model.imagenet_weights": str(path), "model.depths": (1, 1, 1, 1), "model.width": 8}
    for wanted in (not deep, deep):
        config = config_of(**settings, **{"model.deep_stem": wanted})
        networks = Networks(config, Workdir(tmp_path), devices.make_mesh(1), range(11))
        if wanted == deep:
            networks.check_backbone(path, networks.load(path).backbone)
            continue
        with pytest.raises(ValueError, match=f"set config.model.deep_stem to {deep}, or name another file"):
            networks.check_backbone(path, networks.load(path).backbone)


def test_a_run_says_once_where_weights_were_found_and_that_their_images_are_a_guess_unless_named(tmp_path, capsys):
    path = save_torch({"model": {f"encoder.{k}": v for k, v in backbone().items()}}, tmp_path / "a.pth")
    config = config_of(**{"model.imagenet_weights": str(path), "model.depths": (1, 1, 1, 1), "model.width": 8})
    for images, said in (("", "this is a guess.*config.model.weights_input"), ("imagenet", "1. - 0.485, 0.456")):
        config.model.weights_input = images
        networks = Networks(config, Workdir(tmp_path), devices.make_mesh(1), range(11))
        for _ in range(2):
            read = networks.load(path, images or None)
        assert read.guessed == (not images)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and re.search(f"a.pth: .*'model'.*'encoder.'.*{said}", lines[0])
        assert ("guess" in lines[0]) == (not images)


def test_a_whole_network_takes_the_named_convention_where_its_file_does_not_say(tmp_path):
    config = config_of(**{"model.head": "deeplab", "model.depths": (1, 1, 1, 1), "model.width": 8,
                          "model.dilations": (6, 12, 18, 24)})  # fmt: skip
    path = save_torch(fixtures.network(head="deeplab", classes=11).state_dict(), tmp_path / "a.pth")
    networks = Networks(config, Workdir(tmp_path), devices.make_mesh(1), range(11))
    fed = networks.in_file(str(path))[1]["batch_stats"]["input"]["std"]
    np.testing.assert_allclose(fed, 1 / 255)  # a guess: BGR minus mean, as plain DeepLabv2 networks want it
    config.model.weights_input = "imagenet"
    fed = networks.in_file(str(path))[1]["batch_stats"]["input"]["std"]
    np.testing.assert_allclose(fed, [0.229, 0.224, 0.225], rtol=1e-6)
    own = tmp_path / "own.npz"  # which says itself
    weights.save(weights.load(path, images="rgb01"), own)
    np.testing.assert_array_equal(networks.in_file(str(own))[1]["batch_stats"]["input"]["std"], 1)


def test_half_precision_of_either_kind_arrives_in_safetensors(tmp_path):
    for kind in (torch.bfloat16, torch.float16):
        state = {name: value.to(kind) if value.is_floating_point() else value for name, value in backbone().items()}
        safetensors.torch.save_file(state, tmp_path / "a.safetensors")
        assert_taken(weights.load(tmp_path / "a.safetensors"), {name: value.float() for name, value in state.items()})
    state["conv1.weight"] = torch.zeros(8, 3, 7, 7, dtype=torch.float8_e4m3fn)
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="a.safetensors: .*an array of type F8_E4M3, expected one of"):
        weights.load(tmp_path / "a.safetensors")


def test_quantised_weights_are_refused(tmp_path):
    state = {name: (value * 10).to(torch.int8) if value.is_floating_point() else value
             for name, value in backbone().items()}  # fmt: skip
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.safetensors", save_torch(state, tmp_path / "a.pth")):
        with pytest.raises(ValueError, match=f"{path.name}: .* holds numbers of type int8, .*expected floating point"):
            weights.load(path)


@pytest.mark.parametrize(("images", "mean", "std"), [
    ("rgb01", (0, 0, 0), (1, 1, 1)), ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("0.5,0.4,0.3/0.2,0.25,0.3", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), (None, (0, 0, 0), (1, 1, 1)),
])  # fmt: skip
def test_an_input_convention_has_a_name_or_numbers_and_a_guess_is_said_to_be_one(images, mean, std, tmp_path):
    read, account = weights.read(save_torch(backbone(), tmp_path / "a.pth"), images=images)
    np.testing.assert_allclose(read.arrays["input.mean"], mean)
    np.testing.assert_allclose(read.arrays["input.std"], std)
    assert ("this is a guess" in account.notes[-1]) == (images is None)


@pytest.mark.parametrize("images", ["rgb", "1,2,3", "0,0,0/1,1,0", "0,0/1,1"])
def test_what_is_no_convention_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match="input convention.*expected one of rgb01.*such as 0.5,0.5,0.5/0.25"):
        weights.load(save_torch(backbone(), tmp_path / "a.pth"), images=images)
