"""What a checkpoint says of itself: type, shape and digest of each array, and the digests of its card and its score.

Orbax has no checksum over arrays (0.12.8): a bit that flips in one of its files is restored without a word. So a
checkpoint has one more item, which Orbax commits together with the others. Neither JAX nor Orbax are needed to read it.
"""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from proda_jax.system import digests
from proda_jax.system.files import is_remote, json_text, parse_json

ITEM, FILE = "digest", "digest.json"
MARK = {"digest": ITEM}  # in the card of checkpoints that have the item: without it they are no older version
METADATA = "_CHECKPOINT_METADATA"  # Orbax's file, in which it keeps the card

_INDEX_BYTES = 10**8  # at most, of a database's index that are kept while its arrays are read

Account = dict[str, list]  # of the arrays of an item, by name: type, shape, digest
Arrays = Mapping[str, np.ndarray]


def account(arrays: Arrays) -> Account:
    """What a checkpoint notes of the arrays of an item."""
    with ThreadPoolExecutor(min(len(arrays), os.cpu_count() or 1) or 1) as pool:
        found = pool.map(digests.of_array, arrays.values())
        return {
            name: [array.dtype.name, list(array.shape), digest]
            for (name, array), digest in zip(arrays.items(), found, strict=True)
        }


def text(items: Mapping[str, Arrays], card: Mapping[str, Any], score: Mapping[str, float] | None) -> str:
    """The contents of `FILE`.

    Args:
      items: arrays by name, by the names of their items.
      card: what stands beside them, with `MARK`.
      score: the metrics beside them, if there are any.
    """
    accounts = {name: account(arrays) for name, arrays in items.items()}
    return json_text({"arrays": accounts, "card": digests.of_json(card), "score": digests.of_json(score)}, indent=None)


def card_in(checkpoint: epath.PathLike) -> dict[str, Any]:
    """What Orbax keeps beside the arrays, the network's card and `MARK`; empty in checkpoints of older versions.

    Raises:
      digests.Damaged: it cannot be read.
    """
    path = epath.Path(checkpoint) / METADATA
    try:
        return json.loads(path.read_text())["custom_metadata"] or {} if path.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise digests.Damaged(f"{METADATA}: {error}") from None


def read(checkpoint: epath.PathLike) -> dict[str, Any] | None:
    """What a checkpoint says of itself, {'arrays': {item: Account}, 'card', 'score'}; None in one of an older version.

    Raises:
      digests.Damaged: that is damaged or gone, or the card is damaged.
    """
    path, card = epath.Path(checkpoint) / ITEM / FILE, card_in(checkpoint)
    if not path.exists():
        if MARK.items() <= card.items():
            raise digests.Damaged(f"{ITEM}/{FILE} is missing")
        return None
    try:
        found = parse_json(path.read_text())
        accounts, same = found["arrays"], found["card"] == digests.of_json(card)
    except (ValueError, KeyError, TypeError) as error:
        raise digests.Damaged(f"{ITEM}/{FILE}: {error}") from None
    if not same or not accounts:
        raise digests.Damaged(f"{METADATA}: the card has changed since it was written")
    return found


def forms(noted: Mapping[str, Any], item: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each array of an item, of what `read` gives; none without the item."""
    return {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in noted["arrays"].get(item, {}).items()}


def check(noted: Account, arrays: Arrays) -> None:
    """Compares the arrays of an item with what was noted of them.

    Raises:
      digests.Damaged: some are not what was written; with their names.
    """
    found = account(arrays)
    if differing := [name for name in noted | found if noted.get(name) != found.get(name)]:
        some = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        raise digests.Damaged(f"{len(differing)} of {len(noted)} arrays have changed since it was written: {some}")


def check_all(checkpoint: epath.PathLike) -> None:
    """Reads a checkpoint's arrays as they lie there, and compares them, unless it is of an older version.

    Raises:
      digests.Damaged: some are not what was written.
    """
    noted = read(checkpoint)
    for item, arrays in (noted["arrays"] if noted is not None else {}).items():
        try:
            stored = stored_arrays(epath.Path(checkpoint) / item, arrays)
        except Exception as error:  # what a damaged file leads to depends on where it is damaged
            raise digests.Damaged(f"{item}: {str(error).splitlines()[0][:160]}") from error
        check(arrays, stored)


def stored_arrays(item: epath.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays of an item by TensorStore alone, with which Orbax writes them: a Zarr array each in an OCDBT database."""
    import tensorstore

    # one for all, so that the database's index is read once and not for each array
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})
    base = f"{item}/" if is_remote(item) else f"file://{os.path.abspath(item)}/"
    specs = {name: {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": name}} for name in names}
    stores = {name: tensorstore.open(spec, open=True, read=True, context=context) for name, spec in specs.items()}
    values = {name: store.result().read() for name, store in stores.items()}
    return {name: np.asarray(value.result()) for name, value in values.items()}
