"""APODA: attacks on features against PyTorch, with what the last layer learns of them."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import own_logits
import torch
from tiny import tiny_config
from torch.nn import functional as F

from proda_jax.adaptation import perturbation
from proda_jax.adaptation.stages import warmup
from proda_jax.configs import apoda
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.heads import Output

CLASSES, CHANNELS, GRID, SIZE = 5, 6, (4, 6), (16, 24)


def test_features_move_uphill_and_each_position_alike():
    rng = np.random.default_rng(0)
    features, slope = (rng.normal(size=(2, *GRID, CHANNELS)).astype(np.float32) for _ in range(2))
    slope[0, 0, 0] = 0.0  # what nothing is asked of stays
    slope[0, 1] *= 1e-7  # rounding
    slope[1] *= 1e-6
    attacked = jax.jit(perturbation.perturb, static_argnums=(1, 2), static_argnames="steps")
    found = attacked(features, (lambda f: jnp.sum(slope * f),), 0.3, steps=3)
    rms = np.sqrt(np.mean(features**2, axis=-1, keepdims=True))
    expected = features + 0.3 * rms * np.sign(slope)
    expected[0, 1] = features[0, 1]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    curved = attacked(features, (lambda f: -jnp.sum(f**2),), 3.0, steps=6)  # turns round at the summit
    assert np.all(np.abs(curved) <= np.maximum(np.abs(features) % (0.5 * rms), 0.5 * rms) + 1e-5)
    assert not np.any(jax.jit(jax.grad(lambda f: jnp.sum(perturbation.perturb(f, [jnp.sum], 0.1))))(features))


def test_what_the_last_layer_learns_is_that_of_pytorch():
    rng, stage, views = np.random.default_rng(1), apoda.apoda("random", 1), tiny_config().views
    stage.perturbation, stage.perturbation_steps, stage.perturbation_weight = 0.3, 2, 0.7
    views.crop_size = SIZE
    labels = rng.integers(0, CLASSES, (2, *SIZE))
    labels[rng.random(labels.shape) < 0.2] = IGNORE
    features = {name: rng.normal(size=(2, *GRID, CHANNELS)).astype(np.float32) for name in ("source", "target")}
    kernel, bias = rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32), rng.normal(size=CLASSES).astype(np.float32)
    critic = Discriminator((4,), kernel=1, stride=1, leaky=True)
    critics = jax.eval_shape(critic.init, jax.random.key(0), features["source"])["params"]
    critics = jax.tree.map(lambda leaf: 0.4 * rng.standard_normal(leaf.shape, np.float32), critics)
    params = {"head": {"classifier": {"kernel": kernel[None, None], "bias": bias}}, "backbone": jnp.ones(3)}
    outputs = [Output(f, f @ kernel + bias, (f @ kernel + bias,)) for f in features.values()]

    network = types.SimpleNamespace(head="daformer", classes=CLASSES, dtype=jnp.float32)
    setup = own_logits.setup_of(stage, views, CLASSES, discriminator=critic)
    setup = dataclasses.replace(setup, model=network)
    counts = jnp.int32(np.sum(labels != IGNORE)), jnp.int32(labels.size)
    objective = warmup.Objective(setup, SIZE, jnp.int32(0), *counts)
    withstand = jax.jit(jax.grad(objective.perturbed_loss, has_aux=True))
    gradient, metrics = jax.device_get(withstand(params, critics, *outputs, labels))

    # the same in PyTorch
    w, b = torch.tensor(kernel.T[:, :, None, None], requires_grad=True), torch.tensor(bias, requires_grad=True)
    layers = [(torch.tensor(np.transpose(critics[name]["kernel"], (3, 2, 0, 1)).copy()),
               torch.tensor(np.asarray(critics[name]["bias"]))) for name in ("conv1", "classifier")]  # fmt: skip

    def score(f):
        return F.conv2d(f, w, b)

    def upsampled(f):
        return F.interpolate(score(f), SIZE, mode="bilinear", align_corners=True)

    def fit(f):
        return F.cross_entropy(upsampled(f), torch.tensor(labels), ignore_index=IGNORE)

    def doubt(f):
        p = torch.softmax(upsampled(f), 1)
        return -(p * torch.log(p)).sum(1).mean() / np.log(CLASSES)

    def taken_for_the_other(domain):
        def loss(f):
            scores = F.conv2d(F.leaky_relu(F.conv2d(f, *layers[0]), 0.2), *layers[1])
            return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, domain))
        return loss

    def attack(f, *objectives):
        stride = 0.3 / 2 * f.square().mean(1, keepdim=True).sqrt()
        for _ in range(2):
            f = f.detach().requires_grad_()
            slopes = [torch.autograd.grad(objective(f), f)[0].sign() for objective in objectives]
            f = f + stride * sum(slopes)
        return f.detach()

    source, target = (torch.tensor(f.transpose(0, 3, 1, 2)) for f in features.values())
    ce = fit(attack(source, fit, taken_for_the_other(0.0)))
    before = torch.softmax(score(target), 1).detach()
    after = torch.log_softmax(score(attack(target, doubt, taken_for_the_other(1.0))), 1)
    kl = (before * (before.log() - after)).sum(1).mean()
    expected = torch.autograd.grad(0.7 * (ce + kl), [w, b])

    np.testing.assert_allclose(metrics["perturbed_ce"], ce.item(), rtol=1e-5)
    np.testing.assert_allclose(metrics["perturbed_kl"], kl.item(), rtol=1e-4)
    found = gradient["head"]["classifier"]
    np.testing.assert_allclose(found["kernel"][0, 0], expected[0][:, :, 0, 0].numpy().T, atol=1e-5)
    np.testing.assert_allclose(found["bias"], expected[1].numpy(), atol=1e-5)
    assert not np.any(gradient["backbone"])
    clean = F.cross_entropy(upsampled(source), torch.tensor(labels), ignore_index=IGNORE)
    assert metrics["perturbed_ce"] > clean.item() + 0.1 and metrics["perturbed_kl"] > 0.01  # it is an attack
