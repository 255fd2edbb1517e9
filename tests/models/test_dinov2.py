"""DINOv2's vision transformers: positions, images of any size, levels, what optimizers and settings ask of them."""

from functools import cache, partial

import jax
import numpy as np
import pytest
import torch
from tiny import tiny_config

from proda_jax.models.backbones import BACKBONES, backbone
from proda_jax.models.backbones.dinov2 import POSITION_RESIZES, Embeddings
from proda_jax.models.convolution import Conv
from proda_jax.models.interpolation import resize
from proda_jax.run import settings

SIDE, CHANNELS = 5, 8
THEIRS = {  # arguments of PyTorch's `interpolate` for a grid of these sizes
    "offset": lambda size: {"scale_factor": tuple((n + 0.1) / SIDE for n in size)},
    "plain": lambda size: {"size": size},
    "antialias": lambda size: {"size": size, "antialias": True},
}


@cache
def begun() -> dict:
    layer = Embeddings(SIDE, 2, "plain")
    return jax.device_get(jax.jit(layer.init)(jax.random.key(0), np.zeros((1, SIDE, SIDE, CHANNELS))))


@cache
def embedded(way: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Learnt positions of the grid, and what is added to patches on another."""
    places = np.random.default_rng(0).standard_normal((1, 1 + SIDE**2, CHANNELS)).astype(np.float32)
    variables = {"params": begun()["params"] | {"pos_embed": places}}
    apply = jax.jit(Embeddings(SIDE, 2, way).apply)
    tokens = np.asarray(apply(variables, np.zeros((1, *size, CHANNELS), np.float32)))
    assert tokens.shape == (1, 3 + size[0] * size[1], CHANNELS)
    np.testing.assert_allclose(tokens[:, 0], variables["params"]["cls_token"][:, 0] + places[:, 0])
    np.testing.assert_allclose(tokens[:, 1:3], variables["params"]["register_tokens"])
    return places[:, 1:].reshape(1, SIDE, SIDE, CHANNELS), tokens[:, 3:].reshape(1, *size, CHANNELS)


@pytest.mark.parametrize("size", [(5, 5), (4, 7), (9, 3)])
@pytest.mark.parametrize("way", POSITION_RESIZES)
def test_positions_are_resized_as_each_of_the_libraries_does(way, size):
    places, found = embedded(way, size)
    if size == (SIDE, SIDE):
        np.testing.assert_array_equal(found, places)
        return
    grid = torch.tensor(places).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, mode="bicubic", **THEIRS[way](size)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    others = [embedded(other, size)[1] for other in POSITION_RESIZES if other != way]
    assert all(np.abs(found - other).max() > 0.01 for other in others)


def test_positions_are_resized_as_the_authors_do_unless_a_setting_says_other():
    assert BACKBONES["dinov2_vits14"].position_resize == "offset"
    assert BACKBONES["dinov2_vits14_reg"].position_resize == "antialias"
    assert backbone("dinov2_vits14", position_resize="plain").position_resize == "plain"


def test_patches_cover_images_of_any_size():
    row = backbone("dinov2_vits14", (1,), 16)
    assert row.output_size((1024, 512)) == (74, 37) and row.output_size((42, 43)) == (3, 4)
    network = row.module(partial(Conv), None, recompute=False, name=None)
    image = np.random.default_rng(0).random((1, 43, 28, 3), np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), image, None)
    apply = jax.jit(network.apply)
    (found,), (wanted,) = apply(variables, image, None), apply(variables, resize(image, (56, 28)), None)
    assert found.shape == (1, 4, 2, 16)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_levels_are_the_last_blocks_of_each_quarter():
    assert BACKBONES["dinov2_vitb14"].taken == (2, 5, 8, 11)
    assert BACKBONES["dinov2_vitl14"].taken == (5, 11, 17, 23)
    assert backbone("dinov2_vits14", (2,)).taken == (0, 1)
    assert [(level.stride, level.channels) for level in BACKBONES["dinov2_vits14"].levels] == [(14, 384)] * 4


def test_layers_count_the_blocks_below():
    row = BACKBONES["dinov2_vits14"]
    paths = {"patch_embed": 0, "embeddings": 0, "block_0": 1, "block_11": 12, "norm": 12}
    assert {path: row.layer((path, "kernel")) for path in paths} == paths and row.layers == 13


@pytest.mark.parametrize(("setting", "value", "expected"), [
    ("depths", (3, 4), r"one number of blocks, at least 1, such as \(12,\)"), ("width", 100, "a multiple of 64"),
    ("position_resize", "bicubic", "one of offset, plain, antialias"), ("drop_path", -0.1, "a share below 1"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(setting, value, expected):
    config = tiny_config()
    config.model.backbone, config.model.depths, config.model.width = "dinov2_vits14", (), 0
    settings.check_model(config.model)
    config.model[setting] = value
    with pytest.raises(ValueError, match=rf"model.{setting} = .*: expected {expected}"):
        settings.check_model(config.model)
