"""Ways to compute a layer, side by side: which is quicker on this device, forward and backward.

    python -m benchmarks.layers --config=configs/gta5.py --config.model.dtype=bfloat16              on an accelerator
    python -m benchmarks.layers --config=configs/demo.py:scratch                                        on a CPU

Shapes are those of the configuration's network and crops. Each way is a small program that compiles in seconds, so that
what a step should be made of can be decided without compiling the step.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from proda_jax.adaptation.stages import build
from proda_jax.models import convolution, moments, normalisation
from proda_jax.models.backbones.resnet import EXPANSION
from proda_jax.system import devices, paths

_CONFIG = config_flags.DEFINE_config_file("config", "configs/demo.py:scratch", "Configuration: its network and crops.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds of each way, in turn; medians count.")
_CALLS = flags.DEFINE_integer("calls", 5, "Calls in a round.")
_JSON = flags.DEFINE_string("json", None, "File for the figures.")

Ways = dict[str, tuple[Callable, tuple[tuple[int, ...], ...]]]  # name: function of arrays, and their shapes


def differentiated(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalisation whose backward pass is left to JAX, with a rectifier."""
    mean, var, _ = moments.batch_moments(x, None)
    inverse_std = normalisation.inverse_std_of(var, False)
    return normalisation.finish(normalisation.affine(x, mean, inverse_std, scale, bias), None, True)


def written_out(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return normalisation.normalise(x, scale, bias, None, True, False)[0]


def moments_ahead(x, kernel, scale, bias, shortcut):
    """A 1x1 convolution normalised by the batch, with shortcut and rectifier: the moments follow from its inputs."""
    mean, var, _ = moments.moments_ahead(x, kernel.astype(scale.dtype), None)
    scale = scale * normalisation.inverse_std_of(var, False)
    return scaled_kernel(x, kernel, scale, bias - mean * scale, shortcut)


def moments_behind(x, kernel, scale, bias, shortcut):
    """The same, with the moments of what the convolution computes."""
    result = normalisation.normalise(convolution.pointwise(x, kernel), scale, bias, None, False, False)[0]
    return normalisation.finish(result, shortcut, True)


def scaled_kernel(x, kernel, scale, bias, shortcut):
    """A 1x1 convolution that is normalised by given statistics, with shortcut and rectifier: the kernel is scaled."""
    kernel = (kernel.astype(scale.dtype) * scale).astype(x.dtype)
    return normalisation.finish(convolution.add_bias(convolution.pointwise(x, kernel), bias), shortcut, True)


def scaled_result(x, kernel, scale, bias, shortcut):
    """The same, where what the convolution computes is scaled."""
    mean, inverse_std = jnp.zeros_like(bias), jnp.ones_like(bias)
    result = normalisation.affine(convolution.pointwise(x, kernel), mean, inverse_std, scale, bias)
    return normalisation.finish(result, shortcut, True)


def sums_alone(sums: Callable) -> Callable:
    """Sums of x and of its square for each channel; its backward pass only writes zeros."""

    def way(x: jax.Array) -> jax.Array:
        values = jax.lax.stop_gradient(x).astype(jnp.float32)
        return jnp.stack(sums(values, jnp.square(values)))

    return way


def rows_first(*arrays: jax.Array) -> list[jax.Array]:
    """Sums [channels] by way of those of each row of each image."""
    rows = jax.lax.optimization_barrier([array.sum(2) for array in arrays])
    return [row.sum((0, 1)) for row in rows]


def with_kernel_gradient(way: Callable, dilation: int) -> Callable:
    """A dilated convolution whose kernel's gradient is computed that way."""

    @jax.custom_vjp
    def convolve(x, kernel):
        return convolution._convolve(x, kernel, 1, dilation)

    def backward(kept, dy):
        x, kernel = kept
        (dx,) = jax.linear_transpose(lambda x: convolution._convolve(x, kernel, 1, dilation), x)(dy)
        return dx, way(x, dy, jax.ShapeDtypeStruct(kernel.shape, kernel.dtype), dilation)

    convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    return convolve


def choices(config) -> dict[str, Ways]:
    """What there is to choose, by layer."""
    backbone = build.backbone_of(config.model)
    grid = (config.batch_size, *backbone.output_size(tuple(config.views.crop_size)))
    inner = backbone.width * 4  # channels within a block of the third group, which has most of the blocks
    outer, features = EXPANSION * inner, 2 * EXPANSION * inner
    found: dict[str, Ways] = {}
    for ins, outs in ((outer, inner), (inner, outer)):
        shapes = ((*grid, ins), (1, 1, ins, outs))
        found[f"1x1 convolution, {ins} to {outs}"] = {
            "matrix product": (convolution.pointwise_product, shapes),
            "convolution": (partial(convolution._convolve, stride=1, dilation=1), shapes),
        }
    dilated = [(inner, inner, 2), (2 * inner, 2 * inner, 4)]
    dilated += [(features, config.model.head_channels, dilation) for dilation in config.model.dilations]
    for ins, outs, dilation in dilated:
        shapes = ((*grid, ins), (3, 3, ins, outs))
        found[f"3x3 convolution, dilation {dilation}, {ins} to {outs}"] = {
            "as one": (with_kernel_gradient(convolution.kernel_gradient, dilation), shapes),
            "kernel's gradient apart": (with_kernel_gradient(convolution.kernel_gradient_apart, dilation), shapes),
            "all of it": (partial(convolution.convolve_apart, dilation=dilation), shapes),
        }
    shapes = ((*grid, inner), (inner,), (inner,))
    found[f"normalisation, rectifier, {inner}"] = {
        "differentiated": (differentiated, shapes),
        "written out": (written_out, shapes),
    }
    shapes = ((*grid, inner), (1, 1, inner, outer), (outer,), (outer,), (*grid, outer))
    found[f"1x1 convolution by given statistics, {inner} to {outer}"] = {
        "kernel scaled": (scaled_kernel, shapes),
        "result scaled": (scaled_result, shapes),
    }
    found[f"1x1 convolution by the batch's statistics, {inner} to {outer}"] = {
        "moments ahead": (moments_ahead, shapes),
        "behind": (moments_behind, shapes),
    }
    found[f"sums of values and squares, {outer}"] = {
        "one reduction": (sums_alone(moments.one_reduction), ((*grid, outer),)),
        "two reductions": (sums_alone(moments.two_reductions), ((*grid, outer),)),
        "rows first": (sums_alone(rows_first), ((*grid, outer),)),
    }
    return found


def prepare(function: Callable, shapes: tuple[tuple[int, ...], ...], dtype: jnp.dtype) -> tuple[Callable, list]:
    """The layer forward and backward, compiled, and its arguments: activations and kernels as it computes in."""
    keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
    types = [jnp.float32 if len(shape) == 1 else dtype for shape in shapes]  # scales and biases stay float32
    values = [jax.random.normal(key, s).astype(t) for key, s, t in zip(keys, shapes, types, strict=False)]
    result = jax.eval_shape(function, *values)
    given = jax.random.normal(keys[-1], result.shape).astype(result.dtype)

    def both_ways(given, *values):
        result, backward = jax.vjp(function, *values)
        return result, backward(given)

    arguments = [given, *values]
    return jax.jit(both_ways).lower(*arguments).compile(), arguments


def time_in_turn(ways: Ways, dtype: jnp.dtype) -> dict[str, float]:
    """Median milliseconds of each way."""
    prepared = {name: prepare(*way, dtype) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(_ROUNDS.value + 1):  # the first is to warm up
        for name, (compiled, arguments) in prepared.items():
            started = time.perf_counter()
            for _ in range(_CALLS.value):
                result = compiled(*arguments)
                devices.block_on_cpu(result)
            jax.block_until_ready(result)
            if round_number:
                seconds[name].append((time.perf_counter() - started) / _CALLS.value)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def main(_: list[str]) -> None:
    config = _CONFIG.value
    dtype = jnp.dtype(config.model.dtype)
    print(f"{jax.devices()[0].device_kind}, {dtype}, batch {config.batch_size}, ms forward and backward")
    figures = {}
    for layer, ways in choices(config).items():
        figures[layer] = time_in_turn(ways, dtype)
        print(f"{layer:<52}" + ", ".join(f"{name} {ms:.3f}" for name, ms in figures[layer].items()), flush=True)
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump({"device": jax.devices()[0].device_kind, "dtype": str(dtype), "ms": figures}, file, indent=2)


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
