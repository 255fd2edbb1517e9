"""Inputs and weights behind tests/support/golden/*.npz, regenerated from their names.

The files hold outputs of the authors' released implementation. `GOLDEN_DIR` and `GOLDEN_SALT` point the tests at
another set of the same kind.
"""

import functools
import os
import zlib
from pathlib import Path

import numpy as np

DIRECTORY = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden"))
SALT = int(os.environ.get("GOLDEN_SALT", "0"))


def load(name: str) -> dict[str, np.ndarray]:
    """Every array of `<name>.npz`."""
    with np.load(DIRECTORY / f"{name}.npz") as arrays:
        return dict(arrays)


def _generator(name: str, salt: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + SALT + salt))


@functools.cache  # those of ResNet-101 are 44 million numbers, and several tests want them: nobody may write to them
def weight(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """A weight by its PyTorch state-dict key and PyTorch shape; `salt` is added to the set's own."""
    values, leaf = _generator(name, salt).standard_normal(shape), name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_mean" or leaf == "bias":
        values = 0.1 * values
    elif leaf == "running_var":
        values = 1.0 + 0.5 * np.tanh(values)
    elif len(shape) == 1:
        values = (0.25 if name.endswith("bn3.weight") else 1.0) * (1 + 0.1 * values)
    else:
        values = values * np.sqrt(2.0 / np.prod(shape[1:]))
    return values.astype(np.float32)


def normal(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return _generator("input:" + name, salt).standard_normal(shape).astype(np.float32)


def uniform(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Uniform float32 in [0, 1)."""
    return _generator("input:" + name, salt).random(shape).astype(np.float32)


def integers(name: str, shape: tuple[int, ...], low: int, high: int, salt: int = 0) -> np.ndarray:
    """Integers in low .. high - 1."""
    return _generator("input:" + name, salt).integers(low, high, shape)
