"""Studies: the rows of a table, or the values of a setting, over several seeds, beside the paper's numbers."""

from proda_jax.study.page import write_page
from proda_jax.study.plan import Plan, plan
from proda_jax.study.runner import run
from proda_jax.study.sweep import swept

__all__ = ["Plan", "plan", "run", "swept", "write_page"]
