"""What a stage's folder remembers of the settings that it was run with, so that no others go on with it."""

import dataclasses
import json
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import ml_collections
from etils import epath

from proda_jax.adaptation.stages import build, kinds, sections
from proda_jax.data.checks import data_sets
from proda_jax.models.backbones import OPTIONS
from proda_jax.run import idle, labelled_target
from proda_jax.run.evaluate import scored_at
from proda_jax.system import digests, hosts
from proda_jax.system.files import json_text, read_json, write_if_new, write_json
from proda_jax.system.paths import expand_settings

NAME, ENVIRONMENT = "settings.json", "environment.json"  # of a stage
CONFIGURATION, DATA = "config.json", "data.json"  # of a workdir
# settings that decide what every stage ends in
_EVERYWHERE = ("seed", "batch_size", "micro_batches", "handover", "model", "views")
# what versions did that had no such setting, by its name within a section
_BEFORE = {
    "optimizer": "sgd", "adam_betas": [0.9, 0.999], "layer_decay": 1.0, "decay_vectors": True, "schedule_warmup": 0,
    "schedule_warmup_start": 1e-6, "backbone": "resnet", "weights_input": "", "statistics": "all",
    "statistics_images": 400, "drop_path": None, "position_resize": None, "stride_in": None,
    "contract_dilation": None, "ceil_mode": None, "deep_stem": None, "scan_blocks": None,
    "freeze_backbone": False, "batch_size": None, "mask_source": False,
    "evaluate_at": "image_size", "label_entropy": 0.25, "label_portion": 0.2, "label_every": 4,
    "regulariser_weight": 0.0, "regulariser": "mrkld", "regulariser_over": "all", "mean_over": "domain",
    "fourier_beta": 0.0, "fourier_window": "symmetric", "source_images": None,
    "auxiliary_head": "none", "auxiliary_weight": 0.0, "detail_size": [], "detail_weight": 0.1,
    "prototype_distance": "euclidean", "contrast_weight": 0.0, "contrast_with": "distribution",
    "contrast_temperature": 100.0, "contrast_channels": 512, "contrast_share": 0.75, "contrast_bank": 200,
    "foundation": None, "foundation_file": None, "foundation_input": "", "foundation_weight": 0.1,
    "foundation_temperature": 0.07,
    "contrast_after": 3000, "self_label_weight": 0.0, "self_label_pixels": 256, "self_label_queue": 65_536,
    "queue_contrast_weight": 0.0, "cutmix_share": 0.0,
    "strong_colours": "torchvision",
    "focus": 0.0, "logit_temperature": 1.0, "auxiliary_ce_weight": 0.0, "adversarial_on": "probabilities",
    "auxiliary_adversarial_weight": 0.0, "discriminator": "released", "discriminator_weight": 1.0, "scores_at": "grid",
    "soft_label_limit": 0.9, "local_weight": 0.0, "local_floor": 0.4, "local_after": 5000, "damping_steps": 0,
    "weight_divergence": 0.0, "entropy_weight": 0.0, "auxiliary_entropy_weight": 0.0, "schedule_warmup_to": "schedule",
    "source_weight": 1.0, "discriminator_warmup": True, "memory_weight": 0.0, "memory_after": 15_000,
    "rectified": False, "rare_weight": 1.0, "rare_pixels": 4096, "hard_share": 1.0,
    "discriminated": "network", "gradient_penalty": 0.0,
    "rare_class_sampling": False, "rare_class_temperature": 0.01, "rare_class_min_pixels": 3000,
    "rare_class_crop_pixels": 1500, "largest_class": 1.0, "crop_tries": 10,
    "patch_modes": 0, "patch_size": [32, 64],
    "patch_channels": 512, "patch_weight": 0.01, "patch_adversarial_weight": 0.0005,
    "perturbation": 0.0, "perturbation_steps": 1, "perturbation_weight": 1.0,
}  # fmt: skip
_OF_DATA = ("name", "split", "image_size", "label_values")  # of a data set; where its files lie may change
_OF_DATA_IF_SET = ("color_tolerance", "value_range")  # of these, older versions knew nothing


def decisive(config: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
    """The settings that decide what stage `name` ends in, {'section.setting': JSON value}.

    How often something is logged or saved, and where data lie, is not among them; how often it is scored is where the
    best network is handed on.
    """
    found = {key: config[key] for key in _EVERYWHERE} | {name: config[name]}
    found |= {f"data.{key}": config.data[key] for key in ("label_space", "classes", "store_scale")}
    roles = ("source", "target", "validation") if config.handover == "best" else ("source", "target")
    data_of = {setting: one for role in roles for setting, one in data_sets(config.data, role).items()}
    found |= {f"{setting}.{key}": one[key] for setting, one in data_of.items() for key in _OF_DATA}
    found |= {f"{setting}.{key}": value for setting, one in data_of.items() for key in _OF_DATA_IF_SET
              if (value := one.get(key))}  # fmt: skip
    for role in roles:
        if len(several := data_sets(config.data, role)) > 1:
            found |= {f"{setting}.share": one.get("share", 1.0) for setting, one in several.items()}
    if (few := config.data.get("labelled_target")) is not None:  # which images it names; where it lies may change
        found["data.labelled_target"] = digests.of_json(labelled_target.names(few))
        if data_sets(config.data, "source"):
            found["data.labelled_target_share"] = config.data.labelled_target_share
    if data_sets(config.data, "validation"):  # one history has scores of one kind
        found["evaluate_at"] = scored_at(config)
    if config.handover == "best":
        found["evaluate_every"] = config.evaluate_every
    backbone = build.backbone_of(config.model)
    sizes = {field.name for field in dataclasses.fields(backbone)} - {*OPTIONS, "drop_path"}  # what the row decides
    sizes = {"backbone": backbone.family} | {name: getattr(backbone, name) for name in sorted(sizes)}
    settings = dict(flat(found)) | {f"model.{name}": value for name, value in sizes.items()}
    settings["views.base_width"] = sections.base_width(config, config.views)
    return json.loads(json.dumps(settings))


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('section.setting', value) of all settings."""
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def remember(folder: epath.Path, config: ml_collections.ConfigDict, name: str) -> None:
    """Notes the settings of a stage that begins."""
    if hosts.is_first():
        write_json(folder / NAME, decisive(config, name))


def note_configuration(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Notes the whole configuration of a run, for reports and for predictions."""
    if hosts.is_first():
        write_if_new(workdir / CONFIGURATION, json_text(_plain(config.to_dict())).encode())


def _plain(value: Any) -> Any:
    """A setting with dictionaries in place of sections, those in tuples, too."""
    if isinstance(value, ml_collections.ConfigDict | dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def scores_as_before(workdir: epath.Path) -> bool:
    """Whether a workdir began with a version that knew nothing of `evaluate_at`."""
    return (workdir / CONFIGURATION).exists() and "evaluate_at" not in read_configuration(workdir)


def note_data(workdir: epath.Path, noted: dict[str, dict]) -> None:
    """Notes what is worth knowing of the data of each role, for reports."""
    if noted and hosts.is_first():
        write_if_new(workdir / DATA, json_text(noted).encode())


def read_configuration(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The configuration that a workdir was last trained with.

    Raises:
      ValueError: it is not noted there, or the note is damaged.
    """
    note, remedy = epath.Path(workdir) / CONFIGURATION, "name the configuration, --config=configs/..."
    if not note.exists():
        raise ValueError(f"{note} is not there, so nobody knows the settings of {workdir}: {remedy}")
    config = ml_collections.ConfigDict(_with_tuples(read_json(note, remedy)))
    for role, given in config.data.items() if "data" in config else ():
        if isinstance(given, tuple) and any(isinstance(one, dict) for one in given):
            config.data[role] = tuple(map(ml_collections.ConfigDict, given))
    expand_settings(config)  # workdirs of before have them as they were written
    return config.lock()


def _with_tuples(value: Any) -> Any:
    """JSON values with tuples in place of lists, of which configurations have none."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _before(now: dict[str, Any], kind: str) -> dict[str, Any]:
    """Those of the decisive settings that older versions did not have, with what these did."""
    known = _BEFORE | {"label_selector": "above_threshold" if kinds.KINDS[kind].teacher else "threshold"}
    known |= kinds.KINDS[kind].before
    found = {key: key.rpartition(".")[2] for key in now}
    return {key: known[name] for key, name in found.items() if name in known}


def note_environment(folder: epath.Path) -> None:
    """Notes what a stage runs on: versions of the libraries that decide numbers, and the devices."""
    libraries = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries}
    devices = {"device": jax.devices()[0].device_kind, "backend": jax.default_backend(), "devices": jax.device_count()}
    if hosts.is_first():
        found = {"versions": versions, **devices, "hosts": jax.process_count(), "system": platform.platform()}
        write_json(folder / ENVIRONMENT, found)


def check(folder: epath.Path, config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a stage's folder that was made with other settings.

    Raises:
      ValueError: naming each setting that differs, with both values.
    """
    note, remedy = folder / NAME, f"delete {folder} to run this stage again"
    if not note.exists():
        checkpoints = folder / "checkpoints"
        if checkpoints.exists() and any(path.name.isdigit() for path in checkpoints.iterdir()):
            raise ValueError(f"{note} is missing, so nobody knows what the checkpoints beside it belong to: {remedy}")
        return
    now = decisive(config, name)
    there = _before(now, config[name].kind) | read_json(note, remedy)
    idle_here = () if "random" in idle.starts(config) else ("model.input_mean", "model.input_std")
    differing = [f"config.{key} was {there.get(key)!r} and is {now.get(key)!r} now" for key in sorted(there | now)
                 if there.get(key) != now.get(key) and key not in idle_here]  # fmt: skip
    if differing:
        more = f", and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(differing[:5])}{more}. Use another workdir, or delete "
            "that folder and those of the stages after it"
        )
