"""Selection and objectives of BDL agree with the released code; objectives go through the warm-up's own step."""

import jax
import jax.numpy as jnp
import numpy as np
import own_logits
import pytest
from comparators import B, K, agree, golden, nhwc, same, thinned
from own_logits import SOURCE, TARGET
from tiny import tiny_config

from proda_jax.adaptation import class_thresholds as ct
from proda_jax.adaptation import losses
from proda_jax.adaptation.stages import warmup
from proda_jax.adaptation.state import DiscriminatorState
from proda_jax.configs import base
from proda_jax.models.convolution import convolve
from proda_jax.models.resizing import resize_align_corners

CHANNELS = (K, 64, 128, 256, 512, 1)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "classifier")


class Discriminator:
    """Five 4x4 convolutions with stride 2 and zero padding 1; leaky ReLU 0.2 between them."""

    def apply(self, variables, x):
        for layer in LAYERS:
            kernel = jnp.transpose(variables["params"][f"{layer}.weight"], (2, 3, 1, 0))
            x = convolve(x, kernel, stride=2, dilation=1) + variables["params"][f"{layer}.bias"]
            x = x if layer == LAYERS[-1] else jnp.where(x > 0, x, 0.2 * x)
        return x


def discriminator_weights(g) -> dict[str, np.ndarray]:
    weights = {}
    for layer, inputs, outputs in zip(LAYERS, CHANNELS, CHANNELS[1:], strict=False):
        weights[f"{layer}.weight"] = g.weight(f"D.bdl0.{layer}.weight", (outputs, inputs, 4, 4))
        weights[f"{layer}.bias"] = g.weight(f"D.bdl0.{layer}.bias", (outputs,))
    return weights


def selected(g) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """Probabilities [B, H, W, K], thresholds and labels."""
    h, w = g.grid
    classes = g.integers("bdl_coarse", (2, (h + 2) // 3, (w + 2) // 3), 0, K).repeat(3, 1).repeat(3, 2)[:, :h, :w]
    more = np.where(classes % 2, 4, 10)[..., None] * np.eye(K)[classes]
    logits = 1.5 * nhwc(g.normal("bdl_logits", (2, K, h, w))) + more
    p = np.asarray(jax.jit(lambda z: resize_align_corners(jax.nn.softmax(z), g.size))(np.float32(logits)))
    thresholds = ct.all_but_portion(ct.by_class(p.max(-1), p.argmax(-1), K), 0.5, 0.9)
    return p, thresholds, jax.jit(ct.confident_labels)(p, thresholds)


def test_selection_of_bdl():
    g = golden("bdl")
    p, thresholds, labels = selected(g)
    agree(p.max(-1), g["prob_max"])
    same(p.argmax(-1), g["argmax"])
    agree(thresholds, g["thresholds"])
    same(labels, g["labels"])


@pytest.mark.parametrize("tag", ["adv", "ssl"])
def test_step_of_bdl(tag):
    g, size = golden("bdl"), (2 * golden("bdl").h, 2 * golden("bdl").w)
    stage = base.warmup("random", 1)
    stage.gan, stage.adversarial_weight, stage.label_weight = "vanilla", 0.001, 1.0 if tag == "ssl" else 0.0
    views = tiny_config().views
    views.crop_size = size
    labels = jnp.asarray(g.labels("labels_large", size))
    inputs = warmup.Inputs(
        own_logits.image(SOURCE, B, size), labels, own_logits.image(TARGET, B, size),
        labels[::-1] if tag == "ssl" else None,
    )  # fmt: skip
    setup = own_logits.setup_of(
        stage, views, K, discriminator=Discriminator(), discriminator_optimizer=own_logits.KEEPS_GRADIENT
    )
    params = {"source": {"logits": g.logits("src_main")}, "target": {"logits": g.logits("trg_main")}}
    weights = discriminator_weights(g)
    critics_gradient = {}

    def step(state):
        new, metrics = jax.jit(lambda state: warmup.update(state, inputs, setup=setup))(state)
        critics_gradient.update(jax.device_get(new.discriminator.opt_state.trace))
        return new, metrics

    critic = DiscriminatorState(weights, jax.jit(setup.discriminator_optimizer.init)(weights))
    gradient, metrics = own_logits.gradient_of(step, setup, params, discriminator=critic)
    agree(metrics["source_ce"], g[f"{tag}_loss_seg_src"])
    agree(metrics.get("target_fit", 0.0), g[f"{tag}_loss_seg_trg"])
    agree(metrics["adversarial"], 0.001 * g[f"{tag}_loss_D_trg_fake"])
    agree(thinned(gradient["target"]["logits"]), g[f"{tag}_trg_main_grad"])
    # the code halves the discriminator's losses, of which Adam's steps know nothing
    halves = {"src_real": ("source", SOURCE), "trg_real": ("target", TARGET)}

    @jax.jit
    def judged(logits, weights, asked):
        p = jax.nn.softmax(resize_align_corners(logits, size))
        return losses.gan_loss(Discriminator().apply({"params": weights}, p), asked, "vanilla") / 2

    for name, (domain, asked) in halves.items():
        agree(judged(params[domain]["logits"], weights, asked), g[f"{tag}_loss_D_{name}"])
    agree(metrics["discriminator"] / 2, sum(g[f"{tag}_loss_D_{name}"] for name in halves))
    for name in ("conv1.weight", "conv4.bias", "classifier.weight", "classifier.bias") if tag == "adv" else ():
        agree(critics_gradient[name].ravel()[:256] / 2, g[f"adv_D.{name}_grad"])


test_step_of_bdl.cases = [("adv",), ("ssl",)]


def test_semantic_loss_of_bdl():
    g, difference = golden("bdl"), jax.jit(jax.value_and_grad(losses.semantic_difference))
    value, gradient = difference(g.logits("src_main"), g.logits("trg_main"))
    agree(value, g["semantic_loss"])
    agree(thinned(gradient), g["semantic_grad"])
