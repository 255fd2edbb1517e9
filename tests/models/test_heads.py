"""Decoders against their description, written down in PyTorch under the names of the authors' code."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from contracts import network
from tiny import tiny_variables
from torch import nn

from proda_jax.models import interpolation
from proda_jax.models.weights.torch_names import to_torch

IMAGES = np.random.default_rng(0).random((2, 40, 72, 3), np.float32)


class Norm2d(nn.LayerNorm):
    """Layer normalisation of channels [batch, channels, height, width]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def described_daformer(state: dict, maps: list[torch.Tensor], dilations: tuple[int, ...]) -> tuple:
    """Feature and class scores, layer by layer."""
    arrays = {name: torch.tensor(value) for name, value in state.items()}

    def conv(name, x, **kwargs):
        return nn.functional.conv2d(x, arrays[f"{name}.conv.weight"], **kwargs)

    def bn_relu(name, x):
        leaves = (arrays[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, *leaves).relu()

    embedded = []
    for i, x in enumerate(maps):
        name = f"decode_head.embed_layers.{i}.proj"
        x = nn.functional.linear(x.permute(0, 2, 3, 1), arrays[f"{name}.weight"], arrays[f"{name}.bias"])
        x = x.permute(0, 3, 1, 2)
        embedded.append(nn.functional.interpolate(x, maps[0].shape[2:], mode="bilinear", align_corners=False))
    fused, name = torch.cat(embedded, 1), "decode_head.fuse_layer"
    branches = [bn_relu(f"{name}.aspp_modules.0", conv(f"{name}.aspp_modules.0", fused))]
    for i, dilation in enumerate(dilations, start=1):
        depthwise, pointwise = (f"{name}.aspp_modules.{i}.{kind}_conv" for kind in ("depthwise", "pointwise"))
        x = conv(depthwise, fused, padding=dilation, dilation=dilation, groups=fused.shape[1])
        branches.append(bn_relu(pointwise, conv(pointwise, bn_relu(depthwise, x))))
    x = bn_relu(f"{name}.bottleneck", conv(f"{name}.bottleneck", torch.cat(branches, 1), padding=1))
    scores = nn.functional.conv2d(x, *(arrays[f"decode_head.conv_seg.{leaf}"] for leaf in ("weight", "bias")))
    return x, scores


def described_light(state: dict, x: torch.Tensor, classes: int) -> tuple:
    channels = x.shape[1]
    half, quarter = channels // 2, channels // 4
    layers = nn.ModuleDict({
        "upscale": nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, stride=2, bias=False), Norm2d(half, 1e-6), nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2, bias=False), Norm2d(quarter, 1e-6),
            nn.Conv2d(quarter, quarter, 3, padding=1, bias=False), Norm2d(quarter, 1e-6),
        ),
        "out": nn.Conv2d(quarter, classes, 1, bias=False),
    })  # fmt: skip
    own = {name: torch.tensor(value) for name, value in state.items() if name.startswith(("upscale.", "out."))}
    layers.load_state_dict(own, strict=True)
    x = layers["upscale"](x)
    return x, layers["out"](x)


@pytest.mark.parametrize("head", ["daformer", "light"])
def test_decoders_are_as_they_are_described(head):
    model = network("resnet101", head)
    model = model.clone(dilations=(1, 3))
    variables = tiny_variables(model, 0)

    @jax.jit
    def both(images):
        def kept(method, arguments, keywords, context):
            result = method(*arguments, **keywords)
            if (context.module.name, context.method_name) == ("backbone", "__call__"):
                maps.extend(result if isinstance(result, tuple) else (result,))
            return result

        maps: list = []
        with flax.linen.intercept_methods(kept):
            output = model.apply(variables, images, train=False)
        return maps, output

    maps, output = both(IMAGES)
    given = [torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) for x in maps]
    state = to_torch(variables)
    found = described_daformer(state, given, (1, 3)) if head == "daformer" else described_light(state, given[-1], 11)
    for actual, wanted in zip((output.features, output.logits), found, strict=True):
        np.testing.assert_allclose(actual, wanted.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [((5, 9), (20, 17)), ((12, 7), (5, 7)), ((37, 37), (16, 23))])
def test_interpolation_is_pytorchs(before, after):
    x = np.random.default_rng(0).standard_normal((2, *before, 3)).astype(np.float32)
    given = torch.tensor(x).permute(0, 3, 1, 2)
    for weights, options in (
        (interpolation.linear_weights, {"mode": "bilinear"}),
        (interpolation.cubic_weights, {"mode": "bicubic"}),
        (interpolation.antialiased_cubic_weights, {"mode": "bicubic", "antialias": True}),
    ):
        wanted = nn.functional.interpolate(given, after, align_corners=False, **options).permute(0, 2, 3, 1)
        np.testing.assert_allclose(interpolation.resize(jnp.asarray(x), after, weights), wanted, atol=2e-5)
