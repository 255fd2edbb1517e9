"""Writes a network as ONNX, by jax2onnx, from a program of operations that it converts.

jax2onnx 0.13.0 does not convert everything that JAX 0.10.2 traces, and converts some of it wrongly: it knows nothing of
code that depends on the platform, nor of 'stack', leaves out the padding of max pooling
(`findings/jax2onnx_max_pool_padding.sh`), and gives empty arrays a size. So the program is traced first, and these are
replaced by operations that give the same bits. Of code that depends on the platform that is taken which is for none:
what is quick in XLA for CPUs, such as depthwise convolutions as sums of products, is slow in ONNX Runtime.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.extend import core

from proda_jax.system.files import write_atomically

FILE = "network.onnx"
MOST_DIFFERING = 0.001  # share of pixels whose two best classes may be told apart by the order of sums alone
# primitives that hold a program, and the parameter that it is
_PROGRAMS = {
    "jit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}  # fmt: skip


def write(
    predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int], output: epath.Path
) -> None:
    """Writes `FILE`: 'images', uint8 [1, height, width, 3], to 'labels', uint8 [1, height, width].

    Args:
      predict: (variables, images) -> labels.
      variables: of the network; they are in the file.
      size: height and width of the images.
      output: its folder.

    Raises:
      ValueError: the converter cannot convert this network, or not rightly.
    """
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # it warns of what it has for other libraries
    import jax2onnx

    held, images = jax.device_get(variables), jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    program = plain(lambda images: predict(held, images), images)
    try:
        made = jax2onnx.to_onnx(program, [images], model_name="proda", input_names=["images"], output_names=["labels"])
    except Exception as error:  # what it does not know ends in errors of many kinds
        raise _refusal(_first_line(error)) from error
    made.graph.ClearField("value_info")  # sizes between operations, of which some are not so
    written = made.SerializeToString()
    check(written, predict, held, size)
    write_atomically(output / FILE, written)


def check(
    written: bytes, predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int]
) -> None:
    """Refuses a file whose labels of an image of noise, in ONNX Runtime, are not ours: conversion may fail in silence.

    Raises:
      ValueError: it cannot be run, or gives other labels.
    """
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    try:
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        found = session.run(["labels"], {"images": image})[0]
    except Exception as error:  # ONNX Runtime has errors of its own for each way to fail
        raise _refusal(f"ONNX Runtime cannot run what it makes of it: {_first_line(error)}") from error
    ours = np.asarray(jax.jit(predict)(variables, image))
    differing = (found != ours).mean() if found.shape == ours.shape else 1.0
    if differing > MOST_DIFFERING:
        raise _refusal(f"what it makes of it gives other labels to {100 * differing:.3g} % of the pixels of noise")


def _refusal(reason: str) -> ValueError:
    return ValueError(f"jax2onnx cannot convert this network ({reason}): --format=savedmodel and stablehlo are there "
                      "for each")  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def plain(function: Callable[[jax.Array], jax.Array], example: jax.ShapeDtypeStruct) -> Callable:
    """The same function of arrays like `example`, in operations that jax2onnx converts."""
    once = jax.make_jaxpr(function)(example)
    again = jax.make_jaxpr(lambda x: _run(once, [x]))(example)
    return lambda x: _run(again, [x])[0]  # bound as they are, without JAX's functions, which jax2onnx replaces


def _run(program: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    """What a program gives, with all that it holds in one level."""
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    known |= dict(zip(program.jaxpr.invars, inputs, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in program.jaxpr.eqns:
        known |= dict(zip(equation.outvars, _results(equation, list(map(value, equation.invars))), strict=True))
    return list(map(value, program.jaxpr.outvars))


def _results(equation: core.JaxprEqn, values: list[Any]) -> Sequence[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name in _PROGRAMS:
        inner = parameters[_PROGRAMS[name]]
        return _run(inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ()), values)
    if name == "platform_index":  # of the branch for all other platforms, which names none: a convolution stays one
        return [parameters["platforms"].index(None)]
    if name == "cond" and isinstance(values[0], int):
        return _run(parameters["branches"][values[0]], values[1:])
    if name == "stack":
        axis = parameters["axis"]
        return [jax.lax.concatenate([jax.lax.expand_dims(part, (axis,)) for part in values], axis)]
    if name == "concatenate":  # ONNX takes a size of 0 for one that stays as it is
        held = [part for part in values if part.size]
        return [jax.lax.concatenate(held, parameters["dimension"]) if len(held) > 1 else (held or values)[0]]
    if name == "reduce_window_max":
        keys = ("window_dimensions", "window_strides", "padding")
        return [_max_pool(*values, *(parameters[key] for key in keys))]
    if name == "stop_gradient":
        return values
    found = equation.primitive.bind(*values, **parameters)
    return found if equation.primitive.multiple_results else [found]


def _max_pool(
    x: jax.Array, window: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """Max pooling as the largest of shifted slices."""
    x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(before, behind, 0) for before, behind in padding])
    sizes = [(n - side) // stride + 1 for n, side, stride in zip(x.shape, window, strides, strict=True)]
    largest = None
    for first in itertools.product(*map(range, window)):
        last = [at + (n - 1) * stride + 1 for at, n, stride in zip(first, sizes, strides, strict=True)]
        part = jax.lax.slice(x, first, last, strides)
        largest = part if largest is None else jax.lax.max(largest, part)
    return largest
