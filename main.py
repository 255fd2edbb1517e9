"""ProDA in JAX: `python main.py --config=configs/demo.py --workdir=/tmp/proda_demo`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow, which reads the data, greets with a page of notes
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # and this is the last of them

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from proda_jax import experiment, settings
from proda_jax.sources import Sources

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, such as configs/gta5.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run makes; may be in a bucket.")


def main(arguments: list[str]) -> None:
    """Runs the configuration's stages; what is done already is skipped."""
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    config, workdir = _CONFIG.value, epath.Path(_WORKDIR.value)
    settings.check(config)
    settings.use_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    results = experiment.Experiment(config, workdir, Sources(config, workdir)).run()
    print(experiment.table(results))
    print(f"results: {workdir / 'results.json'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
