"""Multiply-adds of a function's matrix products and convolutions, counted in what JAX makes of it."""

import math
from collections.abc import Callable
from typing import Any

import jax


def multiply_adds(function: Callable, *given: Any) -> int:
    """Of all products and convolutions, as accelerators compute them; nothing is computed."""
    return of_jaxpr(jax.make_jaxpr(function)(*given).jaxpr)


def of_jaxpr(jaxpr: Any) -> int:
    return sum(map(of_equation, jaxpr.eqns))


def of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[axis] for axis in numbers[1:])
    if name == "cond":  # ways for different platforms, of which the one for accelerators counts its convolutions
        return max(map(of_jaxpr, (branch.jaxpr for branch in params["branches"])))
    inner = (getattr(value, "jaxpr", value) for value in params.values())
    return params.get("length", 1) * sum(of_jaxpr(value) for value in inner if hasattr(value, "eqns"))
