"""What stays of compiling: programs, for the next start, and not the memory that it took."""

import functools

import jax

from proda_jax.system import memory
from proda_jax.system.files import cache_folder

EVENT = "/jax/core/compile/backend_compile_duration"
LONG = 1.0  # seconds; giving memory back takes a few tenths


def set_up() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another.

    The small ones, too, of which a run has dozens, and which JAX would compile at each start. After each of the
    others, memory that the compiler has freed goes back to the system: on a CPU, a gigabyte for a step, which the C
    library would keep for the next one.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _listen()


@functools.cache  # once a process
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_after)


def _after(event: str, seconds: float, **_) -> None:
    if event == EVENT and seconds >= LONG:
        memory.give_back()
