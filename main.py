"""ProDA in JAX: `python main.py --config=configs/demo.py --workdir=/tmp/proda_demo`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow, which reads the data, greets with a page of notes
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # and this is the last of them

import contextlib
import importlib
import json
import sys

import ml_collections
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

# JAX and what needs it is imported late, so that wrong flags are refused at once and there is a sign of life meanwhile
from proda_jax.system import paths
from proda_jax.system.files import alone, cache_folder, check_writable, write_atomically
from proda_jax.system.interruption import EXIT_CODE, Interruption, Stopped
from proda_jax.system.progress import phase, say
from proda_jax.system.refusals import without_traceback

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, such as configs/gta5.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run makes; may be in a bucket.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "status", "predict", "export", "report", "study"],
    "train: run the stages. status: say what a workdir holds and how its run is doing, and change nothing. evaluate: "
    "score a network on the validation images. predict: label images and videos with it. export: write it for "
    "TensorFlow or StableHLO. The network is one of the workdir, or that in config.init_from. report: write the page "
    "about a workdir, or with --compare about several. study: run the rows of one of the paper's "
    "tables over several seeds, or with --sweep the values of a setting.",
)  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "predict, export: folder for the results.")
_STAGE = flags.DEFINE_string(
    "stage", None, "evaluate, predict, export: which stage's network; default: that of the last complete one."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", None, ["last", "best"], "evaluate, predict, export: which network of the stage; default: the last, "
    "for evaluate the one that config.handover names.",
)
_RESIZE = flags.DEFINE_integer(
    "resize", None, "predict, export: width at which images are predicted; 0: their own; default: that of training."
)
_SCALES = flags.DEFINE_list("scales", ["1"], "predict, export: relative sizes whose predictions are averaged.")
_FLIP = flags.DEFINE_bool("flip", False, "predict, export: average with the mirror image's prediction.")
_INPUT = flags.DEFINE_string("input", None, "predict: image, video, folder of them, or a pattern like 'photos/*.png'.")
_WRITE = flags.DEFINE_list(
    "write", ["ids", "colors", "overlays"], "predict: what is written: ids, colors, overlays, confidence."
)
_WINDOW = flags.DEFINE_integer(
    "window", None, "predict: side, in pixels, of the windows that larger images are predicted in; default: 2048, for "
    "images of more than four million pixels.",
)  # fmt: skip
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "predict: images that a device predicts at once.")
_FORMAT = flags.DEFINE_enum("format", "savedmodel", ["savedmodel", "stablehlo"], "export: what is written.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts, which JAX finds by itself: Cloud TPU pods, SLURM, Open MPI, Kubernetes."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: address and port of the first of them.")
_HOSTS = flags.DEFINE_integer("hosts", None, "With --coordinator: how many there are.")
_HOST = flags.DEFINE_integer("host", None, "With --coordinator: this one's number, from 0.")
_SWEEP = flags.DEFINE_string(
    "sweep", None, "study: a setting and its values, such as 'stage1.temperature=0.5,1,2', with any configuration."
)
_SEEDS = flags.DEFINE_list("seeds", None, "study: in place of the study's own, such as 0,1,2.")
_COMPARE = flags.DEFINE_list("compare", None, "With --mode=report: workdirs to set side by side.")


def main(arguments: list[str]) -> None:
    """Does what --mode says."""
    logging.set_verbosity(logging.WARNING)
    if _MODE.value == "report":
        return write_report(arguments[1:])
    if _COMPARE.value:
        raise app.UsageError("--compare is for --mode=report")
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    if _MODE.value == "status":
        return show_status()
    check_hosts()
    if _INPUT.value is not None and _MODE.value != "predict":
        raise app.UsageError("--input is what --mode=predict labels")
    config = choose_network() if _MODE.value in ("predict", "export") else read_config()
    with phase("loading JAX"):
        importlib.import_module("proda_jax.run.experiment")
    if _DISTRIBUTED.value or _COORDINATOR.value:
        from proda_jax.system import hosts

        hosts.start(_COORDINATOR.value, _HOSTS.value, _HOST.value)
    if _MODE.value in ("predict", "export"):
        use_network(config)
    elif _MODE.value == "evaluate":
        evaluate(config)
    elif _MODE.value == "study":
        study(config)
    else:
        train(config)


def parse(arguments: list[str]) -> list[str]:
    """Parses the command line; settings without a configuration would be called unknown flags."""
    names = [argument.lstrip("-").split("=")[0] for argument in arguments[1:] if argument.startswith("-")]
    if "config" not in names and (settings := [name for name in names if name.startswith("config.")]):
        sys.exit(f"error: --{settings[0]} needs --config beside it, the configuration that it changes")
    return paths.parse(arguments)


def check_hosts() -> None:
    """Refuses flags of several hosts that do not go together, before each would train alone."""
    given = (_HOSTS.value, _HOST.value)
    if _MODE.value in ("predict", "export") and (_COORDINATOR.value or _DISTRIBUTED.value):
        raise app.UsageError(f"--mode={_MODE.value} is for one host: start it on each, with a share of the files")
    if _COORDINATOR.value and None in given:
        raise app.UsageError("--coordinator needs --hosts, how many there are, and --host, this one's number from 0")
    if given != (None, None) and not (_COORDINATOR.value or _DISTRIBUTED.value):
        raise app.UsageError("--hosts and --host need --coordinator, address and port of the first host")
    if None not in given and not 0 <= _HOST.value < _HOSTS.value:
        raise app.UsageError(f"--host={_HOST.value} is not one of {_HOSTS.value} hosts, which are numbered from 0")


def read_config() -> ml_collections.ConfigDict:
    """The configuration that --config names, with the settings given beside it; to evaluate, the workdir's own does."""
    try:
        config = _CONFIG.value
    except OSError as error:
        raise app.UsageError(f"--config: {error}") from None
    if config is None and _MODE.value == "evaluate" and _WORKDIR.value:
        from proda_jax.run.provenance import read_configuration

        return read_configuration(_WORKDIR.value)
    if config is None:
        raise app.UsageError("--config is needed: a configuration, such as configs/demo.py")
    return config


def train(config: ml_collections.ConfigDict) -> None:
    """Runs the configuration's stages, of which what is done already is skipped, and prints their table."""
    from proda_jax.run import experiment, settings
    from proda_jax.run.sources import Sources
    from proda_jax.system import devices, hosts

    if _WORKDIR.value is None:
        raise app.UsageError("--workdir is needed: a folder for everything that the run makes")
    settings.check(config)
    settings.use_compilation_cache()
    workdir = epath.Path(_WORKDIR.value)
    check_writable(workdir, "--workdir")
    interruption = Interruption()
    others = f"another process runs in {workdir}: wait for it, or use another workdir"
    try:
        with phase("looking for devices"):
            say(f"{config.task} on {devices.in_words()}, in {workdir}")
        if hosts.share()[1] == 1:  # several hosts stop together, when JAX hears of a preemption
            interruption.install()
        with alone(workdir / "lock", others, wait=False) if hosts.is_first() else contextlib.nullcontext():
            run = experiment.Experiment(config, workdir, Sources(config, workdir), interruption=interruption)
            run.run()
        if hosts.is_first():
            print(run.table())
            print(f"results: {workdir / 'results.json'}")
            write_last_report(workdir)
    except Stopped as reason:
        print(f"{reason}; the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_CODE)


def study(config: ml_collections.ConfigDict) -> None:
    """Runs a study, of which what is done already is skipped, and prints its table."""
    from proda_jax import study as studies
    from proda_jax.run import settings
    from proda_jax.system import devices, hosts

    if _WORKDIR.value is None:
        raise app.UsageError("--workdir is needed: a folder for everything that the study makes")
    seeds = None if _SEEDS.value is None else whole_numbers("--seeds", _SEEDS.value)
    plan = studies.swept(config, _SWEEP.value, seeds) if _SWEEP.value else studies.plan(config, seeds)
    settings.use_compilation_cache()
    workdir = epath.Path(_WORKDIR.value)
    check_writable(workdir, "--workdir")
    interruption = Interruption()
    try:
        with phase("looking for devices"):
            say(f"{plan.name} on {devices.in_words()}, in {workdir}")
        if hosts.share()[1] == 1:
            interruption.install()
        failed = studies.run(plan, workdir, interruption=interruption)
    except Stopped as reason:
        print(f"{reason}; the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_CODE)
    if hosts.is_first():
        print((workdir / plan.name / "study.txt").read_text())
        print(f"results: {workdir / plan.name / 'study.json'}, .csv, .tex and .txt")
        with phase("writing the report"):
            print(f"report: {studies.write_page(plan, workdir)}")
    if failed:
        sys.exit("error: not all could be trained, and what needs the others was left out; the table is without them: "
                 + "; ".join(f"{stage}: {why}" for stage, why in failed.items()))  # fmt: skip


def whole_numbers(flag: str, texts: list[str]) -> list[int]:
    """The whole numbers of a flag."""
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise app.UsageError(f"{flag}={','.join(texts)}: expected whole numbers, such as 0,1,2") from None


def write_last_report(workdir: epath.Path) -> None:
    """Writes the report of a run that is complete, whose results do not depend on it."""
    try:
        with phase("writing the report"):
            from proda_jax import report

            path = report.write(workdir)
    except Exception as error:
        print(f"the report could not be written ({error}); --mode=report tries again", file=sys.stderr)
    else:
        print(f"report: {path}")


def evaluate(config: ml_collections.ConfigDict) -> None:
    """Prints the scores of one network, and writes them to the workdir if there is one."""
    from proda_jax.report import score_tables as tables
    from proda_jax.run import experiment, settings
    from proda_jax.run.sources import Sources
    from proda_jax.system import hosts

    if _WORKDIR.value is None and config.init_from is None:
        raise app.UsageError("--mode=evaluate needs --config.init_from, a file of weights, or --workdir of a run")
    if config.init_from is not None and (_STAGE.value or _CHECKPOINT.value):
        raise app.UsageError("--stage and --checkpoint choose a network of the workdir, config.init_from one in a file")
    settings.check_evaluation(config)
    settings.use_compilation_cache()
    workdir = epath.Path(_WORKDIR.value) if _WORKDIR.value else cache_folder()
    check_writable(workdir, "--workdir" if _WORKDIR.value else "the cache folder, XDG_CACHE_HOME,")
    run = experiment.Experiment(config, workdir, Sources(config, workdir))
    scores = run.evaluate(_STAGE.value, _CHECKPOINT.value)
    if not hosts.is_first():
        return
    print(f"{tables.origin(scores)}\n{tables.class_table(scores)}")
    if _WORKDIR.value:
        write_atomically(workdir / "evaluation.json", json.dumps(scores, indent=2))
        write_atomically(workdir / "evaluation.csv", tables.csv_table(scores))
        write_atomically(workdir / "evaluation.tex", tables.latex_table(scores, run.space))
        print(f"scores: {workdir / 'evaluation.json'}, .csv and .tex")


def show_status() -> None:
    """Prints what the workdir holds and how its run is doing."""
    from proda_jax.report import status

    if _WORKDIR.value is None:
        raise app.UsageError("--mode=status needs --workdir, the folder of a run")
    print(status.text(_WORKDIR.value))


def choose_network() -> ml_collections.ConfigDict | None:
    """Refuses flags that lack something; the configuration of the network to predict with or to export, if given."""
    numbers(_SCALES.value)
    if _OUTPUT.value is None:
        raise app.UsageError(f"--mode={_MODE.value} needs --output, a folder for the results")
    if _MODE.value == "predict" and _INPUT.value is None:
        raise app.UsageError("--mode=predict needs --input: an image, a video, a folder of them, or a pattern")
    config = read_config() if _CONFIG.value is not None else None
    in_file = config is not None and config.init_from is not None
    if in_file == bool(_WORKDIR.value):
        raise app.UsageError(f"--mode={_MODE.value} needs a network: either --workdir of a run, or --config and a file "
                             "of weights as --config.init_from")  # fmt: skip
    return config


def use_network(config: ml_collections.ConfigDict | None) -> None:
    """Predicts with a trained network, or exports it."""
    from proda_jax.inference import export, loading, predict
    from proda_jax.run import settings

    settings.use_compilation_cache()
    with phase("reading the network"):
        segmenter = loading.load(
            _WORKDIR.value, stage=_STAGE.value, checkpoint=_CHECKPOINT.value, config=config, resize=_RESIZE.value,
            scales=numbers(_SCALES.value), flip=_FLIP.value, window=_WINDOW.value, batch_size=_BATCH_SIZE.value,
            devices_used=None if _MODE.value == "predict" else 1,
        )  # fmt: skip
    print(f"network: {segmenter.origin}")
    if _MODE.value == "predict":
        predict.predict(segmenter, _INPUT.value, _OUTPUT.value, _WRITE.value)
    else:
        export.export(segmenter, _OUTPUT.value, _FORMAT.value)


def numbers(texts: list[str]) -> list[float]:
    """The numbers of a flag."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise app.UsageError(f"--scales={','.join(texts)}: expected numbers, such as 0.75,1,1.25") from None


def write_report(more: list[str]) -> None:
    """Writes the page about --workdir, or the one about those of --compare and `more`, and prints where it is."""
    from proda_jax import report

    if more and not _COMPARE.value:
        raise app.UsageError(f"{more} is not understood: flags are written --flag=value, with an equals sign")
    if not (_COMPARE.value or _WORKDIR.value):
        raise app.UsageError("--mode=report needs --workdir, the folder of a run, or --compare with several of them")
    with phase("writing the report"):
        if _COMPARE.value:
            path = report.write_comparison(_COMPARE.value + more, _WORKDIR.value)
        else:
            path = report.write(_WORKDIR.value)
    print(f"report: {path}")


if __name__ == "__main__":
    app.run(without_traceback(main), flags_parser=parse)
