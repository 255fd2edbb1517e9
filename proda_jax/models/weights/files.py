"""Weights in files: read from every format that there is, written as .npz.

A file of weights holds a network (or its backbone), how it wants its images, and, where it is known, prototypes, step
and score. Formats of PyTorch and TensorFlow are read by `torch_files`, which is imported only for them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
from absl import logging
from etils import epath

from proda_jax.models import backbones
from proda_jax.models.weights import pretrained_folder
from proda_jax.models.weights.account import Account, account
from proda_jax.models.weights.contents import (
    FACTS,
    Contents,
    Weights,
    file_bytes,
    from_own_arrays,
    own_arrays,
    safetensors_digest,
)
from proda_jax.models.weights.foreign import matrix, released_names, with_input_convention
from proda_jax.models.weights.layout import read_off
from proda_jax.models.weights.torch_names import INPUT_CONVENTION, to_torch
from proda_jax.system import digests
from proda_jax.system.files import npz, parse_npz, write_atomically

SAFETENSORS_TYPES = {  # NumPy's type of each of the format's that weights come in
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


def load(path: epath.PathLike, *, allow_missing: Sequence[str] = (), **expected) -> Weights:
    """The weights in a file; see `read` for what it may be and for `expected`.

    Args:
      path: the file.
      allow_missing: names, or patterns such as 'layer4.*', of arrays that may be missing.

    Raises:
      ValueError: as `read`, and for arrays that are missing (a classifier may be) or have a wrong shape.
    """
    weights, result = read(path, **expected)
    logging.info("%s: %s", path, result.text())
    result.check(path, allow_missing)
    if broken := [name for name, array in weights.arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"{path} holds numbers that are not finite, in {', '.join(broken[:5])}: use another file")
    return weights


def read(
    path: epath.PathLike,
    *,
    depths: tuple[int, ...] | None = None,
    width: int | None = None,
    classes: int | None = None,
    images: str | None = None,
    which: str = "last",
) -> tuple[Weights, Account]:
    """The weights in a file and an account of every array in it and of every one that should be.

    Args:
      path: .npz or .safetensors; a PyTorch file of torchvision's, the released, SimCLRv2's or plain DeepLabv2's
        names; a TensorFlow checkpoint of SimCLRv2; the folder of a stage, or one that `save_pretrained` wrote. May be
        in a bucket.
      depths, width, classes: what the network should have; by default what the arrays' names and shapes say.
      images: how the network wants its images where the file itself does not say: 'rgb01', 'imagenet', 'bgr_mean' or
        numbers, see `foreign.convention`; by default 'bgr_mean' for plain DeepLabv2 networks, and for all others what
        the backbone's published weights want.
      which: 'last' or 'best' checkpoint of a stage's folder.

    Returns:
      The weights, without what is missing or has a wrong shape, and the account.

    Raises:
      ValueError: the file does not exist, cannot be read, holds no network, or would run code.
    """
    contents = read_contents(path, which)
    arrays, left_over, notes = released_names(contents.arrays, path)
    notes = [*contents.notes, *notes]
    found = read_off({name: array.shape for name, array in arrays.items()})
    if found.backbone is None:
        some = ", ".join(list(contents.arrays)[:5]) or "none"
        names = " or ".join(dict.fromkeys(next(iter(row.shapes()))[0] for row in backbones.families()))
        raise ValueError(
            f"{path}: expected arrays of a backbone under PyTorch's names, such as {names}; found {some}"
        )
    sizes = {"depths": depths, "width": width}
    wanted = dataclasses.replace(found.backbone, **{name: size for name, size in sizes.items() if size is not None})
    layout = dataclasses.replace(found, backbone=wanted, classes=found.classes if classes is None else classes)
    if wanted != found.backbone:
        notes.append(f"the file looks like depths {found.backbone.depths} and width {found.backbone.width}")
    plain = layout.head == "deeplab" or any("Scale." in name for name in contents.arrays)
    guessed = not images and not any(name in arrays for name in INPUT_CONVENTION)
    arrays, note = with_input_convention(arrays, images, plain, layout.backbone, path)
    expected = layout.shapes() | dict.fromkeys(INPUT_CONVENTION, (3,))
    if contents.prototypes is not None:
        arrays["prototypes"] = contents.prototypes
        sized = layout.head in ("released", "daformer", "deeplabv3plus")  # others follow the backbone's channels
        expected["prototypes"] = (layout.classes, layout.feature_channels if sized else None)
    arrays = {name: matrix(array) if len(expected.get(name, ())) == 2 else array for name, array in arrays.items()}
    if whole := [name for name in expected if name in arrays and arrays[name].dtype.kind not in "f"]:
        raise ValueError(f"{path}: {whole[0]} holds numbers of type {arrays[whole[0]].dtype}, as quantised networks "
                         "have them: expected floating point; use the file that it was made from")  # fmt: skip
    result = account(
        arrays,
        expected,
        optional=layout.classifier(),
        left_over=[*left_over, *contents.left_over],
        notes=[*notes, note],
    )
    taken = {name: np.ascontiguousarray(arrays[name], np.float32) for name in result.taken}
    prototypes = taken.pop("prototypes", None)
    return Weights(taken, prototypes, contents.step, contents.best_miou, result.notes, guessed), result


def read_contents(path: epath.PathLike, which: str = "last") -> Contents:
    """What a file of any format holds, under its own names."""
    file = epath.Path(path)
    if file.suffix == ".npz":
        return read_npz(file)
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    if pretrained_folder.is_pretrained(file):
        return Contents(to_torch(pretrained_folder.as_variables(pretrained_folder.read(file)[1])))
    from proda_jax.models.weights import torch_files  # a program that brings its own .npz needs none of what that reads

    return torch_files.read(path, which)


def read_npz(path: epath.Path) -> Contents:
    data = file_bytes(path)
    try:
        return from_own_arrays(parse_npz(data))
    except Exception as error:  # what a damaged archive leads to depends on where it is damaged
        raise ValueError(f"{path}: expected an .npz file of plain arrays, undamaged ({error})") from error


def read_safetensors(path: epath.Path) -> Contents:
    data = file_bytes(path)
    try:
        arrays = {name: as_array(view) for name, view in safetensors.deserialize(data)}
    except (safetensors.SafetensorError, UnknownType) as error:
        raise ValueError(f"{path}: expected a safetensors file ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        metadata = digests.taken(header.get("__metadata__", {}), lambda rest: safetensors_digest(rest, arrays))
    except digests.Damaged as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    facts = {name: float(value) for name, value in metadata.items() if name in FACTS}
    return from_own_arrays(arrays | {name: np.array(value) for name, value in facts.items()})


class UnknownType(ValueError):
    """An array is of a type that weights are not kept in here."""


def as_array(view: Mapping[str, Any]) -> np.ndarray:
    """A tensor of a safetensors file: {'dtype', 'shape', 'data'}; bfloat16, for which NumPy has no type, as float32."""
    kind = view["dtype"]
    if kind == "BF16":
        return (np.frombuffer(view["data"], "<u2").astype(np.uint32) << 16).view(np.float32).reshape(view["shape"])
    if kind not in SAFETENSORS_TYPES:
        raise UnknownType(f"an array of type {kind}, expected one of {', '.join((*SAFETENSORS_TYPES, 'BF16'))}")
    return np.frombuffer(view["data"], SAFETENSORS_TYPES[kind]).reshape(view["shape"])


def save(weights: Weights, path: epath.PathLike) -> None:
    """Writes an .npz file that `load` reads; an older one of that name is replaced once the new one is complete."""
    facts = {name: np.array(getattr(weights, name)) for name in FACTS if getattr(weights, name) is not None}
    write_atomically(path, npz(**own_arrays(weights), **facts))


