"""Converts weights: `python -m data_prep.convert_weights --input=resnet101.pth --output=resnet101.npz`."""

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow checkpoints alone need it, and its notes are long
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed; a busy accelerator is no obstacle

from absl import app, flags, logging
from etils import epath

from proda_jax.models import weights
from proda_jax.models.resnet import RESNET101
from proda_jax.models.weights import torch_files
from proda_jax.models.weights.foreign import INPUTS
from proda_jax.system import paths

WRITERS = {
    ".npz": weights.save,
    ".safetensors": torch_files.write_safetensors,
    ".pkl": torch_files.write_released,
}

_INPUT = flags.DEFINE_string("input", None, "File of weights, or the folder of a stage of a run; see docs/weights.md.")
_OUTPUT = flags.DEFINE_string("output", None, f"File to write, by its ending: {', '.join(WRITERS)}.")
_IMAGES = flags.DEFINE_enum(
    "images", None, INPUTS, "How the network wants its images, where the file does not say and the guess is wrong."
)
_DEPTHS = flags.DEFINE_list("depths", [str(d) for d in RESNET101], "Bottleneck blocks of the backbone's groups.")
_WIDTH = flags.DEFINE_integer("width", 64, "Channels of the backbone's stem.")
_CLASSES = flags.DEFINE_integer("classes", None, "Number of classes, to check that the file has as many.")
_ALLOW_MISSING = flags.DEFINE_list("allow_missing", [], "Names or patterns of arrays that may be missing.")
_WHICH = flags.DEFINE_enum("which", "last", ["last", "best"], "Checkpoint to take from the folder of a stage.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "List every array by its name.")


def convert(
    source: epath.PathLike,
    target: epath.PathLike,
    *,
    allow_missing: Sequence[str] = (),
    verbose: bool = False,
    **expected,
) -> weights.Weights:
    """Reads weights in any format, prints what became of each array, and writes them.

    Args:
      source: see `weights.read`, as for `expected`.
      target: file to write; its ending says the format. It is written whole or not at all.
      allow_missing: names, or patterns such as 'layer4.*', of arrays that may be missing.
      verbose: print every name.

    Raises:
      ValueError: the file cannot be read, does not fit, or cannot be written in that format; nothing is written.
    """
    write = WRITERS.get(epath.Path(target).suffix)
    if write is None:
        raise ValueError(f"{target}: expected a name that ends in {', '.join(WRITERS)}")
    read, account = weights.read(source, **expected)
    print(f"{source}\n{account.text(verbose)}")
    account.check(source, allow_missing)
    write(read, target)
    print(f"{target}: {describe(read)}")
    return read


def describe(read: weights.Weights) -> str:
    """Weights in a line."""
    layout = read.layout
    parts = [f"backbone with {layout.depths} blocks"]
    parts += ["extra normalisation"] if layout.extra_norm else []
    head = f"{layout.head} head for {layout.classes or 'unknown'} classes"
    parts.append(head if read.has_head else "no head")
    parts += [] if read.prototypes is None else ["prototypes"]
    parts += [] if read.step is None else [f"step {read.step}"]
    parts += [] if read.best_miou is None else [f"mIoU {100 * read.best_miou:.1f} %"]
    return ", ".join(parts)


def main(arguments: list[str]) -> None:
    """Runs `convert` with the flags."""
    logging.set_verbosity(logging.ERROR)
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    try:
        convert(
            _INPUT.value,
            _OUTPUT.value,
            allow_missing=_ALLOW_MISSING.value,
            verbose=_VERBOSE.value,
            depths=tuple(int(depth) for depth in _DEPTHS.value),
            width=_WIDTH.value,
            classes=_CLASSES.value,
            images=_IMAGES.value,
            which=_WHICH.value,
        )
    except ValueError as error:
        sys.exit(f"Nothing was written. {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    app.run(main, flags_parser=paths.parse)
