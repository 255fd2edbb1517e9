"""Numbers of the paper (arXiv:2101.10979), each with the table or sentence that it stands in; none is from elsewhere.

Tables 3 and 11 are used only as far as running text settles which number belongs to which row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from proda_jax.adaptation.stages import kinds
from proda_jax.data.label_spaces import LABEL_SPACES

EPOCH = 2975  # Cityscapes' training images, the target of both tasks (Section 5.1)


def _by_class(space: str, *values: float | None) -> dict[str, float]:
    pairs = zip(LABEL_SPACES[space].classes, values, strict=True)
    return {name: value for name, value in pairs if value is not None}


@dataclasses.dataclass(frozen=True)
class Row:
    """One network's scores, percent.

    Attributes:
      source: where they stand.
      miou: mean over classes; None where the paper gives those of some classes alone.
      iou: by class, of those that it gives.
      miou_13: the mean over SYNTHIA's 13 classes.
    """

    source: str
    miou: float | None
    iou: Mapping[str, float] = dataclasses.field(default_factory=dict)
    miou_13: float | None = None


# fmt: off
TABLE_1 = {
    "Source": Row("Table 1", 36.6, _by_class("cityscapes19", 75.8, 16.8, 77.2, 12.5, 21.0, 25.5, 30.1, 20.1, 81.3,
        24.6, 70.3, 53.8, 26.4, 49.9, 17.2, 25.9, 6.5, 25.3, 36.0)),
    "AdaptSeg": Row("Table 1", 41.4, _by_class("cityscapes19", 86.5, 25.9, 79.8, 22.1, 20.0, 23.6, 33.1, 21.8, 81.8,
        25.9, 75.9, 57.3, 26.2, 76.3, 29.8, 32.1, 7.2, 29.5, 32.5)),
    "CyCADA": Row("Table 1", 42.7, _by_class("cityscapes19", 86.7, 35.6, 80.1, 19.8, 17.5, 38.0, 39.9, 41.5, 82.7,
        27.9, 73.6, 64.9, 19.0, 65.0, 12.0, 28.6, 4.5, 31.1, 42.0)),
    "CLAN": Row("Table 1", 43.2, _by_class("cityscapes19", 87.0, 27.1, 79.6, 27.3, 23.3, 28.3, 35.5, 24.2, 83.6,
        27.4, 74.2, 58.6, 28.0, 76.2, 33.1, 36.7, 6.7, 31.9, 31.4)),
    "APODA": Row("Table 1", 45.9, _by_class("cityscapes19", 85.6, 32.8, 79.0, 29.5, 25.5, 26.8, 34.6, 19.9, 83.7,
        40.6, 77.9, 59.2, 28.3, 84.6, 34.6, 49.2, 8.0, 32.6, 39.6)),
    "PatchAlign": Row("Table 1", 46.5, _by_class("cityscapes19", 92.3, 51.9, 82.1, 29.2, 25.1, 24.5, 33.8, 33.0,
        82.4, 32.8, 82.2, 58.6, 27.2, 84.3, 33.4, 46.3, 2.2, 29.5, 32.3)),
    "ADVENT": Row("Table 1", 45.5, _by_class("cityscapes19", 89.4, 33.1, 81.0, 26.6, 26.8, 27.2, 33.5, 24.7, 83.9,
        36.7, 78.8, 58.7, 30.5, 84.8, 38.5, 44.5, 1.7, 31.6, 32.4)),
    "BDL": Row("Table 1", 48.5, _by_class("cityscapes19", 91.0, 44.7, 84.2, 34.6, 27.6, 30.2, 36.0, 36.0, 85.0, 43.6,
        83.0, 58.6, 31.6, 83.3, 35.3, 49.7, 3.3, 28.8, 35.6)),
    "FADA": Row("Table 1", 50.1, _by_class("cityscapes19", 91.0, 50.6, 86.0, 43.4, 29.8, 36.8, 43.4, 25.0, 86.8,
        38.3, 87.4, 64.0, 38.0, 85.2, 31.6, 46.1, 6.5, 25.4, 37.1)),
    "CBST": Row("Table 1", 45.9, _by_class("cityscapes19", 91.8, 53.5, 80.5, 32.7, 21.0, 34.0, 28.9, 20.4, 83.9,
        34.2, 80.9, 53.1, 24.0, 82.7, 30.3, 35.9, 16.0, 25.9, 42.8)),
    "MRKLD": Row("Table 1", 47.1, _by_class("cityscapes19", 91.0, 55.4, 80.0, 33.7, 21.4, 37.3, 32.9, 24.5, 85.0,
        34.1, 80.8, 57.7, 24.6, 84.1, 27.8, 30.1, 26.9, 26.0, 42.3)),
    "CAG-UDA": Row("Table 1", 50.2, _by_class("cityscapes19", 90.4, 51.6, 83.8, 34.2, 27.8, 38.4, 25.3, 48.4, 85.4,
        38.2, 78.1, 58.6, 34.6, 84.7, 21.9, 42.7, 41.1, 29.3, 37.2)),
    "Seg-Uncertainty": Row("Table 1", 50.3, _by_class("cityscapes19", 90.4, 31.2, 85.1, 36.9, 25.6, 37.5, 48.8, 48.5,
        85.3, 34.8, 81.1, 64.4, 36.8, 86.3, 34.9, 52.2, 1.7, 29.0, 44.6)),
    "ProDA": Row("Table 1", 57.5, _by_class("cityscapes19", 87.8, 56.0, 79.7, 46.3, 44.8, 45.6, 53.5, 53.5, 88.6,
        45.2, 82.1, 70.7, 39.2, 88.8, 45.5, 59.4, 1.0, 48.9, 56.4)),
}
TABLE_2 = {
    "Source": Row("Table 2", 34.9, _by_class("synthia16", 64.3, 21.3, 73.1, 2.4, 1.1, 31.4, 7.0, 27.7, 63.1, 67.6,
        42.2, 19.9, 73.1, 15.3, 10.5, 38.9), 40.3),
    "AdaptSeg": Row("Table 2", None, _by_class("synthia16", 79.2, 37.2, 78.8, None, None, None, 9.9, 10.5, 78.2,
        80.5, 53.5, 19.6, 67.0, 29.5, 21.6, 31.3), 45.9),
    "PatchAlign": Row("Table 2", 40.0, _by_class("synthia16", 82.4, 38.0, 78.6, 8.7, 0.6, 26.0, 3.9, 11.1, 75.5,
        84.6, 53.5, 21.6, 71.4, 32.6, 19.3, 31.7), 46.5),
    "CLAN": Row("Table 2", None, _by_class("synthia16", 81.3, 37.0, 80.1, None, None, None, 16.1, 13.7, 78.2, 81.5,
        53.4, 21.2, 73.0, 32.9, 22.6, 30.7), 47.8),
    "APODA": Row("Table 2", None, _by_class("synthia16", 86.4, 41.3, 79.3, None, None, None, 22.6, 17.3, 80.3, 81.6,
        56.9, 21.0, 84.1, 49.1, 24.6, 45.7), 53.1),
    "ADVENT": Row("Table 2", 41.2, _by_class("synthia16", 85.6, 42.2, 79.7, 8.7, 0.4, 25.9, 5.4, 8.1, 80.4, 84.1,
        57.9, 23.8, 73.3, 36.4, 14.2, 33.0), 48.0),
    "BDL": Row("Table 2", None, _by_class("synthia16", 86.0, 46.7, 80.3, None, None, None, 14.1, 11.6, 79.2, 81.3,
        54.1, 27.9, 73.7, 42.2, 25.7, 45.3), 51.4),
    "FADA": Row("Table 2", 45.2, _by_class("synthia16", 84.5, 40.1, 83.1, 4.8, 0.0, 34.3, 20.1, 27.2, 84.8, 84.0,
        53.5, 22.6, 85.4, 43.7, 26.8, 27.8), 52.5),
    "CBST": Row("Table 2", 42.6, _by_class("synthia16", 68.0, 29.9, 76.3, 10.8, 1.4, 33.9, 22.8, 29.5, 77.6, 78.3,
        60.6, 28.3, 81.6, 23.5, 18.8, 39.8), 48.9),
    "MRKLD": Row("Table 2", 43.8, _by_class("synthia16", 67.7, 32.2, 73.9, 10.7, 1.6, 37.4, 22.2, 31.2, 80.8, 80.5,
        60.8, 29.1, 82.8, 25.0, 19.4, 45.3), 50.1),
    "CAG-UDA": Row("Table 2", 44.5, _by_class("synthia16", 84.7, 40.8, 81.7, 7.8, 0.0, 35.1, 13.3, 22.7, 84.5, 77.6,
        64.2, 27.8, 80.9, 19.7, 22.7, 48.3), 51.5),
    "Seg-Uncertainty": Row("Table 2", 47.9, _by_class("synthia16", 87.6, 41.9, 83.1, 14.7, 1.7, 36.2, 31.3, 19.9,
        81.6, 80.6, 63.0, 21.8, 86.2, 40.7, 23.6, 53.1), 54.9),
    "ProDA": Row("Table 2", 55.5, _by_class("synthia16", 87.8, 45.7, 84.6, 37.1, 0.6, 44.0, 54.6, 37.0, 88.1, 84.4,
        74.2, 24.3, 88.2, 51.1, 40.5, 45.6), 62.0),
}
GTA5 = {
    "source": TABLE_1["Source"],
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
    "stage 3": TABLE_1["ProDA"],
}
SYNTHIA = {"source": TABLE_2["Source"], "stage 3": TABLE_2["ProDA"]}
# fmt: on
TABLES = {"Table 1": TABLE_1, "Table 2": TABLE_2}  # each system's scores, by the paper's name of it
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
    size = stage.get("batch_size") or settings.get("batch_size")
    if settings.get("data.target.name") != "cityscapes" or not stage.get("steps") or not size:
        return []
    epochs = stage["steps"] * size / EPOCH
    shown = f"{stage['steps']:,} steps of {size} images: {epochs:.1f} epochs"
    return [] if abs(epochs - 80) < 0.5 else [(f"{name}.steps", shown, "80 epochs", "Section 5.1")]


def _same(here: Any, there: Any) -> bool:
    here, there = (list(value) if isinstance(value, tuple) else value for value in (here, there))
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(map(_same, here, there))
    return here == there
