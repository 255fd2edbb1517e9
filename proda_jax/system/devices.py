"""One place that knows about several devices: the mesh, how a step is mapped over it, how batches reach it."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "batch"  # the mapped axis: each device holds a share of the batch


def make_mesh(devices: int | None = None) -> Mesh:
    """A one-axis mesh over the first `devices` devices (all of them by default)."""
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def in_words() -> str:
    """All devices, over all hosts, as a person says it: '8 devices (NVIDIA H200)'."""
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return f"{count} device{'s' if count > 1 else ''}{hosts} ({kind})"


def check_batch_size(batch_size: int, mesh: Mesh, micro_batches: int) -> None:
    """Refuses a global batch that the devices and their micro-batches cannot share evenly.

    Raises:
      ValueError: with the sizes that would work.
    """
    devices_used = mesh.devices.size
    count = devices_used * micro_batches
    if batch_size < 1 or batch_size % count:
        below, above = batch_size // count * count, (batch_size // count + 1) * count
        options = " or ".join(str(size) for size in (below, above) if size > 0)
        parts = f" with {micro_batches} micro-batches each" if micro_batches > 1 else ""
        raise ValueError(
            f"config.batch_size = {batch_size} does not divide over {devices_used} devices{parts}; choose {options}"
        )


def map_step(step: Callable, mesh: Mesh, kinds: str, out: str, donate: tuple[int, ...] = ()) -> Callable:
    """A per-device function over all devices of the mesh, compiled.

    This is what `jax.pmap` is since JAX 0.8, except that replicated values are held once and not stacked. Asked for
    again, it is the same one: stages and seeds that compute the same share what was traced and compiled.

    Args:
      step: written for one device's share, with `AXIS` as named axis: a function, or a `functools.partial` of one with
        arguments that can be hashed, and so are no arrays.
      mesh: the devices.
      kinds: a letter for each argument: 'r' replicated, 'b' split along its first dimension (the batch).
      out: the same for each result.
      donate: arguments whose memory the results may take over.
    """
    parts = (step, (), ())
    if isinstance(step, functools.partial):
        parts = (step.func, step.args, tuple(sorted(step.keywords.items())))
    return _mapped(*parts, mesh, kinds, out, donate)


@functools.lru_cache(maxsize=64)
def _mapped(
    function: Callable, arguments: tuple, keywords: tuple[tuple[str, Any], ...], mesh: Mesh, kinds: str, out: str,
    donate: tuple[int, ...],
) -> Callable:  # fmt: skip
    """See `map_step`; remembered by what the function is made of, as a `functools.partial` is equal to itself alone."""
    step = functools.partial(function, *arguments, **dict(keywords))
    specs = {"r": P(), "b": P(AXIS)}
    in_specs, out_specs = (tuple(specs[kind] for kind in letters) for letters in (kinds, out))
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=in_specs, out_specs=out_specs if len(out) > 1 else out_specs[0], check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate)


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of what every device holds a copy of."""
    return NamedSharding(mesh, P())


def split(mesh: Mesh) -> NamedSharding:
    """Placement of what is split over the devices along its first dimension: batches."""
    return NamedSharding(mesh, P(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of `tree` on every device, in buffers of its own (so that it can be donated)."""
    return _replicate(mesh)(tree)


@functools.lru_cache(maxsize=8)
def _replicate(mesh: Mesh) -> Callable:
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=replicated(mesh))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's share of a batch (NumPy arrays) as global arrays split over the devices."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def local_rows(values: jax.Array) -> np.ndarray:
    """This host's part of an array that is split along its first dimension."""
    shards = sorted(values.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def prefetch(batches: Iterable[Any], mesh: Mesh, ahead: int = 2) -> Iterator[Any]:
    """Batches on the devices, `ahead` of them on their way while one is computed on."""
    iterator, queue = iter(batches), collections.deque()
    for batch in itertools.islice(iterator, ahead):
        queue.append(put_batch(batch, mesh))
    while queue:
        yield queue.popleft()
        for batch in itertools.islice(iterator, 1):
            queue.append(put_batch(batch, mesh))


def block_on_cpu(values: Any) -> Any:
    """The values; on a CPU, once they are there: virtual devices can dead-lock when many steps wait in line."""
    return jax.block_until_ready(values) if jax.default_backend() == "cpu" else values
