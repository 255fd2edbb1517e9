"""Trees of arrays as checkpoints see them: names, types, shapes, and what of them is saved."""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Form = tuple[str, tuple[int, ...]]  # type and shape of an array


def abstract(tree: Any) -> Any:
    """Shapes, types and placement in place of the arrays."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, as Orbax calls them: 'params.backbone.conv1.kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def forms(tree: Any) -> dict[str, Form]:
    """Type and shape of each array, or of what stands for one; those of a random key are its data's."""
    found = {}
    for name, leaf in named(tree).items():
        if is_key(leaf):
            leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        found[name] = (np.dtype(leaf.dtype).name, tuple(leaf.shape))
    return found


def one_replica(leaf: Any) -> Any:
    """What of a replicated array is saved: that of the first device, and not a part from each, as is Orbax's way.

    So the digest is of what is saved, bit by bit, even if devices should disagree. Of several hosts the first writes;
    arrays that are on one of its devices alone Orbax refuses, arrays in its memory it takes.
    """
    if not isinstance(leaf, jax.Array):
        return leaf
    if jax.process_count() == 1:
        return leaf.addressable_shards[0].data
    return leaf if is_key(leaf) else np.asarray(leaf.addressable_data(0))


def on_host(tree: Any) -> dict[str, np.ndarray]:
    """The values of replicated arrays by their names; they outlive arrays whose memory is given to others.

    Those of a CPU's arrays are not copied: JAX does not give memory away that NumPy holds.
    """
    found = {}
    for name, leaf in named(tree).items():
        leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
        found[name] = np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    return found


def is_key(leaf: Any) -> bool:
    """Whether an array, or what stands for one, is a random key."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
