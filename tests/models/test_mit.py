"""Mix Transformers: sizes, stochastic depth, what optimizers and settings ask of them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import network
from tiny import tiny_config, tiny_variables

from proda_jax.models.backbones import BACKBONES, backbone
from proda_jax.models.drop_path import branch_factors
from proda_jax.models.patches import PatchConv
from proda_jax.run import settings


def test_levels_have_the_strides_and_channels_of_the_paper():
    for name, channels in (("mit_b0", (32, 64, 160, 256)), ("mit_b5", (64, 128, 320, 512))):  # Table 6
        found = [(level.stride, level.channels) for level in BACKBONES[name].levels]
        assert found == [*zip((4, 8, 16, 32), channels, strict=True)]
    assert BACKBONES["mit_b5"].level_sizes((513, 896)) == ((129, 224), (65, 112), (33, 56), (17, 28))
    assert BACKBONES["mit_b5"].output_size((513, 896)) == (65, 112)


def test_branches_are_left_out_as_often_as_their_block_says_and_by_the_example_alone():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(functools.partial(branch_factors, rate=0.4, blocks=3))
    factors = np.asarray(drawn(keys))
    assert factors.shape == (4000, 3, 2) and (factors[:, 0] == 1).all()  # the first block stays
    np.testing.assert_allclose((factors == 0).mean(0), [[0, 0], [0.2, 0.2], [0.4, 0.4]], atol=0.03)
    np.testing.assert_allclose(factors.mean(0), 1, atol=0.05)  # what is left makes up for it
    np.testing.assert_array_equal(drawn(keys[7:9]), factors[7:9])
    assert branch_factors(None, 0.4, 3) is None and branch_factors(keys, 0.0, 3) is None


def test_a_network_draws_in_training_alone_and_not_where_its_backbone_is_frozen():
    model = network("mit_b5", "deeplab").clone(backbone=backbone("mit_b5", (1, 1), 8, drop_path=0.5))
    variables, image = tiny_variables(model, 0), np.random.default_rng(0).random((1, 32, 64, 3), np.float32)
    images, keys = jnp.concatenate([image] * 8), jax.random.split(jax.random.key(1), 8)

    def logits(images, keys, model=model):
        return model.apply(variables, images, train=False, dropout_keys=keys).logits

    drawn = jax.jit(logits)(images, keys)
    assert len({row.tobytes() for row in np.asarray(drawn)}) in (3, 4)  # of two branches, all, one or none
    for other, draws in ((model, True), (model.clone(freeze_backbone=True), False)):
        traced = jax.make_jaxpr(lambda *given, other=other: logits(*given, model=other))(images, keys)
        assert ("random_bits" in str(traced)) == draws
    assert "random_bits" not in str(jax.make_jaxpr(lambda images: logits(images, None))(images))


def test_maps_smaller_than_a_patch_are_as_if_nothing_but_zeros_were_behind_them():
    """Keys of a small image's attention: none at all would be attention to nothing."""
    conv = PatchConv(5, side=4)
    x = np.random.default_rng(0).random((1, 3, 9, 2), np.float32)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    padded = np.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)]).astype(np.float64)
    expected = [np.tensordot(padded[0, :4, left : left + 4], kernel, 3) for left in (0, 4)]
    np.testing.assert_allclose(conv.apply(variables, x)[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mit_b5", "dinov2_vitl14_reg", "dinov3_vitl16"])
def test_blocks_are_computed_again_where_a_setting_says_so(name):
    images, keys = np.zeros((2, 32, 64, 3), np.float32), jax.random.split(jax.random.key(0))

    def loss(variables, model):
        return model.apply(variables, images, train=False, dropout_keys=keys).logits.sum()

    for recompute in (False, True):
        model = network(name, "deeplab").clone(recompute=recompute)
        text = str(jax.make_jaxpr(jax.grad(functools.partial(loss, model=model)))(tiny_variables(model, 0)))
        assert len(re.findall(r"\b(?:checkpoint|remat2?)\[", text)) == recompute * sum(model.backbone.depths)


def test_layers_count_the_blocks_below():
    row = backbone("mit_b0", (2, 1, 3, 1))
    for path, layer in {"patch_embed1": 0, "block1_0": 1, "block1_1": 2, "norm1": 2, "patch_embed2": 2, "block2_0": 3,
                        "block3_2": 6, "norm4": 7}.items():  # fmt: skip
        assert row.layer((path, "kernel")) == layer, path
    assert row.layers == 8


def test_settings_that_a_backbone_does_not_have_are_refused():
    config = tiny_config()
    config.model.drop_path = 0.1
    with pytest.raises(ValueError, match="model.drop_path = 0.1: expected None, as backbone 'resnet101' has no such"):
        settings.check_model(config.model)
    config.model.backbone = "mit_b0"
    settings.check_model(config.model)
    config.model.drop_path = 1.0
    with pytest.raises(ValueError, match="model.drop_path = 1.0: expected a share below 1"):
        settings.check_model(config.model)
