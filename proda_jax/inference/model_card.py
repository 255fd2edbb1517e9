"""The page that goes with a network that others use, in the form of Hugging Face's hub.

That is Markdown below YAML, whose values are written as JSON, which YAML includes.
"""

import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from proda_jax.configs import base
from proda_jax.models.backbones import DEFAULT, published
from proda_jax.run import provenance
from proda_jax.run.card import Card
from proda_jax.system import configurations

NOT_STATED = "not stated"
TAGS = ("semantic-segmentation", "unsupervised-domain-adaptation", "proda", "jax", "flax")


# Differences between settings


def differences(settings: Mapping[str, Any], stages: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Settings that are not as in `configs/base.py`, in a stage as its function there sets them: (value, default)."""
    defaults, known = base.get_config(), {}
    for name in stages:
        own = _section(settings, name)
        make = getattr(base, own["kind"], base.stage)
        with defaults.unlocked():
            defaults[name] = make(**{key: own[key] for key in inspect.signature(make).parameters if key in own})
        known |= provenance.decisive(defaults, name)
    # of the network what a configuration says, and not what it comes to; how wide images are is no setting
    known |= {key: value for key, value in json.loads(json.dumps(dict(provenance.flat(defaults)))).items()
              if key.startswith("model.")}  # fmt: skip
    width = settings.get("data.target.image_size", [None, None])[1]
    if settings.get("views.base_width") == width:
        known.pop("views.base_width", None)
    return {key: (value, known[key]) for key, value in settings.items() if key in known and value != known[key]}


def flags_of(card: Card, settings: Mapping[str, Any]) -> list[str]:
    """The flags that give these settings: a shipped configuration and what differs from it."""
    known = {}
    if card.task in configurations.names():
        config = importlib.import_module(f"proda_jax.configs.{card.task}").get_config()
        known = json.loads(json.dumps(dict(provenance.flat(config))))
        known["views.base_width"] = provenance.decisive(config, config.stages[0])["views.base_width"]
    if not known or any(key.endswith(".kind") and key not in known for key in settings):  # a stage that it lacks
        return ["--config=<configuration>"]
    # of the network the card has what its configuration said, and the settings what that came to
    settings = settings | {f"model.{name}": value for name, value in card.as_json()["model"].items()}
    changed = {key: value for key, value in settings.items() if key in known and value != known[key]}
    return [f"--config=configs/{card.task}.py", *(f"--config.{key}={_flag(value)}" for key, value in changed.items())]


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}


def _flag(value: Any) -> str:
    return shlex.quote(str(tuple(value) if isinstance(value, list) else value))


# The page


def page(card: Card, about: Mapping[str, Any], variables: Mapping) -> str:
    """The model card.

    Args:
      card: of the network.
      about: see `facts.facts`.
      variables: of the network, which say how it wants its images.
    """
    parts = [front_matter(card, about), *_introduction(card, about), *_use(card, variables), *_classes(card)]
    parts += [*_scored(about), *_data(about), *_training(card, about), *_license(card, about)]
    return "\n\n".join(parts) + "\n"


def front_matter(card: Card, about: Mapping[str, Any]) -> str:
    """What the hub reads: YAML between dashes."""
    license = about.get("license")
    held: dict[str, Any] = {"library_name": "proda-jax", "pipeline_tag": "image-segmentation", "tags": TAGS}
    if license is None:
        held["license"] = "unknown"
    elif re.fullmatch(r"[a-z][a-z0-9.-]*", license):  # as the hub calls licences
        held["license"] = license
    else:
        held |= {"license": "other", "license_name": license}
    if about.get("scores"):
        results = [
            {
                "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
                "dataset": {"type": re.split(r"\W", scores["data"])[0], "name": scores["data"]},
                "metrics": [{"type": "mean_iou", "name": "mIoU, percent", "value": scores["miou"]}],
            }
            for scores in about["scores"]
        ]
        held["model-index"] = [{"name": f"{card.task}, {card.stage}", "results": results}]
    lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in held.items())
    return "\n".join(["---", *lines, "---"])


def _introduction(card: Card, about: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_text(card.task)}, {_text(card.stage)}"
    step = f", step {about['step']:,}" if "step" in about else ""
    yield (f"A semantic segmentation network: each pixel of an image gets one of {len(card.classes)} classes. It is of "
           f"stage {_text(card.stage)}{step}, trained with ProDA in JAX: prototypical pseudo label denoising for "
           "unsupervised domain adaptation (Zhang et al., CVPR 2021).")  # fmt: skip


def _use(card: Card, variables: Mapping) -> Iterator[str]:
    yield "## How to use it"
    yield _code(
        "from proda_jax import load",
        "",
        'model = load("<this folder>")',
        'labels = model("photo.jpg")  # uint8 [height, width], positions in model.classes',
        language="python",
    )
    yield _code("python main.py --mode=predict --workdir=<this folder> --input=photos --output=labels")
    yield "Where the package is installed, the command is `proda` in place of `python main.py`."
    height, width = card.image_size
    mean, std = (np.asarray(variables["batch_stats"]["input"][name]).tolist() for name in ("mean", "std"))
    yield (f"Images are RGB, brought to 8 bits, and of any size. The program resizes them to a width of {width} pixels "
           f"(those of training were {height} high and {width} wide); the network itself takes (RGB / 255 - mean) / "
           f"divisor, with mean {_numbers(mean)} and divisor {_numbers(std)}.")  # fmt: skip


def _classes(card: Card) -> Iterator[str]:
    yield "## Classes"
    rows = [(str(i), name, "#{:02x}{:02x}{:02x}".format(*color), _numbers(color))
            for i, (name, color) in enumerate(zip(card.classes, card.colors, strict=True))]  # fmt: skip
    yield _table(("train id", "class", "colour", "red, green, blue"), rows)


def _scored(about: Mapping[str, Any]) -> Iterator[str]:
    yield "## Scores"
    scores = about.get("scores", ())
    if not scores:
        yield "None are known."
    for entry in scores:
        images = f", {entry['images']} images" if "images" in entry else ""
        chosen = " This checkpoint was chosen on the images that it is scored on." if entry.get("chosen") else ""
        yield f"On {_text(entry['data'])}{images}, in percent.{chosen}"
        titles = {key: f"mIoU over {key.removeprefix('miou_')} classes" for key in entry if key.startswith("miou_")}
        titles["miou_running_statistics"] = "mIoU by running statistics"
        titles = {"miou": "mIoU"} | titles | {"pixel_accuracy": "pixel accuracy"}
        rows = [(title, _percent(entry[key])) for key, title in titles.items() if key in entry]
        yield _table(("", "percent"), rows)
        yield _table(("class", "IoU"), [(name, _percent(value)) for name, value in entry["iou"].items()])


def _data(about: Mapping[str, Any]) -> Iterator[str]:
    settings = about.get("settings", {})
    yield "## Training data"
    if not settings:
        yield "Not known."
        return
    uses = {"source": "with labels", "target": "with labels" if about["target_labels"] else "without labels"}
    keys, rows = ("name", "split", "image_size"), []
    for role, use in uses.items():
        begins = [f"data.{role}", *(f"data.{role}[{i}]" for i in range(100))]  # of one data set, or of several
        there = [begin for begin in begins if f"{begin}.name" in settings]
        rows += [(role, *(_value(settings.get(f"{begin}.{key}")) for key in keys), use) for begin in there]
    yield _table(("domain", "data set", "split", "height, width", "used"), rows)


def _training(card: Card, about: Mapping[str, Any]) -> Iterator[str]:
    yield "## How it was trained"
    settings, stages = about.get("settings", {}), about.get("stages", ())
    if not settings:
        yield "Not known."
    else:
        columns = {"kind": "kind", "init": "starts from", "teacher": "teacher", "labels_from": "labels from",
                   "source_images": "source images from", "steps": "steps"}  # fmt: skip
        rows = [(name, *(_value(settings.get(f"{name}.{key}")) for key in columns)) for name in stages]
        yield _table(("stage", *columns.values()), rows)
        main = ("seed", "batch_size", "views.crop_size", "model.head", "model.dtype")
        yield "Main settings: " + ", ".join(f"`{key}` {_value(settings[key])}" for key in main if key in settings) + "."
        yield "Settings that are not as in `configs/base.py`:"
        of_network = {f"model.{name}": value for name, value in card.as_json()["model"].items()}
        rows = [(key, *map(_value, pair)) for key, pair in differences(settings | of_network, stages).items()]
        yield _table(("setting", "here", "there"), rows)
    flags = " ".join(flags_of(card, settings))
    yield "To train it, to score it as that run left it, and to score it from this folder:"
    yield _code(
        f"python main.py {flags} --workdir=<workdir>",
        f"python main.py --mode=evaluate --workdir=<workdir> --stage={shlex.quote(card.stage)}",
        f"python main.py --mode=evaluate {flags} --config.init_from=<this folder>",
    )


def _license(card: Card, about: Mapping[str, Any]) -> Iterator[str]:
    yield "## Licence"
    settings = about.get("settings", {})
    files = [f"{value} ({key})" for key, value in settings.items() if key.endswith("weights") and value]
    starts = {settings.get(f"{stage}.init") for stage in about.get("stages", ())}
    network = (card.model.get("backbone", DEFAULT), card.model.get("depths") or (), card.model.get("width") or 0)
    package = published(*network) if "imagenet" in starts else None
    began = f" Files of weights among the settings: {_text(', '.join(files))}." if files else ""
    if not files and package is not None:
        began = f" It started from those of the package {_text(package.package)}, whose licence is {package.licence}."
    elif not files and "random" in starts and not starts & {"imagenet", "self_supervised"}:
        began = " No weights are among the settings: training began at random."
    yield f"Licence of the weights that training started from: {_text(about.get('license') or NOT_STATED)}.{began}"


# Markdown


def _text(value: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|&~$#])", r"\\\1", " ".join(value.split()))


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(*lines: str, language: str = "") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _value(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
