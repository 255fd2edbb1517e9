"""Compiled programs are kept for the next start."""

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from proda_jax.run import settings


def test_a_small_program_is_kept_too(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        settings.use_compilation_cache()
        assert jax.jit(lambda x: 3 * x + 1)(np.float32(2)) == 7
        assert [path for path in tmp_path.iterdir() if path.name.startswith("jit_")]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
