"""Flips bits and cuts files of a run at random, and counts how often that is noticed where the file is read.

    python -m benchmarks.damage_test --damages=200

The run is that of `benchmarks.kill_test`, or a workdir of yours, which is copied. One time in four a file is cut, else
one bit of it flips: a file of a checkpoint, of pseudo labels, of initial prototypes, or of weights. The file is read as
the program reads it, and then put right again. Damage that changes no value that is read (a time in an archive, a note
of the library's) is told and drawn anew. The last line is `noticed: N/N`; unless it was all of them the exit status is
1.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags, logging

from benchmarks import kill_test
from proda_jax.system import paths

_DAMAGES = flags.DEFINE_integer("damages", 200, "How many damages are to be noticed.")
_SEED = flags.DEFINE_integer("damage_seed", 0, "Seed of what is damaged, and where.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a run, which is copied; by default a small run is made.")
CUT = 1 / 4  # share of damages that cut a file


@dataclasses.dataclass(frozen=True)
class Target:
    """Files that are read together.

    Attributes:
      kind: what they are.
      path: of the file, or of the folder.
      read: path -> what it holds, as a digest of all values; raises where something is noticed.
    """

    kind: str
    path: pathlib.Path
    read: Callable[[pathlib.Path], str]

    @property
    def files(self) -> list[pathlib.Path]:
        """Those that hold anything."""
        found = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        return [path for path in found if path.is_file() and path.stat().st_size]


def targets(workdir: pathlib.Path) -> Iterator[Target]:
    """What a run left that is read again."""
    from proda_jax.models import weights
    from proda_jax.models.weights import pretrained_folder
    from proda_jax.system import checkpoints

    for folder in sorted(workdir.glob("*/checkpoints/*")):
        if folder.name.isdigit():
            yield Target("checkpoint", folder, read_checkpoint)
            network = folder
    for path in sorted(workdir.glob("*/*_labels_*/*.npz")):
        yield Target("pseudo labels", path, read_archive)
    for path in sorted(workdir.glob("*/initial_prototypes.npz")):
        yield Target("initial prototypes", path, read_archive)
    weights.save(weights.load(network.parents[1]), workdir / "weights.npz")
    yield Target("weights", workdir / "weights.npz", read_weights)
    pretrained_folder.write(workdir / "pretrained", restored(network / "network"), checkpoints.card_in(network), "")
    yield Target("weights", workdir / "pretrained", read_pretrained)


def read_checkpoint(folder: pathlib.Path) -> str:
    """The values of a checkpoint, first by its digests, as the program does, and as Orbax restores them."""
    import jax

    from proda_jax.system import checkpoint_digests

    checkpoint_digests.check_all(folder)
    found = {}
    for item in ("network", "training"):
        if (folder / item).is_dir():
            for path, leaf in jax.tree.leaves_with_path(restored(folder / item)):
                if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf = jax.random.key_data(leaf)
                found[f"{item}{jax.tree_util.keystr(path)}"] = leaf
    return digest(found)


def restored(item: pathlib.Path) -> Any:
    """An item of a checkpoint, by Orbax alone."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(item.absolute())


def read_archive(path: pathlib.Path) -> str:
    """The arrays of an .npz file."""
    from proda_jax.system.files import read_npz

    return digest(read_npz(path))


def read_weights(path: pathlib.Path) -> str:
    """The arrays of a file of weights."""
    from proda_jax.models import weights

    return digest(weights.load(path).arrays)


def read_pretrained(folder: pathlib.Path) -> str:
    """The arrays of a folder with a network for others."""
    from proda_jax.models.weights import pretrained_folder

    card, arrays = pretrained_folder.read(folder)
    return digest(arrays | {"card": json.dumps(card, sort_keys=True)})


def digest(arrays: dict) -> str:
    """Of names, types, shapes and bits, apart from those that the program keeps."""
    import numpy as np

    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def damaged(contents: bytes, moments: random.Random) -> tuple[bytes, str]:
    """Contents of a file with a damage, and what that is."""
    if moments.random() < CUT:
        length = moments.randrange(len(contents))
        return contents[:length], f"cut to {length} of {len(contents)} bytes"
    place, bit = moments.randrange(len(contents)), moments.randrange(8)
    changed = bytes([contents[place] ^ 1 << bit])
    return contents[:place] + changed + contents[place + 1 :], f"bit {bit} of byte {place} of {len(contents)} flipped"


def campaign(found: list[Target], count: int, moments: random.Random) -> tuple[int, list[str]]:
    """Damages so many files, a kind as often as another.

    Returns:
      How many damages were noticed, and a line for each that was not.
    """
    kinds = sorted({target.kind for target in found})
    whole = {target: target.read(target.path) for target in found}
    noticed, missed, harmless = 0, [], collections.Counter()
    while noticed + len(missed) < count:
        kind = moments.choice(kinds)
        target = moments.choice([target for target in found if target.kind == kind])
        file = moments.choice(target.files)
        contents = file.read_bytes()
        changed, how = damaged(contents, moments)
        file.write_bytes(changed)
        try:
            same = target.read(target.path) == whole[target]
        except Exception:  # what a damaged file leads to depends on where it is damaged
            noticed += 1
        else:
            if same:
                harmless[f"{kind}: {file.name if target.path.is_dir() else 'archive'}"] += 1
            else:
                missed.append(f"{file}: {how}")
        finally:
            file.write_bytes(contents)
    for where, times in harmless.most_common():
        print(f"  changed no value, {times} times: {where}")
    return noticed, missed


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)
    folder = pathlib.Path(tempfile.mkdtemp())
    if _WORKDIR.value:
        shutil.copytree(_WORKDIR.value, folder / "run", ignore=shutil.ignore_patterns("data", "summaries"))
    elif kill_test.start(folder / "run", folder / "run.log").wait():
        sys.exit("the run failed:\n" + (folder / "run.log").read_text()[-2000:])
    noticed, missed = campaign(list(targets(folder / "run")), _DAMAGES.value, random.Random(_SEED.value))
    for line in missed:
        print(f"not noticed: {line}")
    shutil.rmtree(folder)
    print(f"noticed: {noticed}/{_DAMAGES.value}")
    sys.exit(noticed != _DAMAGES.value)


if __name__ == "__main__":
    app.run(main, flags_parser=paths.parse)
