"""Numbers of the paper (arXiv:2101.10979), each with the table or sentence that it stands in; none is from elsewhere.

Tables 3 and 11 are used only as far as running text settles which number belongs to which row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from proda_jax.data.label_spaces import LABEL_SPACES

EPOCH = 2975  # Cityscapes' training images, the target of both tasks (Section 5.1)


def _by_class(space: str, *values: float) -> dict[str, float]:
    return dict(zip(LABEL_SPACES[space].classes, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Row:
    """One network's scores, percent.

    Attributes:
      source: where they stand.
      miou: mean over classes.
      iou: by class; empty where the paper gives the mean alone.
      miou_13: the mean over SYNTHIA's 13 classes.
    """

    source: str
    miou: float
    iou: Mapping[str, float] = dataclasses.field(default_factory=dict)
    miou_13: float | None = None


# fmt: off
GTA5 = {
    "source": Row("Table 1", 36.6, _by_class("cityscapes19", 75.8, 16.8, 77.2, 12.5, 21.0, 25.5, 30.1, 20.1, 81.3, 24.6,
                                             70.3, 53.8, 26.4, 49.9, 17.2, 25.9, 6.5, 25.3, 36.0)),
    "warm-up": Row("Section 5.3, Table 11", 41.6, _by_class(
        "cityscapes19", 86.7, 34.2, 79.3, 26.6, 21.6, 38.4, 33.7, 15.8, 82.1, 31.0, 73.2, 60.4, 21.0, 82.3, 23.2, 32.0,
        2.9, 24.1, 20.9)),
    "self-training": Row("Section 5.3, Table 3", 45.2),
    "self-training, symmetric loss": Row("Section 5.3, Table 3", 45.6),
    "denoising alone": Row("Section 5.3, Table 3", 52.3),
    "structure learning alone": Row("Section 5.3, Table 3", 47.6),
    "stage 1": Row("Section 5.3, Tables 3 to 10", 53.7),
    "stage 2": Row("Section 5.3, Table 3", 56.9),
    "stage 2, not distilled": Row("Section 5.3, Table 3", 55.8),
    "stage 2 from stage 1": Row("Section 5.3, Table 3", 56.3),
    "stage 3": Row("Table 1", 57.5, _by_class("cityscapes19", 87.8, 56.0, 79.7, 46.3, 44.8, 45.6, 53.5, 53.5, 88.6,
                                              45.2, 82.1, 70.7, 39.2, 88.8, 45.5, 59.4, 1.0, 48.9, 56.4)),
}
SYNTHIA = {
    "source": Row("Table 2", 34.9, _by_class("synthia16", 64.3, 21.3, 73.1, 2.4, 1.1, 31.4, 7.0, 27.7, 63.1, 67.6, 42.2,
                                             19.9, 73.1, 15.3, 10.5, 38.9), 40.3),
    "stage 3": Row("Table 2", 55.5, _by_class("synthia16", 87.8, 45.7, 84.6, 37.1, 0.6, 44.0, 54.6, 37.0, 88.1, 84.4,
                                              74.2, 24.3, 88.2, 51.1, 40.5, 45.6), 62.0),
}
# fmt: on
TASKS = {
    ("gta5", "cityscapes19"): ("GTA5 to Cityscapes", GTA5),
    ("synthia", "synthia16"): ("SYNTHIA to Cityscapes", SYNTHIA),
}  # fmt: skip


def task(settings: Mapping[str, Any]) -> tuple[str, dict[str, Row]] | None:
    """The paper's name and rows for the task of these settings; None where the paper has no such task."""
    if settings.get("data.target.name") != "cityscapes":
        return None
    return TASKS.get((settings.get("data.source.name"), settings.get("data.label_space")))


def row_of(stage: Mapping[str, Any], kinds: Mapping[str, str]) -> str | None:
    """Which of the paper's networks a stage is, by its settings.

    Args:
      stage: settings of the stage, {'setting': value}.
      kinds: kind of each stage of the run, by name.

    Returns:
      Its row, as in `GTA5`; None where the paper has no such network, or gives no number for it.
    """
    kind = stage.get("kind")
    if kind == "supervised":
        return None if stage.get("target_labels") else "source"
    if kind == "warmup":
        return "warm-up"
    if kind == "denoise":
        return _denoise_row(stage)
    if kind == "distill":
        return _distill_row(stage, kinds)
    return None


def _denoise_row(stage: Mapping[str, Any]) -> str | None:
    if stage.get("label_source") == "moving" or stage.get("weighting") == "network":
        return None  # Figure 4 shows these as curves, without numbers
    structure, symmetric = stage.get("consistency_weight", 0) > 0, stage.get("rce_weight", 0) > 0
    if stage.get("weighting") == "none":
        if structure:
            return "structure learning alone"
        return "self-training, symmetric loss" if symmetric else "self-training"
    return "stage 1" if structure else "denoising alone"


def _distill_row(stage: Mapping[str, Any], kinds: Mapping[str, str]) -> str | None:
    init, third = stage.get("init"), kinds.get(stage.get("teacher", "")) == "distill"
    if third:
        return "stage 3" if init == "self_supervised" else None
    if init == "self_supervised":
        return "stage 2" if stage.get("distillation_weight") else "stage 2, not distilled"
    return "stage 2 from stage 1" if init == stage.get("teacher") else None


NONE_NAMED = "Section 5.1 names none"
_JITTER = {f"jitter.{name}": (0.0, NONE_NAMED) for name in ("brightness", "contrast", "saturation", "white_balance")}

# {setting: (the paper's value, where it stands)}, for all stages and for each kind of stage
EVERYWHERE = {
    "model.depths": ([3, 4, 23, 3], "ResNet-101, Section 5.1"),
    "model.width": (64, "ResNet-101, Section 5.1"),
    "model.head": ("deeplab", "DeepLabv2, Section 5.1"),
    "views.scale": ([1.0, 1.0], "random crop alone, Appendix A"),
    "views.randaugment": (True, "Section 5.1, Table 7"),
}
STAGES: dict[str, dict[str, tuple[Any, str]]] = {
    "supervised": dict(_JITTER),
    "warmup": dict(_JITTER),
    "denoise": {
        "backbone_rate": (1e-4, "Section 5.1"),
        "head_rate": (1e-4, "Section 5.1"),
        "schedule": ("per_epoch", "Section 5.1"),
        "schedule_factor": (0.9, "Section 5.1"),
        "reduction": ("sum", "Equations 1, 7, 10"),
        "weighting": ("prototypes", "Equation 4"),
        "label_source": ("fixed", "Equation 3"),
        "hard_labels": (True, "Equation 3"),
        "label_threshold": (0.0, "Equation 3, Table 4"),
        "temperature": (1.0, "Equation 4, Table 8"),
        "ce_weight": (0.1, "Equation 7, Table 9"),
        "rce_weight": (1.0, "Equation 7, Table 9"),
        "consistency_weight": (10.0, "Equation 11, Table 10"),
        "regulariser_weight": (0.1, "Equation 11, Table 10"),
        "regulariser": ("mrkld", "Equation 10"),
        "ema_view": ("crop", "Equation 8"),
        "prototype_momentum": (0.9999, "Equation 6, Table 5"),
        "prototype_update": ("batch", "Equation 6"),
        "prototype_init": ("target", "Equation 5, Table 6"),
        "prototype_init_by": ("pixels", "Equation 5"),
        **_JITTER,
    },
    "distill": {
        "init": ("self_supervised", "Section 4.3"),
        "backbone_rate": (6e-4, "Section 5.1"),
        "head_rate": (6e-3, "Section 5.1"),
        "extra_norm": (True, "Section 5.1"),
        "label_threshold": (0.95, "Section 5.1"),
        "target_view": ("weak", "Equation 12"),
        "ce_weight": (1.0, "Equation 12"),
        "rce_weight": (0.0, "Equation 12"),
        "distillation_weight": (1.0, "Equation 12"),
        "distillation_form": ("equation12", "Equation 12"),
        **_JITTER,
    },
}
# conventional self-training learns from fixed labels by plain cross entropy (Equation 1)
_SELF_TRAINING = {
    "weighting": ("none", "Equation 2"),
    "ce_weight": (1.0, "Equation 1"),
    "rce_weight": (0.0, "Equation 1"),
    "consistency_weight": (0.0, "Equation 1"),
    "regulariser_weight": (0.0, "Equation 1"),
}
_NOT_OF_SELF_TRAINING = ("label_threshold", "temperature", "prototype_momentum", "prototype_update", "prototype_init",
                         "prototype_init_by", "ema_view", "regulariser")  # fmt: skip


def stage_settings(stage: Mapping[str, Any], source: str | None) -> dict[str, tuple[Any, str]]:
    """The paper's settings for a stage like this one.

    Args:
      stage: its settings.
      source: name of the source data set.

    Returns:
      {setting: (value, where the paper says so)}.
    """
    found = dict(STAGES.get(stage.get("kind", ""), {}))
    if stage.get("kind") == "denoise":
        if stage.get("weighting") == "none" and not stage.get("consistency_weight"):
            found = {key: value for key, value in found.items() if key not in _NOT_OF_SELF_TRAINING} | _SELF_TRAINING
        elif source == "synthia":
            found["regulariser_weight"] = (0.0, "Appendix A")
    return found


def differences(
    settings: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Any, Any, str]]:
    """Settings whose values are not the paper's.

    Args:
      settings: all of them, {'section.setting': value}.
      stages: those of each stage, by its name.

    Returns:
      Rows (setting, value here, value in the paper, where the paper says so); settings that the paper does not name,
      and those that are not known here, are not among them.
    """
    expected = [(name, settings.get(name), *entry) for name, entry in EVERYWHERE.items()]
    cutout = settings.get("views.cutout_fraction")
    if cutout == 0:
        expected.append(("views.cutout_fraction", cutout, "more than 0", "Section 5.1, Table 7"))
    size = settings.get("data.target.image_size")
    if size:
        width = settings.get("views.base_width")
        expected.append(("views.base_width", width, size[1], "random crop alone, Appendix A"))
    for name, stage in stages.items():
        of_paper = stage_settings(stage, settings.get("data.source.name"))
        expected += [(f"{name}.{key}", stage.get(key), *entry) for key, entry in of_paper.items()]
        expected += _epochs(name, stage, settings)
    return [row for row in expected if row[1] is not None and not _same(row[1], row[2])]


def _epochs(name: str, stage: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, Any, Any, str]]:
    """Steps of a stage beside the paper's 80 epochs, where the target is the paper's."""
    if settings.get("data.target.name") != "cityscapes" or not stage.get("steps") or not settings.get("batch_size"):
        return []
    epochs = stage["steps"] * settings["batch_size"] / EPOCH
    shown = f"{stage['steps']:,} steps of {settings['batch_size']} images: {epochs:.1f} epochs"
    return [] if abs(epochs - 80) < 0.5 else [(f"{name}.steps", shown, "80 epochs", "Section 5.1")]


def _same(here: Any, there: Any) -> bool:
    here, there = (list(value) if isinstance(value, tuple) else value for value in (here, there))
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(map(_same, here, there))
    return here == there
