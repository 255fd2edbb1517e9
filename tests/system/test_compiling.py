"""Compiled programs are kept for the next start, and the memory that compiling took is not."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from proda_jax.system import compiling, memory


@pytest.fixture
def kept(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compiling.set_up()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_small_program_is_kept_too(kept):
    assert jax.jit(lambda x: 3 * x + 1)(np.float32(2)) == 7
    assert [path for path in kept.iterdir() if path.name.startswith("jit_")]


@pytest.mark.parametrize("long, times", [(0.0, 1), (1e9, 0)])
def test_memory_is_given_back_after_a_long_compilation(kept, monkeypatch, long, times):
    given = []
    monkeypatch.setattr(compiling, "LONG", long)
    monkeypatch.setattr(memory, "give_back", lambda: given.append(True))
    compiling.set_up()  # as a second command in one process: once is enough
    np.testing.assert_allclose(jax.jit(lambda x: 5 * x + long)(np.float32(2)), 10 + long)
    assert len(given) == times
