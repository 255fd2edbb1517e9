"""Classes, their colours, and how each data set's raw label values map onto them (NumPy only)."""

import dataclasses

import numpy as np

IGNORE = 250  # label of a pixel that counts nowhere (released code)

_CITYSCAPES_CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
_CAMVID_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "sidewalk": (60, 40, 222),
    "tree": (128, 128, 0),
    "traffic sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_NOT_IN_SYNTHIA = ("terrain", "truck", "train")
_NOT_IN_SYNTHIA13 = ("wall", "fence", "pole")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSpace:
    """The classes a network predicts, in the order of its logits.

    Attributes:
      name: what configs and reports call it.
      classes: name of each train id.
      colors: RGB colour of each train id in label images, uint8 [classes, 3].
    """

    name: str
    classes: tuple[str, ...]
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def _space(name: str, colors: dict[str, tuple[int, int, int]]) -> LabelSpace:
    return LabelSpace(name, tuple(colors), np.array(list(colors.values()), np.uint8))


LABEL_SPACES = {
    space.name: space
    for space in (
        _space("cityscapes19", _CITYSCAPES_CLASSES),
        _space("synthia16", {k: v for k, v in _CITYSCAPES_CLASSES.items() if k not in _NOT_IN_SYNTHIA}),
        _space("camvid11", _CAMVID_CLASSES),
    )
}

# Raw values in train-id order (released code); GTA5 labels use Cityscapes' label ids.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)
_RAW_VALUES: dict[tuple[str, str], dict[int, str]] = {
    **{
        (dataset, space): dict(zip(_CITYSCAPES_IDS, _CITYSCAPES_CLASSES, strict=True))
        for dataset in ("cityscapes", "gta5")
        for space in ("cityscapes19", "synthia16")
    },
    ("synthia", "synthia16"): dict(zip(_SYNTHIA_IDS, LABEL_SPACES["synthia16"].classes, strict=True)),
    ("camvid", "camvid11"): dict(enumerate(_CAMVID_CLASSES)),
    ("demo", "cityscapes19"): dict(enumerate(_CITYSCAPES_CLASSES)),
    **{("folder", name): dict(enumerate(space.classes)) for name, space in LABEL_SPACES.items()},
}


def label_space(name: str) -> LabelSpace:
    """The label space of that name.

    Raises:
      ValueError: no such space; the message names those there are.
    """
    if name not in LABEL_SPACES:
        raise ValueError(f"label space {name!r} does not exist; choose one of {', '.join(LABEL_SPACES)}")
    return LABEL_SPACES[name]


def lookup_table(dataset: str, space: str) -> np.ndarray:
    """Train id of every raw label value of a data set.

    Args:
      dataset: data set whose files hold the raw values; 'folder' means files that hold train ids already.
      space: name of the label space.

    Returns:
      uint8 [256]; raw values outside the space map to `IGNORE`. `table[raw]` converts a whole label image.

    Raises:
      ValueError: the data set is not known in that space; the message names the combinations that are.
    """
    if (dataset, space) not in _RAW_VALUES:
        known = ", ".join(f"{d} in {s}" for d, s in _RAW_VALUES)
        raise ValueError(f"no label values of data set {dataset!r} are known in label space {space!r}; known: {known}")
    classes = LABEL_SPACES[space].classes
    table = np.full(256, IGNORE, np.uint8)
    for raw, name in _RAW_VALUES[dataset, space].items():
        if name in classes:
            table[raw] = classes.index(name)
    return table


def datasets_in(space: str) -> list[str]:
    """Names of the data sets whose label values are known in a label space."""
    return [dataset for dataset, known in _RAW_VALUES if known == space]


def score_subsets(space: str) -> dict[str, tuple[int, ...]]:
    """The sets of train ids over which mIoU is reported, by the name tables give them.

    SYNTHIA is scored over 16 classes and over 13, without wall, fence and pole (Table 2).
    """
    classes = label_space(space).classes
    subsets = {str(len(classes)): tuple(range(len(classes)))}
    if space == "synthia16":
        subsets["13"] = tuple(i for i, name in enumerate(classes) if name not in _NOT_IN_SYNTHIA13)
    return subsets
