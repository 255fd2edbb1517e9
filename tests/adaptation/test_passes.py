"""Passes that are turns of a loop give what they give one by one."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from proda_jax.adaptation.stages import passes
from proda_jax.adaptation.stages.setup import Setup
from proda_jax.configs import base
from proda_jax.models.heads import Output


class Network(nn.Module):
    """What passes know of a network, in two convolutions, which compile quickly: statistics, and dropout by image."""

    @nn.compact
    def __call__(self, images, *, train: bool, dropout_keys):
        x = nn.Conv(6, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, (6,)))(dropout_keys)
        features = x * kept[:, None, None]
        return Output(features=features, logits=nn.Conv(5, (3, 3))(features))


def images(seed: int, size: tuple[int, int] = (8, 12)) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(2, *size, 3)), jnp.float32)


def bright(output) -> tuple[jax.Array, dict]:
    value = jnp.mean(output.logits**2)
    return value, {"bright": value, "logits": output.logits}


def near(output) -> tuple[jax.Array, dict]:
    value = jnp.sin(output.features).sum()
    return 0.1 * value, {"near": value}


def three() -> list[passes.Pass]:
    """A pass of the source, one of the target, and one of hidden target images."""
    keys = jax.random.split(jax.random.key(0), 2)
    given = ((bright, "source"), (near, "target"), (bright, "masked"))
    return [passes.Pass(images(i), keys, loss, domain) for i, (loss, domain) in enumerate(given)]


def gradients_of(taken: list[passes.Pass], scan_passes: bool, statistics: str):
    """Gradient, running statistics and what was reported; and how many convolutions the program has."""
    c, stage = base.get_config(), base.denoise("source", 1)
    stage.statistics, stage.batch_norm = statistics, "batch"
    setup = Setup(
        Network(), optax.identity(), *map(ml_collections.FrozenConfigDict, (stage, c.views)), scan_passes=scan_passes
    )
    variables = setup.model.init(jax.random.key(0), taken[0].images, train=False, dropout_keys=taken[0].keys)

    @jax.jit
    def compute(params, stats, arrays):
        given = [
            passes.Pass(image, keys, one.loss, one.domain) for one, (image, keys) in zip(taken, arrays, strict=True)
        ]
        return passes.gradients(setup, types.SimpleNamespace(params=params), stats, given)

    arguments = variables["params"], variables["batch_stats"], [(one.images, one.keys) for one in taken]
    program = compute.lower(*arguments)
    return compute(*arguments), program.as_text().count("stablehlo.convolution")


def test_a_loop_has_the_gradient_statistics_and_reports_of_passes_one_by_one():
    (looped, once), (in_turn, thrice) = (gradients_of(three(), scan, "target") for scan in (True, False))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(close, looped, in_turn)
    assert [set(of_one) for of_one in looped[2]] == [{"bright", "logits"}, {"near"}, {"bright", "logits"}]
    # forward and backward of two convolutions, once and thrice; `near` has no use for the second
    assert (once, thrice) == (5, 5 + 2 + 5)


def test_passes_of_other_sizes_are_not_turns_of_the_loop():
    taken = [*three()[:2], passes.Pass(images(3, (10, 10)), three()[0].keys, near)]
    (looped, _), (in_turn, _) = (gradients_of(taken, scan, "all") for scan in (True, False))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), looped, in_turn)
