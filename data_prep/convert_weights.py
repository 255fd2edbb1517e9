"""Converts weights: `python -m data_prep.convert_weights --input=resnet101.pth --output=resnet101.npz`."""

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow checkpoints alone need it, and its notes are long
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed; a busy accelerator is no obstacle

from absl import app, flags, logging
from etils import epath

from proda_jax.models import weights
from proda_jax.models.deeplab import NO_AUXILIARY
from proda_jax.models.weights import torch_files
from proda_jax.models.weights.foreign import INPUTS
from proda_jax.system import command

WRITERS = {
    ".npz": weights.save,
    ".safetensors": torch_files.write_safetensors,
    ".pkl": torch_files.write_released,
}


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
    parts = [f"backbone {layout.backbone.family} with {layout.backbone.depths} blocks"]
    parts += ["extra normalisation"] if layout.extra_norm else []
    head = f"{layout.head} head for {layout.classes or 'unknown'} classes"
    parts.append(head if read.has_head else "no head")
    parts += [] if layout.auxiliary_head == NO_AUXILIARY else [f"a second head, {layout.auxiliary_head!r}"]
    parts += [] if read.prototypes is None else ["prototypes"]
    parts += [] if read.step is None else [f"step {read.step}"]
    parts += [] if read.best_miou is None else [f"mIoU {100 * read.best_miou:.1f} %"]
    return ", ".join(parts)


def define_flags() -> None:
    """Flags of the command; not on import, since the other commands have some of the same names."""
    flags.DEFINE_string("input", None, "File of weights, or the folder of a stage of a run; see docs/weights.md.")
    flags.DEFINE_string("output", None, f"File to write, by its ending: {', '.join(WRITERS)}.")
    flags.DEFINE_string(
        "images", None, f"How the network wants its images, where the file does not say and the guess is wrong: "
        f"{', '.join(INPUTS)}, or mean and divisor of RGB in [0, 1] as r,g,b/r,g,b.",
    )  # fmt: skip
    flags.DEFINE_list("depths", None, "Blocks of the backbone's groups, to check that the file has as many.")
    flags.DEFINE_integer("width", None, "Channels of the backbone's stem, to check that the file has as many.")
    flags.DEFINE_integer("classes", None, "Number of classes, to check that the file has as many.")
    flags.DEFINE_list("allow_missing", [], "Names or patterns of arrays that may be missing.")
    flags.DEFINE_enum("which", "last", ["last", "best"], "Checkpoint to take from the folder of a stage.")
    flags.DEFINE_bool("verbose", False, "List every array by its name.")
    flags.mark_flags_as_required(["input", "output"])


def main(arguments: list[str]) -> None:
    """Runs `convert` with the flags."""
    logging.set_verbosity(logging.ERROR)
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    given = flags.FLAGS
    try:
        convert(
            given.input,
            given.output,
            allow_missing=given.allow_missing,
            verbose=given.verbose,
            depths=given.depths and tuple(map(int, given.depths)),
            width=given.width,
            classes=given.classes,
            images=given.images,
            which=given.which,
        )
    except ValueError as error:
        sys.exit(f"Nothing was written. {error}")


def run() -> None:
    """The command, from its flags to its exit status."""
    define_flags()
    command.run(main, __name__)


if __name__ == "__main__":
    run()
