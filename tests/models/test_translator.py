"""Networks that translate agree with the same layers of PyTorch's; whole images are translated in crops as in one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from proda_jax.models import translator
from proda_jax.models.translator import Generator, PatchDiscriminator, Translator, starts, tent

CHANNELS, BLOCKS = 3, 2


class Block(nn.Module):
    """x + two convolutions with mirrored margins."""

    def __init__(self, channels: int):
        super().__init__()
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        self.inner = nn.Sequential(*layers, nn.ReLU(), *again)

    def forward(self, x):
        return x + self.inner(x)


def torch_generator() -> nn.Sequential:
    c = CHANNELS
    first = [nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), nn.InstanceNorm2d(c), nn.ReLU()]
    down = [layer for i in (1, 2) for layer in (
        nn.Conv2d(c * i, 2 * c * i, 3, 2, 1), nn.InstanceNorm2d(2 * c * i), nn.ReLU())]  # fmt: skip
    up = [layer for i in (2, 1) for layer in (
        nn.ConvTranspose2d(2 * c * i, c * i, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(c * i), nn.ReLU())]
    last = [nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh()]
    return nn.Sequential(*first, *down, *(Block(4 * c) for _ in range(BLOCKS)), *up, *last)


def torch_discriminator() -> nn.Sequential:
    leaky = nn.LeakyReLU(0.2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), leaky, nn.Conv2d(4, 8, 4, 2, 1), nn.InstanceNorm2d(8), leaky,
        nn.Conv2d(8, 6, 4, 1, 1), nn.InstanceNorm2d(6), leaky, nn.Conv2d(6, 1, 4, 1, 1),
    )  # fmt: skip


def parameters(network: nn.Module, names: list[str], biased: tuple[str, ...]) -> dict:
    """The weights of a network, by our names in the order of its convolutions; biases before a normalisation, which
    takes them off again, are PyTorch's alone."""
    found = {}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for name, layer in zip(names, layers, strict=True):
        kernel = layer.weight.detach().numpy()
        if isinstance(layer, nn.ConvTranspose2d):  # [in, out, h, w], applied the other way round
            kernel = kernel.transpose(2, 3, 0, 1)[::-1, ::-1]
        else:
            kernel = kernel.transpose(2, 3, 1, 0)
        found[name] = {"kernel": kernel.copy()} | ({"bias": layer.bias.detach().numpy()} if name in biased else {})
    return found


GENERATOR = ["first", "halve1", "halve2", *(f"block{i}_conv{j}" for i in (1, 2) for j in (1, 2)), "double1", "double2",
             "last"]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        (Generator(CHANNELS, BLOCKS), torch_generator, GENERATOR),
        (PatchDiscriminator((4, 8, 6)), torch_discriminator, ["conv1", "conv2", "conv3", "classifier"]),
    ],
)
def test_forward_and_gradient_are_those_of_pytorch(ours, theirs, names):
    torch.manual_seed(0)
    network = theirs().double()
    image = np.random.default_rng(0).uniform(-1, 1, (2, 24, 36, 3))
    x = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
    expected = network(x)
    weight = np.random.default_rng(1).normal(size=tuple(expected.shape))
    (expected * torch.tensor(weight)).sum().backward()
    with jax.enable_x64(True):
        params = parameters(network, names, ("last", "conv1", "classifier"))
        ours = ours.clone(dtype=np.dtype("float64"))
        made = jax.eval_shape(ours.init, jax.random.key(0), image)["params"]
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, made)

        def loss(image):
            found = ours.apply({"params": params}, image)
            return jnp.sum(found * weight.transpose(0, 2, 3, 1)), found

        gradient, found = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(image))
    np.testing.assert_allclose(found, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(gradient, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6, atol=1e-8)


# Whole images


class Darker(Translator):
    """Halves what an image has above black: what is translated does not depend on where a crop begins."""

    def translate(self, params, which, images):
        assert which == translator.TO_TARGET and not any(side % translator.SMALLEST for side in images.shape[1:3])
        return (images + 1.0) * params["factor"] - 1.0


@pytest.mark.parametrize("window", [(), (16, 24), (40, 400)])
def test_crops_cover_an_image_of_any_size_and_blend_to_what_one_piece_gives(window):
    image = np.random.default_rng(0).integers(0, 256, (2, 37, 51, 3)).astype(np.uint8)
    translated = jax.jit(functools.partial(translator.translated, Darker(), window=window, overlap=0.25))
    made = translated({"factor": 0.5}, image)
    assert made.shape == image.shape and made.dtype == np.uint8
    assert np.abs(np.asarray(made, float) - image / 2).max() <= 0.51


@pytest.mark.parametrize(("length", "side", "overlap"), [(100, 40, 0.25), (41, 40, 0.0), (40, 40, 0.5), (97, 16, 0.9)])
def test_where_crops_begin(length, side, overlap):
    found = np.array(starts(length, side, overlap))
    assert found[0] == 0 and found[-1] == length - side
    assert np.all(np.diff(found) > 0) and np.all(np.diff(found) <= np.ceil(side * (1 - overlap)))
    assert np.all(np.asarray(jax.jit(tent, static_argnums=0)(side)) > 0)
