"""The full ResNet-101 network and the discriminator agree with the authors' released implementation."""

import jax
import numpy as np
import pytest
from golden_inputs import load, normal, uniform
from golden_network import assert_close, golden_variables, network_variables, to_nchw, to_nhwc

from proda_jax.adaptation.losses import gan_loss
from proda_jax.models.backbones import backbone
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.weights.torch_names import to_torch

NETWORK = load("network")
NETWORK_TOLERANCE = 1e-3  # of an array's largest magnitude; the same network in float64 differs by up to 1.4e-4


def golden_image() -> np.ndarray:
    height, width = NETWORK["image_hw"]
    return to_nhwc(uniform("image", (2, 3, height, width)))


@pytest.mark.parametrize(
    ("classes", "extra_norm"), [(19, True), *(pytest.param(n, False, marks=pytest.mark.slow) for n in (16, 19))]
)
def test_evaluation_agrees_with_the_released_network(classes, extra_norm):
    model = SegmentationNetwork(classes, extra_norm=extra_norm)
    output = jax.jit(lambda v, x: model.apply(v, x, train=False))(network_variables(model), golden_image())
    key = f"k{classes}_clr{int(extra_norm)}_eval_"
    actual = {key + "feat": to_nchw(output.features), key + "out": to_nchw(output.logits)}
    assert_close(actual, {name: NETWORK[name] for name in actual}, NETWORK_TOLERANCE)


@pytest.mark.parametrize("extra_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_training_pass_and_its_running_statistics_agree_with_the_released_network(extra_norm):
    model = SegmentationNetwork(19, extra_norm=extra_norm)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    output, updates = apply(network_variables(model), golden_image())
    key = f"k19_clr{int(extra_norm)}_train_"
    actual = {key + "feat": to_nchw(output.features), key + "out": to_nchw(output.logits)}
    actual |= {key + name: value for name, value in to_torch(updates).items()}
    assert_close(actual, {name: value for name, value in NETWORK.items() if name.startswith(key)}, NETWORK_TOLERANCE)


def test_the_feature_grid_rounds_up_like_the_released_network():
    height, width = NETWORK["image_hw"]
    assert backbone("resnet101").output_size((int(height), int(width))) == NETWORK["k19_clr0_eval_feat"].shape[2:]
    assert backbone("resnet101").output_size((512, 896)) == (65, 113)
    assert backbone("resnet101").output_size((1024, 2048)) == (129, 257)


def test_the_discriminator_and_both_adversarial_losses_agree():
    functions, model = load("functions"), Discriminator()
    probabilities = jax.nn.softmax(2 * to_nhwc(normal("disc_in", (2, 19, 64, 96))), axis=-1)
    scores = model.apply(golden_variables(model, probabilities), probabilities)
    np.testing.assert_allclose(to_nchw(scores), functions["disc_out"], rtol=1e-4, atol=1e-5)
    for kind, key in (("ls", "disc_lsgan_src"), ("vanilla", "disc_vanilla_src")):
        np.testing.assert_allclose(gan_loss(scores, 0.0, kind), functions[key], rtol=1e-4, atol=1e-5)
