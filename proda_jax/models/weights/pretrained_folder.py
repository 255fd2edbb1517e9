"""A network for others: its variables as safetensors, a card with their digest and its own, a page for people."""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import safetensors.numpy
from etils import epath

from proda_jax.system.files import json_text, read_json, write_together
from proda_jax.system.stand_ins import stand_in

WEIGHTS, PAGE, CARD = "model.safetensors", "README.md", "card.json"
OURS = {WEIGHTS, PAGE, CARD}
FORMAT = 1  # counts up where a program that reads this one could no longer read the folder
AGAIN = "fetch or write the folder again"


def is_pretrained(path: epath.PathLike) -> bool:
    """Whether a folder is one of these, be it damaged."""
    return (epath.Path(path) / WEIGHTS).is_file()


def check_free(folder: epath.PathLike) -> None:
    """Refuses a folder that holds something else; hidden files, such as Git's, are nobody's concern.

    Raises:
      ValueError: naming what is there.
    """
    folder = epath.Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    unfinished = tuple(f"{name}." for name in OURS)  # left by a program that was killed
    held = {name for name in names if not name.startswith((".", *unfinished))}
    if held and not {WEIGHTS, CARD} <= held <= OURS:
        raise ValueError(f"{folder} holds something else ({', '.join(sorted(held)[:5])}): name a new or an empty "
                         "folder, or one with a pretrained network")  # fmt: skip


def write(folder: epath.PathLike, variables: Mapping, card: Mapping[str, Any], page: str) -> None:
    """Writes a network, whole or not at all, in place of one that the folder holds.

    Args:
      folder: made if need be; may be in a bucket.
      variables: {'params': ..., 'batch_stats': ...}; written in float32 under their paths, joined by '.'.
      card: JSON values; the format's version and the digest of the weights are added.
      page: Markdown.

    Raises:
      ValueError: the folder holds something else.
      NotWritten: with the system's reason.
    """
    check_free(folder)
    named = flax.traverse_util.flatten_dict(flax.core.unfreeze(variables), sep=".")
    # safetensors takes an array's memory as it lies there, whatever its strides say
    arrays = {name: np.asarray(value, np.float32, order="C") for name, value in named.items()}
    data = safetensors.numpy.save(arrays, {"format": "flax"})
    card = {"format": FORMAT} | dict(card) | {"sha256": hashlib.sha256(data).hexdigest()}
    write_together(folder, {WEIGHTS: data, PAGE: page.encode(errors="replace"), CARD: json_text(card)})


def read(folder: epath.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The card, and the variables' arrays by their names, of a folder that `write` wrote.

    Raises:
      ValueError: the card is missing, damaged or of another format, or the weights are not those that it is of.
    """
    path = epath.Path(folder) / WEIGHTS
    card, data = read_card(folder), path.read_bytes()
    if reason := stand_in(data):
        raise ValueError(f"{path}: expected weights, and {reason}")
    if hashlib.sha256(data).hexdigest() != card.get("sha256"):
        raise ValueError(f"{path} is damaged, or not the file that {CARD} is of (its {len(data)} bytes have another "
                         f"SHA-256): {AGAIN}")  # fmt: skip
    try:
        return card, safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file ({error}): {AGAIN}") from error


def read_card(folder: epath.PathLike) -> dict[str, Any]:
    """The card alone; errors as of `read`."""
    path = epath.Path(folder) / CARD
    if not path.exists():
        raise ValueError(f"{path} is missing, without which nobody knows what network {WEIGHTS} holds: {AGAIN}; where "
                         f"it is another program's, name {path.with_name(WEIGHTS)} as a file of weights")  # fmt: skip
    card = read_json(path, AGAIN)
    if not isinstance(card, dict) or "format" not in card:
        raise ValueError(f"{path} is no card of a pretrained network: {AGAIN}")
    if card["format"] != FORMAT:
        raise ValueError(f"{path} is of format {card['format']!r}, expected {FORMAT}: a newer version of this program "
                         "reads it")  # fmt: skip
    return card


def as_variables(arrays: Mapping[str, np.ndarray]) -> dict:
    """{'params': ..., 'batch_stats': ...} of arrays by their names."""
    return flax.traverse_util.unflatten_dict(arrays, sep=".")
