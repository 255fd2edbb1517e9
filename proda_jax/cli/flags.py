"""The flags of the command, and which of them go together."""

import sys

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from proda_jax.run import ranges
from proda_jax.system import configurations, paths

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration, such as configs/gta5.py; of a shipped one, the name will do: gta5."
)
configurations.accept_names(CONFIG.name)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run makes; may be in a bucket.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "status", "predict", "export", "report", "study"],
    "train: run the stages. status: say what a workdir holds and how its run is doing, and change nothing. evaluate: "
    "score a network on the validation images. predict: label images and videos with it. export: write it for "
    "TensorFlow or StableHLO, or for sharing. The network is one of the workdir, or that in config.init_from. report: "
    "write the page about a workdir, or with --compare about several. study: run the rows of one of the paper's tables "
    "over several seeds, or with --sweep the values of a setting.",
)  # fmt: skip
OUTPUT = flags.DEFINE_string("output", None, "predict, export, evaluate with --write: folder for the results.")
STAGE = flags.DEFINE_string(
    "stage", None, "evaluate, predict, export: which stage's network; default: that of the last complete one that "
    "has not learnt from the target's labels. Several, minent+advent: their class scores are averaged."
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", None, ["last", "best"], "evaluate, predict, export: which network of the stage; default: the last, "
    "for evaluate the one that config.handover names.",
)
RESIZE = flags.DEFINE_integer(
    "resize", None, "predict, export: width at which images are predicted; 0: their own; default: that of training."
)
SCALES = flags.DEFINE_list("scales", ["1"], "predict, export: relative sizes whose predictions are averaged.")
FLIP = flags.DEFINE_bool("flip", False, "predict, export: average with the prediction of the flipped image.")
INPUT = flags.DEFINE_string("input", None, "predict: image, video, folder of them, or a pattern like 'photos/*.png'.")
WRITE = flags.DEFINE_list(
    "write", ["ids", "colors", "overlays"],
    "predict: what is written: ids, label_ids, colors, overlays, confidence, entropy. evaluate: likewise, of all "
    "validation images, to --output; default: nothing.",
)  # fmt: skip
SKIP_EXISTING = flags.DEFINE_bool("skip_existing", False, "predict: leave out what the same network has done before.")
VALUE_RANGE = flags.DEFINE_list(
    "value_range", None, "predict: values that are black and white in images of more than 8 bits, such as 0,4095; "
    "default: those of training.",
)  # fmt: skip
UNTAGGED_VIDEO = flags.DEFINE_enum(
    "untagged_video", "auto", ["auto", "bt601", "bt709", "bt2020"],
    "predict: what the colours of videos mean that do not say so; auto: bt709 in high definition, bt601 below.",
)  # fmt: skip
PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "evaluate: folder of PNG files, whoever made them, that are scored in place of a network."
)
PREDICTION_VALUES = flags.DEFINE_enum(
    "prediction_values", "auto", ["auto", "train_ids", "label_ids", "colors"], "evaluate: what these files hold."
)
WINDOW = flags.DEFINE_integer(
    "window", None, "predict: side, in pixels, of the windows that larger images are predicted in; default: 2048, for "
    "images of more than four million pixels.",
)  # fmt: skip
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "predict: images that a device predicts at once.")
ENGINE = flags.DEFINE_enum(
    "engine", "xla", ["xla", "onnxruntime"], "predict: what computes the network's scores; onnxruntime, an extra, does "
    "small networks' on a CPU in less time.",
)
FORMAT = flags.DEFINE_enum(
    "format", "savedmodel", ["savedmodel", "stablehlo", "onnx", "pretrained"], "export: what is written. pretrained: "
    "weights and a model card, which predict, export and Python's load take in place of a workdir.",
)  # fmt: skip
LICENSE = flags.DEFINE_string(
    "license", None, "export, with --format=pretrained: of the weights that training started from, such as apache-2.0."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts, which JAX finds by itself: Cloud TPU pods, SLURM, Open MPI, Kubernetes."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: address and port of the first of them.")
HOSTS = flags.DEFINE_integer("hosts", None, "With --coordinator: how many there are.")
HOST = flags.DEFINE_integer("host", None, "With --coordinator: this one's number, from 0.")
SWEEP = flags.DEFINE_string(
    "sweep", None, "study: a setting and its values, such as 'stage1.temperature=0.5,1,2', with any configuration."
)
SEEDS = flags.DEFINE_list("seeds", None, "study: in place of the study's own, such as 0,1,2.")
VERIFY = flags.DEFINE_bool(
    "verify", False, "status: compare everything with what it was when it was written, and not only what is quick."
)
COMPARE = flags.DEFINE_list("compare", None, "report: workdirs to set side by side.")

# modes that read a flag, which others refuse; --config, --workdir and those of several hosts are for all
MODES = dict.fromkeys(("resize", "scales", "flip"), ("predict", "export")) | {
    "output": ("predict", "export", "evaluate"), "stage": ("evaluate", "predict", "export"),
    "checkpoint": ("evaluate", "predict", "export"), "input": ("predict",), "write": ("predict", "evaluate"),
    "skip_existing": ("predict",), "value_range": ("predict",), "untagged_video": ("predict",),
    "predictions": ("evaluate",), "prediction_values": ("evaluate",), "window": ("predict",),
    "batch_size": ("predict",), "engine": ("predict",), "format": ("export",), "license": ("export",),
    "sweep": ("study",), "seeds": ("study",), "verify": ("status",), "compare": ("report",),
}  # fmt: skip


def parse(arguments: list[str]) -> list[str]:
    """Parses the command line; settings without a configuration would be called unknown flags."""
    names = [argument.lstrip("-").split("=")[0] for argument in arguments[1:] if argument.startswith("-")]
    if "config" not in names and (settings := [name for name in names if name.startswith("config.")]):
        sys.exit(f"error: --{settings[0]} needs --config beside it, the configuration that it changes")
    return paths.parse(arguments)


def check_mode() -> None:
    """Refuses flags that this mode would not read, so that nobody believes that they act."""
    for name, modes in MODES.items():
        if flags.FLAGS[name].present and MODE.value not in modes:
            raise app.UsageError(f"--{name} is for --mode={' and '.join(modes)}; --mode={MODE.value} does nothing with "
                                 "it: leave it out")  # fmt: skip


def check_hosts() -> None:
    """Refuses flags of several hosts that do not go together, before each would train alone."""
    given = (HOSTS.value, HOST.value)
    if MODE.value in ("predict", "export") and (COORDINATOR.value or DISTRIBUTED.value):
        raise app.UsageError(f"--mode={MODE.value} is for one host: start it on each, with a share of the files")
    if COORDINATOR.value and None in given:
        raise app.UsageError("--coordinator needs --hosts, how many there are, and --host, this one's number from 0")
    if given != (None, None) and not (COORDINATOR.value or DISTRIBUTED.value):
        raise app.UsageError("--hosts and --host need --coordinator, address and port of the first host")
    if None not in given and not 0 <= HOST.value < HOSTS.value:
        raise app.UsageError(f"--host={HOST.value} is not one of {HOSTS.value} hosts, which are numbered from 0")


def read_config() -> ml_collections.ConfigDict:
    """The configuration that --config names, with the settings given beside it; to evaluate, the workdir's own does."""
    try:
        config = CONFIG.value
    except OSError as error:
        raise app.UsageError(f"--config: {error}") from None
    if config is None and MODE.value == "evaluate" and WORKDIR.value:
        from proda_jax.run.provenance import read_configuration

        return read_configuration(WORKDIR.value)
    if config is None:
        raise app.UsageError("--config is needed: a configuration, such as configs/demo.py")
    ranges.check_given(config, config_flags.get_override_values(flags.FLAGS[CONFIG.name]))
    return config


def check_evaluation() -> None:
    """Refuses flags of an evaluation that do not go together."""
    if PREDICTIONS.value is not None:
        if WRITE.present or STAGE.value or CHECKPOINT.value:
            raise app.UsageError("--predictions are scored in place of a network: leave --write, --stage and "
                                 "--checkpoint out")  # fmt: skip
    elif PREDICTION_VALUES.present:
        raise app.UsageError("--prediction_values says what the files of --predictions hold")
    if WRITE.present != (OUTPUT.value is not None):
        raise app.UsageError("--mode=evaluate writes what --write names to the folder --output: give both or neither")


def check_format() -> None:
    """Refuses flags that the format of an export does not know."""
    pretrained = MODE.value == "export" and FORMAT.value == "pretrained"
    if LICENSE.value is not None and not pretrained:
        raise app.UsageError("--license goes into a model card: --mode=export --format=pretrained")
    if pretrained and (RESIZE.present or SCALES.present or FLIP.present):
        raise app.UsageError("--resize, --scales and --flip are chosen where a network is used, which "
                             "--format=pretrained leaves open")  # fmt: skip


def choose_network() -> ml_collections.ConfigDict | None:
    """Refuses flags that lack something; the configuration of the network to predict with or to export, if given."""
    numbers("scales", SCALES.value)
    value_range = numbers("value_range", VALUE_RANGE.value)
    if value_range is not None and (len(value_range) != 2 or not value_range[0] < value_range[1]):
        raise app.UsageError(f"--value_range={','.join(VALUE_RANGE.value)}: expected two numbers, such as 0,4095")
    if OUTPUT.value is None:
        raise app.UsageError(f"--mode={MODE.value} needs --output, a folder for the results")
    if MODE.value == "predict" and INPUT.value is None:
        raise app.UsageError("--mode=predict needs --input: an image, a video, a folder of them, or a pattern")
    check_format()
    config = read_config() if CONFIG.value is not None else None
    in_file = config is not None and config.init_from is not None
    if in_file == bool(WORKDIR.value):
        raise app.UsageError(f"--mode={MODE.value} needs a network: either --workdir of a run, or --config and a file "
                             "of weights as --config.init_from")  # fmt: skip
    return config


def numbers(flag: str, texts: list[str] | None) -> list[float] | None:
    """The numbers of a flag, if it is given."""
    try:
        return None if texts is None else [float(text) for text in texts]
    except ValueError:
        raise app.UsageError(f"--{flag}={','.join(texts)}: expected numbers, such as 0.75,1.25") from None


def whole_numbers(flag: str, texts: list[str]) -> list[int]:
    """The whole numbers of a flag."""
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise app.UsageError(f"{flag}={','.join(texts)}: expected whole numbers, such as 0,1,2") from None
