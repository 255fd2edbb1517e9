"""Networks with the golden sets' weights, made from the names of the released state dict."""

from collections.abc import Mapping

import flax
import jax
import jax.numpy as jnp
import numpy as np
from golden_inputs import weight

from proda_jax.models.weights.torch_names import INPUT_CONVENTION, from_torch, torch_name


def golden_variables(module, example: jax.Array, salt: int = 0, prefix: str = "", **kwargs) -> dict:
    """Variables of `module` filled by name; `example` is an input of any size, `prefix` stands before the names."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), example, **kwargs))
    state = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
        name, shape = torch_name(path[1:]), leaf.shape
        if name in INPUT_CONVENTION:  # not in a state dict; without it, RGB in [0, 1] as it is
            continue
        shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
        state[name] = weight(prefix + name, shape, salt)
    return jax.tree.map(jnp.asarray, from_torch(state, shapes))


def network_variables(model, salt: int = 0) -> dict:
    return golden_variables(model, jnp.zeros((1, 64, 96, 3)), salt, train=False)


def relative_error(actual, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest magnitude that was expected."""
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())


def to_nchw(x) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def to_nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def assert_close(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Every array of `expected` agrees, relative to its largest magnitude; names those that do not."""
    errors = {name: relative_error(actual[name], value) for name, value in expected.items()}
    assert all(error < tolerance for error in errors.values()), {n: e for n, e in errors.items() if e >= tolerance}
