"""Numbers of the paper (arXiv:2101.10979), each with the table or sentence that it stands in; none is from elsewhere.

Tables 3 and 11 are used only as far as running text settles which number belongs to which row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from proda_jax.adaptation.stages import kinds
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


# {setting: (the paper's value, where it stands)}, for all stages
EVERYWHERE = {
    "model.backbone": ("resnet101", "Section 5.1"),
    "model.head": ("deeplab", "DeepLabv2, Section 5.1"),
    "views.scale": ([1.0, 1.0], "random crop alone, Appendix A"),
    "views.randaugment": (True, "Section 5.1, Table 7"),
}
def row_of(stage: Mapping[str, Any], kinds_of: Mapping[str, str]) -> str | None:
    """Which of the paper's networks a stage is, by its settings.

    Args:
      stage: settings of the stage, {'setting': value}.
      kinds_of: kind of each stage of the run, by name.

    Returns:
      Its row, as in `GTA5`; None where the paper has no such network, or gives no number for it.
    """
    kind = kinds.KINDS.get(stage.get("kind"))
    return kind.paper_row(stage, kinds_of) if kind else None


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
    for name, size in (("model.depths", [3, 4, 23, 3]), ("model.width", 64)):
        if settings.get(name):  # others than the backbone's own
            expected.append((name, settings[name], size, "ResNet-101, Section 5.1"))
    cutout = settings.get("views.cutout_fraction")
    if cutout == 0:
        expected.append(("views.cutout_fraction", cutout, "more than 0", "Section 5.1, Table 7"))
    size = settings.get("data.target.image_size")
    if size:
        width = settings.get("views.base_width") or size[1]
        expected.append(("views.base_width", width, size[1], "random crop alone, Appendix A"))
    for name, stage in stages.items():
        kind = kinds.KINDS.get(stage.get("kind"))
        of_paper = kind.paper_settings(stage, settings.get("data.source.name")) if kind else {}
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
