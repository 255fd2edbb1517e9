"""Several hosts, each a process of this program with some of the devices: who they are, where they wait for each other.

Every host runs the same code on its share of each batch. Files that all would write alike are written by the first.
"""

import jax
from jax.experimental import multihost_utils


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Connects the hosts; before anything else is asked of JAX.

    Args:
      coordinator: address and port of the first host; with `count` and `index` it may be left out where JAX finds them
        by itself: on Cloud TPU, under SLURM, Open MPI and Kubernetes.
      count: number of hosts.
      index: this host's number.
    """
    jax.distributed.initialize(coordinator, count, index)


def share() -> tuple[int, int]:
    """(index, count): which share of each batch this host reads."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this host writes what all would write alike, and shows progress."""
    return jax.process_index() == 0


def wait(purpose: str) -> None:
    """Waits until all hosts are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)
