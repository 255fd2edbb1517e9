"""Where the time goes: kernels of a GPU or operations of a CPU by kind, from a trace, as a table and a picture.

    python -m benchmarks.train_step --config=configs/gta5.py --config.model.dtype=bfloat16 --trace=/tmp/trace
    python -m benchmarks.kernels /tmp/trace/stage1 --picture=stage1.png

A CPU's operations run on several threads; their times are added up, so take the trace on one core.
"""

import collections
import pathlib
import re
from collections.abc import Iterable

import jax
from absl import app, flags

from benchmarks.programs import PROGRAM, TRACED_CALLS
from proda_jax.report import drawing
from proda_jax.system import paths

_PICTURE = flags.DEFINE_string("picture", None, "File for the picture.")

KERNELS = (  # kinds of a GPU's kernels, by the first pattern that is found in their names
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
OPERATIONS = (  # kinds of a CPU's operations, likewise, by their names and by what of JAX they come from
    ("convolutions, backward", r"transpose\(.*conv_general_dilated$"),
    ("convolutions, forward", r"conv_general_dilated$"),
    ("matrix products (1x1 convolutions, resizing, distances)", r"^dot|dot_general$"),
    ("transposes and copies", r"/transpose$|/(pad|gather|concatenate|slice)$|^(transpose_)?copy"),
    ("sums and maxima", r"reduce|all_gather|psum"),
    ("values one by one (normalisation, rectifiers)", r""),
)
OUTER = re.compile(r"call|while|conditional")  # operations whose parts are in the trace, too
NAMED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{op_name=\"([^\"]*)\"", re.MULTILINE)


def kind_of(name: str) -> str:
    """The kind of a kernel by the name that XLA or cuDNN gave it, or of an operation as `operations_of` names it."""
    return next(kind for kind, pattern in (OPERATIONS if " " in name else KERNELS) if re.search(pattern, name))


def by_kind(kernels: Iterable[tuple[str, float]], calls: int) -> dict[str, float]:
    """Milliseconds of a call in each kind, the longest first, from name and milliseconds of each run."""
    total: dict[str, float] = collections.Counter()
    for name, milliseconds in kernels:
        total[kind_of(name)] += milliseconds / calls
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def measured(folder: str) -> list[tuple[str, float]]:
    """(name, milliseconds) of each kernel or operation that ran while a trace was taken.

    Raises:
      ValueError: the folder has no trace, or one of neither a GPU nor a CPU.
    """
    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    if not files:
        raise ValueError(f"{folder} has no trace (*.xplane.pb): take one with benchmarks.train_step --trace=FOLDER")
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    gpus = [plane for plane in planes if "GPU" in plane.name]
    found = events_of(gpus[:1], "Stream") or operations_of(events_of(planes, "tf_XLA"), pathlib.Path(folder) / PROGRAM)
    if not found:
        raise ValueError(f"{files[-1]} has neither kernels of a GPU nor operations of a CPU")
    return found


def events_of(planes: Iterable, lines: str) -> list[tuple[str, float]]:
    """(name, milliseconds) of the events in lines whose name has this in it."""
    return [
        (event.name, event.duration_ns / 1e6)
        for plane in planes
        for line in plane.lines
        if lines in line.name
        for event in line.events
    ]


def operations_of(events: list[tuple[str, float]], program: pathlib.Path) -> list[tuple[str, float]]:
    """('operation of XLA, a space, operation of JAX', milliseconds) of a CPU's events.

    Args:
      events: of the trace, with those of the runtime.
      program: file with the compiled program's text, which says where operations come from.
    """
    sources = dict(NAMED.findall(program.read_text())) if program.exists() else {}
    return [
        (f"{name} {sources.get(name, '')}", milliseconds)
        for name, milliseconds in events
        if not re.search(r"::|^end:|^\$", name) and not OUTER.match(name)
    ]


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
    table = by_kind(measured(arguments[1]), TRACED_CALLS)
    total = sum(table.values())
    for name, milliseconds in table.items():
        print(f"{name:<58}{milliseconds:9.2f} ms {milliseconds / total:6.1%}")
    print(f"{'all':<58}{total:9.2f} ms")
    if _PICTURE.value:
        title = f"{pathlib.Path(arguments[1]).name}: {total:.0f} ms a call"
        pathlib.Path(_PICTURE.value).write_bytes(picture(table, title))


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
