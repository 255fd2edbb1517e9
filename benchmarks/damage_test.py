"""Flips bits and cuts files of a run at random, and counts how often that is noticed where the file is read.

    python -m benchmarks.damage_test --damages=200

The run is that of `benchmarks.kill_test`, of five stages, or a workdir of yours, which is copied. One time in four a
file is cut, else one bit of it flips: a file of a checkpoint, of pseudo labels, of arrays that are made once (initial
prototypes, ...), of a snapshot, of a note in JSON, of prepared data, or of weights. The file is read as the program
reads it, and then put right again. It is noticed where the program says so in a sentence that names the file or its
folder; an error that says less is an accident, and does not count. Damage that changes no value that is read (a time in
an archive, a note of the library's) is told and drawn anew. The last line is `noticed: N/N`; unless it was all of them
the exit status is 1.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags, logging
from etils import epath

from benchmarks import kill_test
from proda_jax.system import paths

_DAMAGES = flags.DEFINE_integer("damages", 200, "How many damages are to be noticed.")
_SEED = flags.DEFINE_integer("damage_seed", 0, "Seed of what is damaged, and where.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a run, which is copied; by default a small run is made.")
CUT = 1 / 4  # share of damages that cut a file
UNREAD = ("lock", "README.md", "contact_sheet.png", "features.json")  # by the program: people's, TFDS's, nobody's
NOTES = ("config.json", "data.json", "results.json", "settings.json", "environment.json", "cost.json", "result.json",
         "origin.json", "class_thresholds.json", "history.jsonl", "metrics.jsonl")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target:
    """Files that are read together.

    Attributes:
      kind: what they are.
      path: of the file, or of the folder.
      read: path -> what it holds, as a digest of all values; prints or raises where something is noticed.
    """

    kind: str
    path: pathlib.Path
    read: Callable[[pathlib.Path], str]

    @property
    def files(self) -> list[pathlib.Path]:
        """Those that hold anything."""
        found = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        return [path for path in found if path.is_file() and path.stat().st_size and path.name not in UNREAD]


def targets(workdir: pathlib.Path) -> Iterator[Target]:
    """What a run left that is read again."""
    from proda_jax.models import weights
    from proda_jax.models.weights import pretrained_folder, torch_files
    from proda_jax.system import checkpoints

    for folder in sorted(workdir.glob("*/checkpoints/*")):
        if folder.name.isdigit():
            yield Target("checkpoint", folder, functools.partial(read_checkpoint, trees_of(folder)))
            network = folder
    for path in sorted(workdir.glob("*/*_labels_*/*.npz")):
        yield Target("pseudo labels", path, read_labels)
    for path in sorted(workdir.glob("*/*.npz")):
        yield Target("initial prototypes and the like", path, read_archive)
    for path in (*sorted(workdir.glob("*/snapshots/*.npz")), *sorted(workdir.glob("samples.npz"))):
        yield Target("snapshots", path, read_snapshot)
    for path in sorted(path for pattern in ("*", "*/*", "*/*_labels_*/*") for path in workdir.glob(pattern)):
        if path.name in NOTES:
            yield Target("notes", path, read_note)
    for index in sorted(workdir.glob("data/**/dataset_info.json")):
        yield Target("prepared data", index.parent, read_prepared)
    taken = weights.load(network.parents[1])
    for ending, write in ((".npz", weights.save), (".safetensors", torch_files.write_safetensors)):
        write(taken, workdir / f"weights{ending}")
        yield Target("weights", workdir / f"weights{ending}", read_weights)
    pretrained_folder.write(workdir / "pretrained", restored(network / "network"), checkpoints.card_in(network), "")
    yield Target("weights", workdir / "pretrained", read_pretrained)


def trees_of(checkpoint: pathlib.Path) -> dict[str, Any]:
    """The items of a checkpoint that is whole."""
    return {item: restored(checkpoint / item) for item in ("network", "training") if (checkpoint / item).is_dir()}


def read_checkpoint(whole: dict[str, Any], folder: pathlib.Path) -> str:
    """The values of a checkpoint, as a stage that goes on reads it, and then as one does that starts from it."""
    import jax

    from proda_jax.system import checkpoints

    alone = folder.with_name(f"{folder.name}.alone")  # where no older one takes its place
    shutil.copytree(folder, alone / folder.name)
    try:
        wanted = State(whole["network"], whole.get("training"))
        with contextlib.closing(checkpoints.Checkpoints(alone)) as kept:
            restored = kept.restore(wanted) if wanted.rest is not None else State(kept.network(wanted.variables), None)
            found = {"score": json.dumps(kept.step("best"))}
    except ValueError as error:
        raise ValueError(str(error).replace(str(alone), str(folder))) from error
    finally:
        shutil.rmtree(alone)
    found["card"] = json.dumps(checkpoints.card_in(folder), sort_keys=True)
    for path, leaf in jax.tree.leaves_with_path((restored.variables, restored.rest)):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = leaf
    return digest(found)


@dataclasses.dataclass(frozen=True)
class State:
    """A train state without its meaning, as checkpoints want it."""

    variables: Any
    rest: Any

    def restored(self, variables: Any, rest: Any) -> "State":
        return State(variables, rest)


def restored(item: pathlib.Path) -> Any:
    """An item of a checkpoint, by Orbax alone."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(item.absolute())


def read_labels(path: pathlib.Path) -> str:
    """A file of a store of pseudo labels."""
    from proda_jax.data.pseudo_labels import PseudoLabels
    from proda_jax.system.files import read_json

    store = PseudoLabels(path.parent, read_json(path.parent / "origin.json", ""))
    return digest({"label": store.read(urllib.parse.unquote(path.stem))})


def read_archive(path: pathlib.Path) -> str:
    """The arrays of an .npz file, which is made again where it is damaged."""
    from proda_jax.system.files import is_readable, read_npz

    return digest(read_npz(path)) if is_readable(path) else ""


def read_snapshot(path: pathlib.Path) -> str:
    """The arrays of an .npz file that reports are drawn from."""
    from proda_jax.report import inspection, integrity
    from proda_jax.system.files import read_npz

    damaged: list[str] = []
    inspection.check_archive(epath.Path(path), damaged, integrity.Integrity())
    print(*damaged, end="")
    return "" if damaged else digest(read_npz(path))


def read_note(path: pathlib.Path) -> str:
    """What a note says, or the lines of one."""
    from proda_jax.run.records import Lines
    from proda_jax.system.files import read_json

    found = Lines(path, 10**9).entries if path.suffix == ".jsonl" else read_json(path, "delete it")
    return json.dumps(found, sort_keys=True)


def read_prepared(folder: pathlib.Path) -> str:
    """The records of a prepared data set, encoded, and what is noted of them."""
    from proda_jax.data.prepared import Prepared
    from proda_jax.data_prep import records, summary

    prepared = Prepared(folder)
    notes = (prepared.splits, prepared.metadata, records.load(folder), summary.Summary.load(folder))
    found = {"notes": repr(notes)}
    for split in prepared.splits:
        for number, record in enumerate(prepared.records(split)):
            found |= {f"{split} {number} {name}": value for name, value in record.items()}
    return digest(found)


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


def told(target: Target) -> tuple[str | None, str]:
    """What a target holds, None where it cannot be read; and what the program says of it.

    Of an error that is not the program's own, such as a library's, it says nothing.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return target.read(target.path), said.getvalue()
    except ValueError as error:
        return None, f"{said.getvalue()}{error}"
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        return None, f"an accident, {type(error).__name__}, and no sentence about it"


def campaign(found: list[Target], count: int, moments: random.Random) -> tuple[int, list[str]]:
    """Damages so many files, a kind as often as another.

    Returns:
      How many damages were noticed, and a line for each that was not.
    """
    kinds = sorted({target.kind for target in found})
    whole = {target: told(target) for target in found}
    if wrong := [f"{target.path}: {said}" for target, (held, said) in whole.items() if held is None or said]:
        raise ValueError(f"what nobody damaged is not as it was written: {wrong[0]}")
    noticed, missed, harmless = 0, [], collections.Counter()
    while noticed + len(missed) < count:
        kind = moments.choice(kinds)
        target = moments.choice([target for target in found if target.kind == kind])
        file = moments.choice(target.files)
        contents = file.read_bytes()
        changed, how = damaged(contents, moments)
        file.write_bytes(changed)
        try:
            held, said = told(target)
        finally:
            file.write_bytes(contents)
        if str(target.path) in said:
            noticed += 1
        elif held == whole[target][0]:
            harmless[f"{kind}: {file.name if target.path.is_dir() else 'archive'}"] += 1
        else:
            missed.append(f"{file}: {how}; {said or 'nothing was said'}")
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
