"""The network and the prototypes that a stage of ours left in its folder."""

import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from proda_jax.models.weights.contents import Contents
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.system.checkpoints import Checkpoints


def is_stage(path: epath.Path) -> bool:
    return (path / "checkpoints").is_dir()


def read(path: epath.Path, which: str = "last") -> Contents:
    """The 'last' or 'best' network of a stage, its prototypes if it has any, and its score in result.json.

    Prototypes of classes never seen are zero, as in released files.

    Raises:
      ValueError: the stage has no checkpoint yet.
    """
    checkpoints = Checkpoints(path / "checkpoints", writable=False)  # a run may be saving one
    step = checkpoints.step(which)
    checkpoints.close()
    if step is None:
        raise ValueError(f"{path}: expected a checkpoint of a stage under 'checkpoints'; it has none yet")
    folder = path.absolute() / "checkpoints" / str(step)
    prototypes = None
    if (folder / "training").exists():  # a network that was taken from a file has no more than itself
        prototypes = restore(folder / "training", "prototypes")
    if prototypes is not None:
        prototypes = np.where(prototypes["counts"][:, None] > 0, prototypes["vectors"], 0.0).astype(np.float32)
    result = path / "result.json"
    score = json.loads(result.read_text()).get(which, {}) if result.exists() else {}
    scored = score.get("step") == step and "miou" in score
    miou = score["miou"] / 100 if scored else None  # percent there
    return Contents(to_torch(restore(folder / "network")), prototypes=prototypes, step=step, best_miou=miou)


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
