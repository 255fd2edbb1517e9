"""The report of a run and the comparison of several, made from what lies in their workdirs."""

from proda_jax.report.compare import write_comparison
from proda_jax.report.page import write

__all__ = ["write", "write_comparison"]
