"""What people look at: the page about a run, the one that sets several side by side, tables, how a run is doing."""

from collections.abc import Sequence

from etils import epath

from proda_jax.system.extras import need

_LIBRARIES = ("jinja2", "matplotlib")  # imported late: scores and tables, which others import from here, need neither


def write(workdir: epath.PathLike) -> epath.Path:
    """Writes the page about a run; see `page.write`."""
    need("a report", "report", *_LIBRARIES)
    from proda_jax.report import page

    return page.write(workdir)


def write_comparison(workdirs: Sequence[epath.PathLike], output: epath.PathLike | None = None) -> epath.Path:
    """Writes the page about several runs; see `compare.write_comparison`."""
    need("a report", "report", *_LIBRARIES)
    from proda_jax.report import compare

    return compare.write_comparison(workdirs, output)
