"""ProDA in JAX: `proda --config=demo --workdir=/tmp/proda_demo`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow, which reads the data, greets with a page of notes
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # and this is the last of them

import importlib

from absl import app, logging

# JAX and what needs it is imported late, so that wrong flags are refused at once and there is a sign of life meanwhile
from proda_jax.cli import flags, modes
from proda_jax.system import command, memory
from proda_jax.system.progress import phase


def main(arguments: list[str]) -> None:
    """Does what --mode says."""
    logging.set_verbosity(logging.WARNING)
    flags.check_mode()
    if flags.MODE.value == "report":
        return modes.write_report(arguments[1:])
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    if flags.MODE.value == "status":
        return modes.show_status()
    flags.check_hosts()
    config = flags.choose_network() if flags.MODE.value in ("predict", "export") else flags.read_config()
    if flags.MODE.value == "train":
        modes.check_training(config)
    elif flags.MODE.value == "evaluate":
        modes.check_evaluation(config)
    memory.begin_with_huge_pages()
    with phase("loading JAX"):
        importlib.import_module("proda_jax.run.experiment")
    if flags.DISTRIBUTED.value or flags.COORDINATOR.value:
        from proda_jax.system import hosts

        hosts.start(flags.COORDINATOR.value, flags.HOSTS.value, flags.HOST.value)
    if flags.MODE.value in ("predict", "export"):
        modes.use_network(config)
    elif flags.MODE.value == "evaluate":
        modes.evaluate(config)
    elif flags.MODE.value == "study":
        modes.study(config)
    else:
        modes.train(config)


def run() -> None:
    """The command, from its flags to its exit status."""
    command.run(main, __name__, flags.__name__, flags.parse)
