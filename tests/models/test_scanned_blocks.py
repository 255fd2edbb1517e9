"""A residual network whose like blocks are a loop is the network whose blocks stand one after the other."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from proda_jax.configs import base
from proda_jax.models import backbones
from proda_jax.models.convolution import Conv
from proda_jax.models.normalisation import BatchNorm
from proda_jax.models.precision import at_least_float32
from proda_jax.run import settings

ROW = backbones.backbone("resnet101", (2, 4), 2)  # the first group is too short for a loop
SHARES = 2  # of a batch, over which statistics are as over devices
IMAGES = (SHARES, 2, 17, 25, 3)


def network(scan_blocks: bool, *, train: bool, recompute: bool = False, dtype=jnp.float64):
    norm = partial(BatchNorm, use_running_statistics=not train, axis_name="shares" if train else None, dtype=dtype)
    conv = partial(Conv, initialisation="he", dtype=dtype)
    return dataclasses.replace(ROW, scan_blocks=scan_blocks).module(conv, norm, recompute=recompute, name=None)


def variables() -> dict:
    """Of every layer others, statistics and scales, too, in float64."""
    module = network(False, train=False)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(IMAGES[1:], jnp.float64))
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: draw.normal(0.0, 0.5, leaf.shape) if leaf.ndim > 1 else draw.uniform(0.1, 0.9, leaf.shape), shapes
    )


@functools.cache
def outcome(scan_blocks: bool, *, train: bool, recompute: bool = False) -> dict:
    """Maps of all groups, gradients by parameters and images, and what statistics become, in float64."""
    with jax.enable_x64(True):
        images = np.random.default_rng(1).normal(size=IMAGES)
        step = of_batch(network(scan_blocks, train=train, recompute=recompute), train=train)
        return jax.jit(step)(variables(), images)


def of_batch(module, *, train: bool):
    """(variables, images) -> that."""

    def loss(params, statistics, images):
        apply = partial(module.apply, {"params": params, "batch_stats": statistics}, images)
        maps, changed = apply(mutable=["batch_stats"]) if train else (apply(), {})
        weighed = [jnp.vdot(jnp.cos(jnp.arange(x.size)), x.ravel().astype(at_least_float32(x.dtype))) for x in maps]
        return sum(weighed) / len(weighed), (maps, changed)

    def step(held, images):
        of_share = partial(jax.grad(loss, argnums=(0, 2), has_aux=True), held["params"], held["batch_stats"])
        gradient, (maps, changed) = jax.vmap(of_share, axis_name="shares")(images)
        return {"maps": maps, "gradient": gradient, "statistics": changed}

    return step


@pytest.mark.parametrize(("train", "recompute"), [(True, False), (True, True), (False, False)])
def test_a_loop_over_blocks_has_the_values_gradients_and_statistics_of_the_blocks(train, recompute):
    one, other = outcome(False, train=train), outcome(True, train=train, recompute=recompute)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, expected), actual in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        size = np.abs(expected).max()
        assert size > 0, path
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * size, err_msg=str(path))


def test_the_loop_is_one_block_in_the_program_and_keeps_each_of_its_maps_once():
    with jax.enable_x64(True):
        held = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), variables())
    images = jax.ShapeDtypeStruct(IMAGES, jnp.bfloat16)
    sizes = {}
    for scan in (False, True):
        program = jax.make_jaxpr(of_batch(network(scan, train=True, dtype=jnp.bfloat16), train=True))(held, images)
        sizes[scan] = str(program).count("conv_general_dilated")
        loops = [equation for equation in all_equations(program.jaxpr) if equation.primitive.name == "scan"]
        # forward and backward; maps of all its steps are [blocks, shares, images, height, width, channels]
        assert len(loops) == 2 * scan
        for loop in loops[:scan]:
            channels = loop.outvars[0].aval.shape[-1]
            kept = [out.aval.shape for out in loop.outvars[1:] if out.aval.ndim == 6]
            assert sum(shape[-1] == channels for shape in kept) == 1
    assert sizes[True] < 0.8 * sizes[False]


def all_equations(jaxpr):
    """Of a program and of those in it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner := getattr(value, "jaxpr", value), jax.extend.core.Jaxpr):
                yield from all_equations(inner)


def test_a_loop_over_nothing_is_refused():
    config = base.get_config()
    config.model.depths, config.model.scan_blocks = (2, 2), True
    with pytest.raises(ValueError, match="model.scan_blocks = True: expected False, as no group has three blocks"):
        settings.check_model(config.model)
    config.model.depths = (2, 3)
    settings.check_model(config.model)


def test_a_configuration_of_before_has_no_such_setting():
    held = base.get_config().model.to_dict()
    del held["scan_blocks"]
    settings.check_model(ml_collections.ConfigDict(held))
