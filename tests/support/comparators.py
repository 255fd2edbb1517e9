"""Golden numbers of other methods' released code, and the inputs behind them, regenerated from their names.

`GOLDEN_COMPARATORS_DIR` points the tests at another set of the same kind; each file says which salt and size it has.
"""

import functools
import os
import zlib
from pathlib import Path

import numpy as np

from proda_jax.data.label_spaces import IGNORE

DIRECTORY = Path(os.environ.get("GOLDEN_COMPARATORS_DIR", Path(__file__).parent / "golden_comparators"))
B, K = 2, 19


class Golden:
    """The arrays of one method, which remembers those that were compared.

    Attributes:
      h, w: height and width H x W of the set.
      compared: names of the arrays that a test has asked for.
    """

    def __init__(self, name: str):
        with np.load(DIRECTORY / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)
        self.salt, self.h, self.w = map(int, self.arrays.pop("salt_hw"))
        self.compared: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.compared.add(key)
        return self.arrays[key]

    @property
    def size(self) -> tuple[int, int]:
        return self.h, self.w

    @property
    def grid(self) -> tuple[int, int]:
        """h x w of the page that describes the set: every fourth pixel."""
        return (self.h - 1) // 4 + 1, (self.w - 1) // 4 + 1

    @property
    def cells(self) -> tuple[int, int]:
        """bh x bw of that page."""
        return (5, 7) if self.h > 33 else (4, 6)

    def rng(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(zlib.crc32(f"input:{name}".encode()) + self.salt))

    def normal(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng(name).standard_normal(shape).astype(np.float32)

    def uniform(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng(name).random(shape).astype(np.float32)

    def integers(self, name: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
        return self.rng(name).integers(low, high, shape)

    def permutation(self, name: str, number: int) -> np.ndarray:
        return self.rng(name).permutation(number)

    def skewed(self, name: str, shape: tuple[int, ...], power: float) -> np.ndarray:
        drawn = np.floor(K * self.uniform(name, shape).astype(np.float64) ** power)
        return np.minimum(drawn, K - 1).astype(int)

    def logits(self, name: str, classes: int = K) -> np.ndarray:
        """'src_main', 'trg_main', ..., [B, h, w, classes]."""
        return nhwc(np.float32(3 * self.normal(f"{name}_{classes}", (B, classes, *self.grid))))

    def labels(
        self, name: str = "labels", size: tuple[int, int] | None = None, classes: int = K
    ) -> np.ndarray:
        """'labels' or 'labels_large', [B, *size]; by default twice as high and wide as images, or as images."""
        times = 2 if name == "labels_large" else 1
        shape = (B, *(size or (times * n for n in self.size)))
        labels = self.integers(f"{name}_{classes}", shape, 0, classes)
        return np.where(self.uniform(f"{name}_ignore_{classes}", shape) < 0.2, IGNORE, labels)

    def weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A parameter in PyTorch's layout, by its name."""
        z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + self.salt)).standard_normal(shape)
        if name.endswith(".bias"):
            return np.float32(0.1 * z)
        return np.float32(1 + 0.1 * z if len(shape) == 1 else z * np.sqrt(2.0 / np.prod(shape[1:])))

    def conv(self, name: str, out: int, into: int, side: int) -> dict[str, np.ndarray]:
        """Parameters of a convolution here, by its name there."""
        kernel = self.weight(f"{name}.weight", (out, into, side, side)).transpose(2, 3, 1, 0)
        return {"kernel": kernel, "bias": self.weight(f"{name}.bias", (out,))}

    def probabilities(self, classes: int = K) -> np.ndarray:
        """'prob', [B, H, W, classes] float32."""
        logits = 3 * self.normal(f"prob_{classes}", (B, classes, *self.size)).astype(np.float64)
        p = np.exp(logits - 0.3 * np.arange(classes)[:, None, None])
        return nhwc(np.float32(p / p.sum(1, keepdims=True)))


@functools.cache
def golden(name: str) -> Golden:
    return Golden(name)


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def nchw(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.asarray(array), -1, 1)


def thinned(gradient: np.ndarray) -> np.ndarray:
    """A gradient [B, h, w, C] as it is stored: [B, C, h / 2, w / 2]."""
    return nchw(gradient)[:, :, ::2, ::2]


def first_of(parameter: np.ndarray) -> np.ndarray:
    """The gradient of a kernel or bias as it is stored: PyTorch's order, the first 256."""
    parameter = np.asarray(parameter)
    return (parameter.transpose(3, 2, 0, 1) if parameter.ndim == 4 else parameter).ravel()[:256]


def agree(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """max|a - b| <= tolerance * max|b|, the comparison that the set is made for; 1e-4 is float32's."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error, scale = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= tolerance * scale, (error, scale)


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Whole numbers are equal, but for 0.1 % where they follow from probabilities; 255 there is IGNORE here."""
    actual = np.asarray(actual)
    if actual.dtype != bool:
        actual = np.where(actual == IGNORE, 255, actual)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert np.mean(actual != expected) <= 1e-3


def dacs_labels(g: Golden) -> np.ndarray:
    """Source labels of DACS and DAFormer, [B, H, W]."""
    labels = g.skewed("dacs_labels", (B, *g.size), 3)
    labels[g.uniform("dacs_labels_ignore", (B, *g.size)) < 0.05] = IGNORE
    labels[0][labels[0] == 4] = 0
    return labels


def dacs_draws(g: Golden, present: np.ndarray) -> np.ndarray:
    """Draws [B, K + 1] by which `choose_half` chooses what the set's permutations do, of the classes in `present`."""
    draws = np.full(present.shape, 1e6)
    for b, row in enumerate(present):
        classes = np.flatnonzero(row)  # ascending, ignored pixels last as 255 is
        draws[b, classes[g.permutation(f"dacs_choice{b}", len(classes))]] = np.arange(len(classes))
    return draws
