"""The core trains where TensorFlow is not installed."""

import os
import pathlib
import subprocess
import sys
import textwrap

import jax

ROOT = pathlib.Path(__file__).parents[2]


def test_training_in_memory_needs_no_tensorflow(tmp_path):
    """In a process in which TensorFlow, TFDS and clu cannot be imported."""
    script = f"""
        import sys
        for name in ("tensorflow", "tensorflow_datasets", "clu"):
            sys.modules[name] = None
        import jax
        from proda_jax.configs import base
        from proda_jax.run import settings
        from proda_jax.run.experiment import Experiment
        from proda_jax.run.sources import Sources
        from tiny import block_source, tiny_config, tiny_stage

        config = tiny_config()
        config.stages = ("source",)
        config.source = tiny_stage(base.supervised("random", 1))
        settings.check(config)
        jax.config.update("jax_compilation_cache_dir", {jax.config.jax_compilation_cache_dir!r})
        given = {{"source": block_source(4, 0), "target": block_source(4, 1), "validation": block_source(3, 2)}}
        sources = Sources(config, {str(tmp_path)!r}, given=given)
        print(Experiment(config, {str(tmp_path)!r}, sources, devices_used=1).run()["stages"][0]["last"]["step"])
        """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "1"
