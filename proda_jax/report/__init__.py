"""What people look at: the page about a run, the one that sets several side by side, tables, how a run is doing."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`write` and `write_comparison`, imported when first asked for: status does without what they need."""
    if name == "write":
        from proda_jax.report.page import write

        return write
    if name == "write_comparison":
        from proda_jax.report.compare import write_comparison

        return write_comparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
