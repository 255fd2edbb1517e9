"""Where the time of a GPU goes: the kernels of a trace by kind, as a table and a picture.

    python -m benchmarks.train_step --config=configs/gta5.py --config.model.dtype=bfloat16 --trace=/tmp/trace
    python -m benchmarks.kernels /tmp/trace/stage1 --picture=stage1.png
"""

import collections
import pathlib
import re
from collections.abc import Iterable

import jax
from absl import app, flags

from benchmarks.programs import TRACED_CALLS
from proda_jax.report import drawing

_PICTURE = flags.DEFINE_string("picture", None, "File for the picture.")

KINDS = (  # of kernels, by the first pattern that is found in their names
    ("gradients of kernels", r"wgrad"),
    ("float32 products", r"gemm_f32f32|sgemm"),
    ("convolutions, kernels for Ampere", r"sm80_xmma_fprop|sm80_xmma_dgrad|s16816(fprop|dgrad)"),
    ("convolutions", r"fprop|dgrad|cudnn"),
    ("1x1 convolutions and products", r"nvjet|gemm|splitKreduce"),
    ("sums over an image (normalisation)", r"reduce"),
    ("transposes and copies", r"transpose|copy|memcpy|(?i:memset)|pad_fusion|concatenate"),
    ("values one by one (normalisation, rectifiers)", r"fusion|wrapped"),
    ("other", r""),
)


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by the name that XLA or cuDNN gave it."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, kernel))


def by_kind(kernels: Iterable[tuple[str, float]], calls: int) -> dict[str, float]:
    """Milliseconds of a call in each kind of kernel, the longest first, from name and milliseconds of each run."""
    total: dict[str, float] = collections.Counter()
    for name, milliseconds in kernels:
        total[kind_of(name)] += milliseconds / calls
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def kernels_of(folder: str) -> list[tuple[str, float]]:
    """(name, milliseconds) of each kernel that ran while a trace was taken.

    Raises:
      ValueError: the folder has no trace, or one without a GPU.
    """
    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    if not files:
        raise ValueError(f"{folder} has no trace (*.xplane.pb): take one with benchmarks.train_step --trace=FOLDER")
    planes = [plane for plane in jax.profiler.ProfileData.from_file(str(files[-1])).planes if "GPU" in plane.name]
    found = [
        (event.name, event.duration_ns / 1e6)
        for plane in planes[:1]
        for line in plane.lines
        if "Stream" in line.name
        for event in line.events
    ]
    if not found:
        raise ValueError(f"{files[-1]} has no kernels of a GPU: it was taken on another device")
    return found


def picture(table: dict[str, float], title: str) -> bytes:
    """Bars of the kinds, milliseconds a call, as a PNG file."""
    names = list(table)[::-1]

    def plot(axes) -> None:
        axes.bar_label(axes.barh(names, [table[name] for name in names]), fmt="%.1f", padding=3)
        axes.set_title(title, loc="left")
        axes.set_xlabel("ms")
        axes.margins(x=0.1)
        axes.grid(False)

    return drawing.draw("kernels", plot, says=title, size=(7.5, 0.4 * len(names) + 1)).png


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise app.UsageError("expected one folder, that of a trace")
    table = by_kind(kernels_of(arguments[1]), TRACED_CALLS)
    total = sum(table.values())
    for name, milliseconds in table.items():
        print(f"{name:<46}{milliseconds:9.2f} ms {milliseconds / total:6.1%}")
    print(f"{'all':<46}{total:9.2f} ms")
    if _PICTURE.value:
        title = f"{pathlib.Path(arguments[1]).name}: {total:.0f} ms a call in the device's kernels"
        pathlib.Path(_PICTURE.value).write_bytes(picture(table, title))


if __name__ == "__main__":
    app.run(main)
