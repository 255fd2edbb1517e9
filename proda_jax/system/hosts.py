"""Several hosts, each a process of this program with some of the devices: who they are, where they wait for each other.

Every host runs the same code on its share of each batch. Files that all would write alike are written by the first.
"""

import itertools

import jax
import numpy as np
from jax.experimental import multihost_utils

from proda_jax.system import progress

_looks = itertools.count(1)


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Connects the hosts; before anything else is asked of JAX.

    Args:
      coordinator: address and port of the first host; with `count` and `index` it may be left out where JAX finds them
        by itself: on Cloud TPU, under SLURM, Open MPI and Kubernetes.
      count: number of hosts.
      index: this host's number.
    """
    with progress.phase("waiting for the other hosts"):
        jax.distributed.initialize(coordinator, count, index)
    if not is_first():
        progress.silence()


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


def is_preempted() -> bool:
    """Whether JAX has heard that a machine is about to be taken away; a single host hears of it by a signal.

    Hosts ask equally often, as they take steps together, and all get the answer at the same time of asking. JAX wants
    numbers that grow by one for that, whatever is being done.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(next(_looks))


def as_the_first_sees(seen: bool) -> bool:
    """What the first host sees of a shared folder, for all: others may see it late, and would go other ways."""
    if jax.process_count() == 1:
        return seen
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(seen)))


def everywhere(done: bool) -> bool:
    """Whether something was done on every host."""
    return done if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(done))))


def largest(numbers: np.ndarray) -> np.ndarray:
    """The largest of each number over all hosts, of the same shape."""
    return numbers if jax.process_count() == 1 else np.max(multihost_utils.process_allgather(numbers), axis=0)
