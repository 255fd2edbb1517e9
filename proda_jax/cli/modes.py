"""What each --mode does; JAX and what needs it is imported in it, so that wrong flags are refused at once."""

import contextlib
import json
import sys

import ml_collections
from absl import app
from etils import epath

from proda_jax.cli import flags
from proda_jax.system.files import alone, cache_folder, check_writable, write_atomically
from proda_jax.system.interruption import EXIT_CODE, Interruption, Stopped
from proda_jax.system.progress import phase, say


def check_training(config: ml_collections.ConfigDict) -> None:
    """Refuses flags and settings that cannot work, as far as JAX is not needed; names networks that are given."""
    from proda_jax.run import given, ranges

    if flags.WORKDIR.value is None:
        raise app.UsageError("--workdir is needed: a folder for everything that the run makes")
    given.name_networks(config)
    ranges.check(config)


def train(config: ml_collections.ConfigDict) -> None:
    """Runs the configuration's stages, of which what is done already is skipped, and prints their table."""
    from proda_jax.run import experiment, settings
    from proda_jax.run.sources import Sources
    from proda_jax.system import compiling, devices, hosts

    settings.check(config)
    compiling.set_up()
    workdir = epath.Path(flags.WORKDIR.value)
    check_writable(workdir, "--workdir")
    interruption = Interruption()
    others = f"another process runs in {workdir}: wait for it, or use another workdir"
    try:
        with phase("looking for devices"):
            say(f"{config.task} on {devices.in_words()}, in {workdir}")
        if hosts.share()[1] == 1:  # several hosts stop together, when JAX hears of a preemption
            interruption.install()
        with alone(workdir / "lock", others, wait=False) if hosts.is_first() else contextlib.nullcontext():
            sources = Sources(config, workdir)
            run = experiment.Experiment(config, workdir, sources, interruption=interruption, forgets=True)
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
    from proda_jax.run import given
    from proda_jax.system import compiling, devices, hosts

    if flags.WORKDIR.value is None:
        raise app.UsageError("--workdir is needed: a folder for everything that the study makes")
    given.name_networks(config)
    seeds = None if flags.SEEDS.value is None else flags.whole_numbers("--seeds", flags.SEEDS.value)
    plan = studies.swept(config, flags.SWEEP.value, seeds) if flags.SWEEP.value else studies.plan(config, seeds)
    compiling.set_up()
    workdir = epath.Path(flags.WORKDIR.value)
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


def check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Refuses flags of an evaluation that cannot work, and names networks that are given."""
    from proda_jax.run import given

    flags.check_evaluation()
    if flags.WORKDIR.value is None and config.init_from is None and flags.PREDICTIONS.value is None:
        raise app.UsageError("--mode=evaluate needs --config.init_from, a file of weights, --workdir of a run, or "
                             "--predictions, a folder of PNG files")  # fmt: skip
    if config.init_from is not None and (flags.STAGE.value or flags.CHECKPOINT.value):
        raise app.UsageError("--stage and --checkpoint choose a network of the workdir, config.init_from one in a file")
    given.name_networks(config)


def evaluate(config: ml_collections.ConfigDict) -> None:
    """Prints the scores of one network, or of predictions in files, and writes them to the workdir if there is one."""
    from proda_jax.report import score_tables as tables
    from proda_jax.run import experiment, predictions, settings
    from proda_jax.run.sources import Sources
    from proda_jax.system import compiling, hosts

    settings.check_evaluation(config)
    compiling.set_up()
    workdir = epath.Path(flags.WORKDIR.value) if flags.WORKDIR.value else cache_folder()
    check_writable(workdir, "--workdir" if flags.WORKDIR.value else "the cache folder, XDG_CACHE_HOME,")
    sources = Sources(config, workdir)
    run = experiment.Experiment(config, workdir, sources)
    if flags.PREDICTIONS.value is not None:
        scores = predictions.score(config, sources, flags.PREDICTIONS.value, flags.PREDICTION_VALUES.value)
    elif flags.WRITE.present:
        scores = write_split(run, flags.WRITE.value)
    else:
        scores = run.evaluate(flags.STAGE.value, flags.CHECKPOINT.value)
    if not hosts.is_first():
        return
    of_sets = tables.of_each_set([("this network", scores)])
    print("\n".join([tables.origin(scores), tables.class_table(scores), *of_sets]))
    if flags.WORKDIR.value:
        write_atomically(workdir / "evaluation.json", json.dumps(scores, indent=2))
        write_atomically(workdir / "evaluation.csv", tables.csv_table(scores))
        write_atomically(workdir / "evaluation.tex", tables.latex_table(scores, run.space))
        print(f"scores: {workdir / 'evaluation.json'}, .csv and .tex")


def write_split(run: "experiment.Experiment", kinds: list[str]) -> dict:  # noqa: F821
    """Writes predictions of all validation images, and returns their scores."""
    from proda_jax.inference import split

    model, variables, origin = run.networks.choose(flags.STAGE.value, flags.CHECKPOINT.value)
    return split.predict(run.config, run.sources, model, variables, origin, flags.OUTPUT.value, kinds, run.mesh)


def show_status() -> None:
    """Prints what the workdir holds and how its run is doing."""
    from proda_jax.report import status

    if flags.WORKDIR.value is None:
        raise app.UsageError("--mode=status needs --workdir, the folder of a run")
    print(status.text(flags.WORKDIR.value, verify=flags.VERIFY.value))


def use_network(config: ml_collections.ConfigDict | None) -> None:
    """Predicts with a trained network, or exports it."""
    from proda_jax.inference import export, loading, predict
    from proda_jax.system import compiling

    compiling.set_up()
    with phase("reading the network"):
        segmenter = loading.load(
            flags.WORKDIR.value, stage=flags.STAGE.value, checkpoint=flags.CHECKPOINT.value, config=config,
            resize=flags.RESIZE.value, scales=flags.numbers("scales", flags.SCALES.value), flip=flags.FLIP.value,
            window=flags.WINDOW.value, batch_size=flags.BATCH_SIZE.value,
            value_range=flags.numbers("value_range", flags.VALUE_RANGE.value), engine=flags.ENGINE.value,
            devices_used=None if flags.MODE.value == "predict" else 1,
        )  # fmt: skip
    print(f"network: {segmenter.origin}")
    if flags.MODE.value == "predict":
        predict.predict(
            segmenter, flags.INPUT.value, flags.OUTPUT.value, flags.WRITE.value,
            skip_existing=flags.SKIP_EXISTING.value, untagged_video=flags.UNTAGGED_VIDEO.value,
        )  # fmt: skip
    elif flags.FORMAT.value == "pretrained":
        segmenter.save_pretrained(flags.OUTPUT.value, license=flags.LICENSE.value)
        print(f"pretrained network: {flags.OUTPUT.value}, with its model card, README.md")
    else:
        export.export(segmenter, flags.OUTPUT.value, flags.FORMAT.value)


def write_report(more: list[str]) -> None:
    """Writes the page about --workdir, or the one about those of --compare and `more`, and prints where it is."""
    from proda_jax import report

    if more and not flags.COMPARE.value:
        raise app.UsageError(f"{more} is not understood: flags are written --flag=value, with an equals sign")
    if not (flags.COMPARE.value or flags.WORKDIR.value):
        raise app.UsageError("--mode=report needs --workdir, the folder of a run, or --compare with several of them")
    with phase("writing the report"):
        if flags.COMPARE.value:
            path = report.write_comparison(flags.COMPARE.value + more, flags.WORKDIR.value)
        else:
            path = report.write(flags.WORKDIR.value)
    print(f"report: {path}")
