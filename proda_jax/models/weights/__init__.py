"""Weights in files: every format that is read or written, and what became of each array."""

from proda_jax.models.weights.contents import Contents, Weights
from proda_jax.models.weights.files import load, read, save

__all__ = ["Contents", "Weights", "load", "read", "save"]
