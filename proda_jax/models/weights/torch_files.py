"""Weights in other programs' files: PyTorch's, SimCLRv2's TensorFlow checkpoints, and the folder of a stage.

Nothing in a file is executed: PyTorch's are read by `torch_reader`, without PyTorch. That is imported to write the
released code's format, TensorFlow to read its checkpoints.
"""

import dataclasses
import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from proda_jax.models.deeplab import NO_AUXILIARY
from proda_jax.models.weights import foreign, simclr_checkpoint, stage_folder, torch_reader
from proda_jax.models.weights.account import account
from proda_jax.models.weights.contents import FACTS, Contents, Weights, own_arrays, safetensors_digest
from proda_jax.models.weights.torch_names import INPUT_CONVENTION
from proda_jax.system import digests
from proda_jax.system.extras import need
from proda_jax.system.files import write_atomically

FADA = ("feature_extractor", "classifier")  # under which FADA's files hold backbone and head
NETWORK = "ResNet101"  # class of the released network, under which its files hold it
COUNTER = "num_batches_tracked"
# keys below which others keep a network; where a file has several, the first is taken
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "network", "net", "module", "student", "teacher",
            "model_ema", "ema_model", "ema", "state_dict_ema", "params")  # fmt: skip


def read(path: epath.PathLike, which: str = "last") -> Contents:
    """What a PyTorch file, a TensorFlow checkpoint or a stage's folder holds, under the file's own names.

    Args:
      path: the file; of a TensorFlow checkpoint the prefix of its files, one of them, or their folder.
      which: 'last' or 'best' checkpoint of a stage's folder.

    Raises:
      ValueError: there is no such file, it is laid out otherwise, or it holds more than data.
    """
    path = epath.Path(path)
    if stage_folder.is_stage(path):
        return stage_folder.read(path, which)
    if prefix := simclr_checkpoint.prefix(path):
        return simclr_checkpoint.read(prefix)
    return from_torch_file(torch_reader.load_file(path), path)


def import_torch(path: epath.PathLike) -> Any:
    need(f"{path}: writing this format, and nothing else,", "torch", "torch")
    import torch

    return torch


def from_torch_file(payload: Any, path: epath.PathLike) -> Contents:
    """The network in what a PyTorch file holds: a state dict, alone or as others wrap it."""
    if not isinstance(payload, Mapping):
        raise ValueError(f"{path}: expected a state dict, found a {type(payload).__name__}")
    if NETWORK in payload:
        return from_released(payload, path)
    if all(isinstance(payload.get(part), Mapping) for part in FADA):
        return from_fada(payload)
    found = {names: arrays for names, state in mappings_in(payload) if (arrays := tensors(state))}
    if not found:
        raise ValueError(
            f"{path}: expected a state dict, alone, below a name such as 'state_dict' or 'model', or as the released "
            f"code writes it; found entries {', '.join(map(str, payload)) or 'none'}"
        )
    taken = min(found, key=lambda names: (rank(names), -len(found[names])))
    beside = [".".join((*names, str(key))) for names, state in mappings_in(payload) for key, value in state.items()
              if not isinstance(value, Mapping) and not (names == taken and str(key) in found[taken])]  # fmt: skip
    others = [".".join(names) for names in found if names not in (taken, ()) and len(found[names]) > 1]
    notes = []
    if taken:
        too = f"; the file has {', '.join(repr(name) for name in others)}, too" if others else ""
        notes = [f"the network was taken from {'.'.join(taken)!r}{too}"]
    return Contents(found[taken], left_over=beside, notes=notes)


def from_fada(payload: Mapping) -> Contents:
    """The network of a checkpoint of FADA's code, which keeps backbone and head by themselves; its discriminator and
    optimizers are left over. Its images are RGB, less ImageNet's mean and over its deviation."""
    bare = [{name.removeprefix("module."): array for name, array in tensors(payload[part]).items()} for part in FADA]
    arrays = {name.removeprefix("backbone."): array for name, array in bare[0].items()}
    arrays |= {f"layer5.{name}": array for name, array in bare[1].items()}
    arrays |= foreign.as_arrays(*foreign.CONVENTIONS["imagenet"])
    beside = {name: value for name, value in payload.items() if name not in FADA}
    note = "backbone and head were taken from {!r} and {!r}, whose images are ImageNet's, as in FADA's code"
    return Contents(arrays, left_over=list(names_in(beside)), notes=[note.format(*FADA)])


def mappings_in(tree: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """All nested dictionaries, the outermost first, with their keys."""
    yield path, tree
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from mappings_in(value, (*path, str(key)))


def rank(names: tuple[str, ...]) -> int:
    """Place of a state dict below these keys among those that a network is looked for in: the least first."""
    if not names:
        return 0
    return min((WRAPPERS.index(name) + 1 for name in names if name in WRAPPERS), default=len(WRAPPERS) + 1)


def from_released(payload: Mapping, path: epath.PathLike) -> Contents:
    """The network of a released checkpoint; other networks in it (the discriminator) are left over."""
    network = payload[NETWORK]
    if not isinstance(network, Mapping) or not isinstance(network.get("model_state"), Mapping):
        raise ValueError(f"{path}: expected the network's state dict under '{NETWORK}', 'model_state'; found none")
    if digests.KEY in payload and payload[digests.KEY] != released_digest(payload):
        raise ValueError(f"{path} is damaged: its contents have changed since it was written")
    used = {"model_state", "objective_vectors"}
    beside = {NETWORK: {k: v for k, v in network.items() if k not in used}}
    beside |= {k: v for k, v in payload.items() if k not in (NETWORK, "iter", "best_iou", digests.KEY)}
    prototypes = tensors({"": network.get("objective_vectors")}).get("")
    step, best_miou = payload.get("iter"), payload.get("best_iou")
    return Contents(
        tensors(network["model_state"]),
        left_over=list(names_in(beside)),
        prototypes=None if prototypes is None or not prototypes.any() else prototypes,  # zeros: it never had any
        step=int(step) if step else None,
        best_miou=None if best_miou is None or np.isnan(best_miou) else float(best_miou),
    )


def released_digest(payload: Mapping) -> str:
    """The digest of a file in the authors' format that we write, which stands in it beside these entries."""
    network = payload[NETWORK]
    numbers = {name: np.array(payload[name]) for name in ("iter", "best_iou")}
    arrays = [tensors(network["model_state"]), tensors({"": network["objective_vectors"]}), numbers]
    return digests.of_json(list(map(digests.of_arrays, arrays)))


def tensors(state: Mapping) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name."""
    arrays = {str(name): value for name, value in state.items()}
    arrays = {name: value.numpy() if hasattr(value, "detach") else value for name, value in arrays.items()}
    return {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}


def names_in(tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all leaves of nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from names_in(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def write_released(weights: Weights, path: epath.PathLike) -> None:
    """Writes weights as the authors' code saves them, so that it can evaluate them and start from them.

    Its network is loaded strictly, with the counters of its batch normalisations (zero here, nothing reads them). Its
    prototypes are in the file as it writes them, zeros where there are none; it never reads them back from there. The
    file is in PyTorch's older format, which every version reads. Unknown: step 0, and a score that is not a number.

    Raises:
      ValueError: the authors' network has another head, or cannot be fed as these weights want it.
    """
    torch = import_torch(path)
    if weights.head != "released":
        raise ValueError(
            f"{path}: expected weights with the released head, which the authors' network has; found "
            f"{weights.head or 'no head'}; choose .npz or .safetensors"
        )
    if any((weights.arrays[name] != value).any() for name, value in INPUT_CONVENTION.items()):
        raise ValueError(
            f"{path}: the authors' code feeds RGB in [0, 1] and cannot feed what these weights expect "
            f"({'; '.join(f'{n} {weights.arrays[n]}' for n in INPUT_CONVENTION)}); "
            "choose .npz or .safetensors"
        )
    shapes = dataclasses.replace(weights.layout, auxiliary_head=NO_AUXILIARY).shapes()
    account(weights.arrays, shapes).check(path)
    state = OrderedDict()
    for name in shapes:
        state[name] = torch.from_numpy(np.array(weights.arrays[name]))
        if name.endswith(".running_var"):
            state[name.replace("running_var", COUNTER)] = torch.zeros((), dtype=torch.int64)
    prototypes = weights.prototypes
    if prototypes is None:
        prototypes = np.zeros((weights.classes, weights.layout.feature_channels), np.float32)
    network = {"model_state": state, "objective_vectors": torch.from_numpy(np.array(prototypes))}
    best_miou = float("nan") if weights.best_miou is None else weights.best_miou
    data = io.BytesIO()
    payload = {NETWORK: network, "iter": weights.step or 0, "best_iou": best_miou}
    payload |= {digests.KEY: released_digest(payload)}  # an entry that the authors' code does not look at
    torch.save(payload, data, _use_new_zipfile_serialization=False)
    write_atomically(path, data.getvalue())


def write_safetensors(weights: Weights, path: epath.PathLike) -> None:
    """Writes a safetensors file; step and score are in its metadata, as is how the network wants its images."""
    metadata = {
        "layout": "names of the released ProDA code, shapes of PyTorch",
        "input": "(RGB in [0, 1] - input.mean) / input.std",
    }
    metadata |= {name: repr(getattr(weights, name)) for name in FACTS if getattr(weights, name) is not None}
    arrays = {name: np.ascontiguousarray(array) for name, array in own_arrays(weights).items()}
    metadata |= {digests.KEY: safetensors_digest(metadata, arrays)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata))
