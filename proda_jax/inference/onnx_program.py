"""A program in operations that jax2onnx converts, and that ONNX Runtime computes quickly.

jax2onnx 0.13.0 does not convert everything that JAX 0.10.2 traces, and converts some of it wrongly: it knows nothing of
code that depends on the platform, nor of 'stack', leaves out the padding of max pooling
(`findings/jax2onnx_max_pool_padding.sh`), and gives empty arrays a size. So the program is traced first, and these are
replaced by operations that give the same bits. Of code that depends on the platform that is taken which is for none:
what is quick in XLA for CPUs, such as depthwise convolutions as sums of products, is slow in ONNX Runtime.

Products at each position become 1x1 convolutions, since their arrays would be transposed for Einsum; what follows from
the weights alone, such as kernels that are scaled by a normalisation, is computed once and for all.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_SMALL = 2**12  # values that a constant may have that is larger than what it follows from
# primitives that hold a program, and the parameter that it is
_PROGRAMS = {
    "jit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}  # fmt: skip


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
        values = list(map(value, equation.invars))
        if _is_constant(equation, values):
            with jax.ensure_compile_time_eval():
                results = _results(equation, values)
        else:
            results = _results(equation, values)
        known |= dict(zip(equation.outvars, results, strict=True))
    return list(map(value, program.jaxpr.outvars))


def _is_constant(equation: core.JaxprEqn, values: Sequence[Any]) -> bool:
    """Whether results follow from the weights alone and take no more room than these."""
    within = equation.primitive.name in (*_PROGRAMS, "cond")  # whose own equations are looked at one by one
    if within or not values or any(isinstance(value, jax.core.Tracer) for value in values):
        return False
    made = sum(math.prod(out.aval.shape) for out in equation.outvars)
    return made <= max(sum(math.prod(np.shape(value)) for value in values), _SMALL)


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
    if name == "dot_general":
        return [_product(*values, parameters["dimension_numbers"])]
    found = equation.primitive.bind(*values, **parameters)
    return found if equation.primitive.multiple_results else [found]


def _product(left: Any, right: Any, dimensions: tuple) -> jax.Array:
    """A 1x1 convolution, or a product of matrices, for which axes are moved: that is quicker than Einsum does it."""
    contracted, batched = dimensions
    if left.ndim == 4 and right.ndim == 2 and tuple(map(tuple, contracted)) == ((3,), (0,)):
        return jax.lax.conv_general_dilated(
            left, right[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    sides, free = [], []
    for x, inner, outer in zip((left, right), contracted, batched, strict=True):
        own = [axis for axis in range(x.ndim) if axis not in (*inner, *outer)]
        free.append([x.shape[axis] for axis in own])
        groups = (outer, own, inner) if x is left else (outer, inner, own)
        sizes = [math.prod(x.shape[axis] for axis in group) for group in groups]
        sides.append(jax.lax.reshape(jax.lax.transpose(x, [*itertools.chain(*groups)]), sizes))
    made = jax.lax.dot_general(*sides, (((2,), (1,)), ((0,), (0,))))
    return jax.lax.reshape(made, [*(left.shape[axis] for axis in batched[0]), *free[0], *free[1]])


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
