"""PatchAlign: modes of patches against NumPy, and the step's whole objective and gradients against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import own_logits
import pytest
import torch
from own_logits import SOURCE, TARGET
from tiny import tiny_config
from torch.nn import functional as F

from proda_jax.adaptation import adversary, patch_modes
from proda_jax.adaptation.stages import warmup
from proda_jax.adaptation.state import DiscriminatorState
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.models.discriminator import Discriminator
from proda_jax.models.heads import Output

CLASSES, SIZE, PATCH, MODES = 5, (16, 24), (8, 12), 3


def labels_of(batch: int, size: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (batch, *size)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = IGNORE
    labels[0, : PATCH[0], : PATCH[1]] = IGNORE  # a patch without any label
    return labels


def histograms_of(labels: np.ndarray) -> np.ndarray:
    """Each quarter of each patch counted by itself."""
    rows, columns, half = labels.shape[1] // PATCH[0], labels.shape[2] // PATCH[1], (PATCH[0] // 2, PATCH[1] // 2)
    found = np.zeros((len(labels), rows, columns, 4 * CLASSES))
    for b, row, column in np.ndindex(found.shape[:3]):
        patch = labels[b, row * PATCH[0] : (row + 1) * PATCH[0], column * PATCH[1] : (column + 1) * PATCH[1]]
        for q, (i, j) in enumerate(np.ndindex(2, 2)):
            quarter = patch[i * half[0] : (i + 1) * half[0], j * half[1] : (j + 1) * half[1]]
            for k in range(CLASSES):
                found[b, row, column, q * CLASSES + k] = np.mean(quarter == k)
    return found


def modes_of(labels: np.ndarray, modes: np.ndarray) -> np.ndarray:
    found = histograms_of(labels)
    nearest = np.argmin(((found[..., None, :] - modes) ** 2).sum(-1), -1)
    return np.where(found.sum(-1) > 0, nearest, IGNORE)


def test_histograms_and_the_nearest_mode():
    labels = labels_of(2, (19, 24), 0)  # the last rows are no whole patch
    found, there = jax.device_get(jax.jit(patch_modes.histograms, static_argnums=(1, 2))(labels, CLASSES, PATCH))
    np.testing.assert_allclose(found, histograms_of(labels), atol=1e-6)
    assert there.shape == (2, 2, 2) and not there[0, 0, 0] and np.sum(there) == 7
    modes = np.random.default_rng(1).random((MODES, 4 * CLASSES)).astype(np.float32) / CLASSES
    np.testing.assert_array_equal(jax.jit(patch_modes.nearest)(found, there, modes), modes_of(labels, modes))
    whole = [patch_modes.patches_of(iter(labels), CLASSES, PATCH, most, 0) for most in (100, 4)]
    assert [len(vectors) for vectors in whole] == [7, 4]
    assert {tuple(vector) for vector in whole[1]} <= {tuple(vector) for vector in whole[0]}


def test_clusters_are_found_and_too_few_are_refused():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 8)) * 10
    vectors = np.concatenate([truth[[k]] + rng.normal(size=(20 + k, 8)) for k in range(6)])
    found = patch_modes.clusters(vectors, 6, 3)
    owner = np.argmin(((vectors[:, None] - found) ** 2).sum(-1), -1)
    means = np.stack([vectors[owner == k].mean(0) for k in range(6)])
    np.testing.assert_allclose(found, means, atol=1e-5)
    assert all(np.linalg.norm(found - centre, axis=-1).min() < 2 for centre in truth)
    with pytest.raises(ValueError, match="3 modes were asked for, and the source has patches of 2 sorts"):
        patch_modes.clusters(np.repeat(np.eye(2), 5, axis=0), 3, 0)


def test_objective_and_gradients_are_those_of_pytorch():
    rng, stage, views = np.random.default_rng(2), base.warmup("random", 1), tiny_config().views
    stage.gan, stage.adversarial_weight, stage.discriminator_weight = "vanilla", 0.0, 0.5  # of patches alone
    stage.patch_modes, stage.patch_size, stage.patch_channels = MODES, PATCH, 7
    stage.patch_weight, stage.patch_adversarial_weight = 0.3, 0.7
    views.crop_size = SIZE
    labels, modes = labels_of(2, SIZE, 3), rng.random((MODES, 4 * CLASSES)).astype(np.float32) / CLASSES
    z = {name: 2 * rng.normal(size=(2, *SIZE, CLASSES)).astype(np.float32) for name in ("source", "target")}
    discriminator = Discriminator((4,))
    shape = Output(None, np.zeros((1, *SIZE, CLASSES)), (np.zeros((1, *SIZE, CLASSES)),))
    shapes = jax.eval_shape(lambda: adversary.initialise(discriminator, jax.random.key(0), stage, shape, SIZE))
    weights = jax.tree.map(lambda w: np.float32(rng.normal(size=w.shape) / np.prod(w.shape[:-1]) ** 0.5), shapes)
    setup = own_logits.setup_of(
        stage, views, CLASSES, discriminator=discriminator, discriminator_optimizer=own_logits.KEEPS_GRADIENT
    )
    inputs = warmup.Inputs(own_logits.image(SOURCE, 2, SIZE), jnp.asarray(labels), own_logits.image(TARGET, 2, SIZE))
    of_critics = {}

    def step(state):
        new, metrics = jax.jit(lambda s: warmup.update(s, inputs, setup=setup, modes=modes))(state)
        of_critics.update(new.discriminator.opt_state.trace["patches"])
        return new, metrics

    critic = DiscriminatorState(weights, jax.jit(setup.discriminator_optimizer.init)(weights))
    params = {name: {"logits": value} for name, value in z.items()}
    gradient, metrics = own_logits.gradient_of(step, setup, params, discriminator=critic)

    # the same in PyTorch
    logits = {name: leaf(value.transpose(0, 3, 1, 2)) for name, value in z.items()}
    layers = {
        name: {layer: (leaf(np.transpose(w["kernel"], (3, 2, 0, 1))), leaf(w["bias"])) for layer, w in own.items()}
        for name, own in weights["patches"].items()
    }

    def sorts(z):
        x = F.avg_pool2d(torch.softmax(z, 1), (PATCH[0] // 2, PATCH[1] // 2))
        x = F.leaky_relu(F.conv2d(x, *layers["modes"]["conv1"], stride=2), 0.2)
        return F.conv2d(x, *layers["modes"]["classifier"])

    def judged(shown, domain):
        for layer in ("conv1", "conv2"):
            shown = F.leaky_relu(F.conv2d(shown, *layers["critic"][layer]), 0.2)
        scores = F.conv2d(shown, *layers["critic"]["classifier"])
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, domain))

    truth = torch.tensor(modes_of(labels, modes)).long()
    fit = F.cross_entropy(sorts(logits["source"]), truth, ignore_index=IGNORE)
    fooled = judged(torch.softmax(sorts(logits["target"]), 1), SOURCE)
    plain = F.cross_entropy(logits["source"], torch.tensor(labels).long(), ignore_index=IGNORE)
    network = plain + 0.3 * fit + 0.7 * fooled
    shown = [torch.softmax(sorts(z), 1).detach() for z in logits.values()]
    critics = 0.5 * (judged(shown[0], SOURCE) + judged(shown[1], TARGET))
    names = [(layer, i) for layer in ("conv1", "classifier") for i in (0, 1)]
    wanted = torch.autograd.grad(
        network, [*logits.values(), *(layers["modes"][layer][i] for layer, i in names)], retain_graph=True
    )
    names_of_critic = [(layer, i) for layer in ("conv1", "conv2", "classifier") for i in (0, 1)]
    wanted_of_critic = torch.autograd.grad(critics, [layers["critic"][layer][i] for layer, i in names_of_critic])

    np.testing.assert_allclose(metrics["source_ce"], plain.item(), rtol=1e-5)
    np.testing.assert_allclose(metrics["patch_ce"], fit.item(), rtol=1e-5)
    np.testing.assert_allclose(metrics["patch_adversarial"], 0.7 * fooled.item(), rtol=1e-5)
    for name, expected in zip(z, wanted, strict=False):
        close(gradient[name]["logits"], expected.numpy().transpose(0, 2, 3, 1))
    for of, chosen, values in (("modes", names, wanted[2:]), ("critic", names_of_critic, wanted_of_critic)):
        for (layer, i), expected in zip(chosen, values, strict=True):
            found = of_critics[of][layer]["bias" if i else "kernel"]
            close(found, expected.numpy() if i else expected.numpy().transpose(2, 3, 1, 0))


def leaf(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64).requires_grad_()


def close(found, expected):
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4 * np.abs(expected).max()
