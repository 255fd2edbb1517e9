"""The network and the prototypes that a stage of ours left in its folder."""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from proda_jax.models.weights.contents import Contents
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.system import checkpoint_digests
from proda_jax.system.checkpoints import Checkpoints, in_short, on_host
from proda_jax.system.files import read_json

PROTOTYPES = "prototypes"  # part of the item 'training'


def is_stage(path: epath.Path) -> bool:
    return (path / "checkpoints").is_dir()


def read(path: epath.Path, which: str = "last") -> Contents:
    """The 'last' or 'best' network of a stage, its prototypes if it has any, and its score in result.json.

    Prototypes of classes never seen are zero, as in released files.

    Raises:
      ValueError: the stage has no checkpoint yet, or it is damaged.
    """
    checkpoints = Checkpoints(path / "checkpoints", writable=False)  # a run may be saving one
    step = checkpoints.step(which)
    checkpoints.close()
    if step is None:
        raise ValueError(f"{path}: expected a checkpoint of a stage under 'checkpoints'; it has none yet")
    folder = path.absolute() / "checkpoints" / str(step)
    try:
        network, prototypes = restore_checked(folder)
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        raise ValueError(f"checkpoint {folder} cannot be read ({in_short(error)}): use another one") from error
    if prototypes is not None:
        prototypes = np.where(prototypes["counts"][:, None] > 0, prototypes["vectors"], 0.0).astype(np.float32)
    result = path / "result.json"
    score = read_json(result, "delete it to do without its score").get(which, {}) if result.exists() else {}
    scored = score.get("step") == step and "miou" in score
    miou = score["miou"] / 100 if scored else None  # percent there
    return Contents(to_torch(network), prototypes=prototypes, step=step, best_miou=miou)


def restore_checked(checkpoint: epath.Path) -> tuple[Any, Any]:
    """The network of a checkpoint and its prototypes, or None, as they were written."""
    noted = checkpoint_digests.read(checkpoint)
    network, prototypes = restore(checkpoint / "network"), None
    if (checkpoint / "training").exists():  # a network that was taken from a file has no more than itself
        prototypes = restore(checkpoint / "training", PROTOTYPES)
    if noted is not None:
        checkpoint_digests.check(noted["arrays"]["network"], on_host(network))
        training = noted["arrays"].get("training", {})
        of_prototypes = {name: entry for name, entry in training.items() if name.startswith(f"{PROTOTYPES}.")}
        checkpoint_digests.check(of_prototypes, on_host({PROTOTYPES: prototypes}))
    return network, prototypes


def restore(item: epath.Path, part: str | None = None) -> Any:
    """An item of a checkpoint, or one part of it, as NumPy arrays; None where it has no such part.

    Its shapes come from the checkpoint, so that neither the configuration nor the devices that wrote it are needed.
    """
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(item).item_metadata.tree
        if part is not None:
            tree = {name: value for name, value in tree.items() if name == part}
            if not jax.tree.leaves(tree):
                return None
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(item, args=ocp.args.PyTreeRestore(tree, arguments, partial_restore=True))
    return restored if part is None else restored[part]
