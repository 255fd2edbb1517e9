"""Classes, their colours, and how each data set's raw label values map onto them (NumPy only)."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from proda_jax.data import preset_values

IGNORE = 250  # label of a pixel that counts nowhere (released code)
IGNORED = "ignored"  # instead of a class, for raw values that count nowhere on purpose

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
_LOVEDA_CLASSES = {
    "background": (255, 255, 255),
    "building": (255, 0, 0),
    "road": (255, 255, 0),
    "water": (0, 0, 255),
    "barren": (159, 129, 183),
    "forest": (0, 255, 0),
    "agriculture": (255, 195, 128),
}
_ISPRS_CLASSES = {  # the colours of its own label files
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
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
      subsets: smaller sets of train ids over which mIoU is reported too, by the name tables give them.
      made_up: whether nobody chose the colours.
    """

    name: str
    classes: tuple[str, ...]
    colors: np.ndarray
    subsets: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    made_up: bool = False

    def __len__(self) -> int:
        return len(self.classes)


def _space(name: str, colors: dict[str, tuple[int, int, int]]) -> LabelSpace:
    return LabelSpace(name, tuple(colors), np.array(list(colors.values()), np.uint8))


def _synthia() -> LabelSpace:
    """Scored over 16 classes and over 13, without wall, fence and pole (Table 2)."""
    space = _space("synthia16", {k: v for k, v in _CITYSCAPES_CLASSES.items() if k not in _NOT_IN_SYNTHIA})
    thirteen = tuple(i for i, name in enumerate(space.classes) if name not in _NOT_IN_SYNTHIA13)
    return dataclasses.replace(space, subsets={"13": thirteen})


LABEL_SPACES = {
    space.name: space
    for space in (
        _space("cityscapes19", _CITYSCAPES_CLASSES),
        _synthia(),
        _space("camvid11", _CAMVID_CLASSES),
        _space("loveda7", _LOVEDA_CLASSES),
        _space("isprs6", _ISPRS_CLASSES),
        _space("isprs5", {name: color for name, color in _ISPRS_CLASSES.items() if name != "clutter"}),
    )
}
CUSTOM = "custom"  # a space whose classes the configuration names


def label_space(name: str, classes: Sequence[str] = (), colors: Sequence[Sequence[int]] = ()) -> LabelSpace:
    """The label space of that name.

    Args:
      name: one of `LABEL_SPACES`, or 'custom'.
      classes: names of a custom space's classes, in the order of their train ids.
      colors: an RGB colour for each in pictures; made up where there are none.

    Raises:
      ValueError: no such space; the message names those there are.
    """
    if name == CUSTOM:
        chosen = colors or [_made_up_color(i + 1) for i in range(len(classes))]
        array = np.array(chosen, np.uint8).reshape(-1, 3)
        return LabelSpace(CUSTOM, tuple(classes), array, made_up=not len(colors))
    if name not in LABEL_SPACES:
        raise ValueError(f"label space {name!r} does not exist; choose one of {', '.join(LABEL_SPACES)} or {CUSTOM}")
    return LABEL_SPACES[name]


def reported_subsets(space: LabelSpace) -> dict[str, tuple[int, ...]]:
    """Smaller sets of train ids over which papers report a network of this space, by the name tables give them.

    A network of Cityscapes' 19 classes can so be set beside those of SYNTHIA's 16 and 13.
    """
    if space.name != "cityscapes19":
        return space.subsets
    synthia = LABEL_SPACES["synthia16"]
    sixteen = tuple(space.classes.index(name) for name in synthia.classes)
    return {"16": sixteen} | {name: tuple(sixteen[i] for i in ids) for name, ids in synthia.subsets.items()}


def _made_up_color(number: int) -> tuple[int, ...]:
    """A colour far from those of neighbouring numbers: its bits are dealt out to red, green and blue in turn."""
    return tuple(sum(((number >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))


Values = Iterable[tuple[int | tuple[int, int, int], str]]

# Raw values in train-id order (released code); GTA5 labels use Cityscapes' label ids. Further raw values of each data
# set's own table have no class here.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)
_CITYSCAPES_VALUES = dict.fromkeys(range(35), IGNORED) | dict(zip(CITYSCAPES_IDS, _CITYSCAPES_CLASSES, strict=True))
_OWN_VALUES: dict[str, tuple[str, dict[int, str]]] = {  # data set: the label space that is made for it, its values
    "cityscapes": ("cityscapes19", _CITYSCAPES_VALUES),
    "gta5": ("cityscapes19", _CITYSCAPES_VALUES),
    "synthia": (
        "synthia16",
        dict.fromkeys(range(23), IGNORED)
        | dict(zip(_SYNTHIA_IDS, LABEL_SPACES["synthia16"].classes, strict=True))
        | {16: "terrain", 18: "truck", 20: "train"},  # of no image, or few; among Cityscapes' 19
    ),
    "camvid": ("camvid11", dict(enumerate(_CAMVID_CLASSES)) | {11: IGNORED}),
    "demo": ("cityscapes19", dict(enumerate(_CITYSCAPES_CLASSES)) | {IGNORE: IGNORED}),
    "demo_360x480": ("cityscapes19", dict(enumerate(_CITYSCAPES_CLASSES)) | {IGNORE: IGNORED}),
}
_TRAIN_IDS = dict(enumerate(_CITYSCAPES_CLASSES)) | {255: IGNORED}


def _table(name: str) -> dict:
    classes, ignored = preset_values.TABLES[name]
    named = {value: cls for cls in _CITYSCAPES_CLASSES for value in classes.get(cls, ())}
    return dict.fromkeys(ignored, IGNORED) | named


_CITYSCAPES_PRESETS = (
    dict.fromkeys(preset_values.TRAIN_IDS, _TRAIN_IDS)
    | dict.fromkeys(preset_values.LABEL_IDS, _CITYSCAPES_VALUES)
    | {name: _table(name) for name in preset_values.TABLES}
    | {"urbansyn": dict(enumerate(_CITYSCAPES_CLASSES)) | {19: IGNORED}}
    # 0 is unlabelled, and what has a train id is followed by static, dynamic, ...; lane markings lie on roads
    | {"carla_0_9_14": {i + 1: name for i, name in enumerate(_CITYSCAPES_CLASSES)}
       | dict.fromkeys((0, *range(20, 29)), IGNORED) | {24: "road"}}
)  # fmt: skip
_OWN_VALUES |= {name: ("cityscapes19", values) for name, values in _CITYSCAPES_PRESETS.items()}
_OWN_VALUES["loveda"] = "loveda7", {0: IGNORED} | {v: name for name, (v,) in preset_values.LOVEDA.items()}
# as they are stored: in their files they are the colours above, and black, which is ignored, between two objects
_OWN_VALUES |= dict.fromkeys(("potsdam", "vaihingen"), ("isprs6", dict(enumerate(_ISPRS_CLASSES)) | {255: IGNORED}))
_VALUES = 2**16  # labels have 8 or 16 bits
FOLDER = "folder"  # a user's own files, which hold train ids unless the configuration says otherwise
_TARGETS = {  # of most of its networks
    "cityscapes19": "cityscapes", "synthia16": "cityscapes", "camvid11": "camvid", "loveda7": "loveda",
    "isprs6": "potsdam",
}  # fmt: skip
# less what these lack; CamVid's have names of their own, and some are of several
_ALSO_IN = dict.fromkeys(
    ("cityscapes", "gta5", "demo", "demo_360x480", *_CITYSCAPES_PRESETS), ("synthia16", "camvid11")
)
_ALSO_IN |= {"synthia": ("cityscapes19", "camvid11")} | dict.fromkeys(("potsdam", "vaihingen"), ("isprs5",))
# as CamVid's 32 classes became 11 (SegNet, Badrinarayanan et al., 2017): walls are of buildings, lights are signs, ...
_IN_CAMVID = {
    "wall": "building", "traffic light": "traffic sign", "vegetation": "tree", "terrain": "tree",
    "person": "pedestrian", "rider": "bicyclist", "motorcycle": "bicyclist", "bicycle": "bicyclist",
    "truck": "car", "bus": "car", "train": "car",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class LabelMap:
    """Train id of every raw label value.

    Attributes:
      space: whose train ids they are.
      table: uint8 [2**16], or [2**24] by `color_number` where labels are colours; `table[raw]` converts an image.
      known: bool, like `table`: values that have a class or are ignored on purpose.
      values: the values, or numbers of colours, that were named; others are known by being close to one.
    """

    space: LabelSpace
    table: np.ndarray
    known: np.ndarray
    values: tuple[int, ...]

    @property
    def in_color(self) -> bool:
        """Whether raw values are colours."""
        return len(self.table) > _VALUES

    def named(self, raw: int) -> str:
        """A raw value as a person writes it: a number, or an RGB colour."""
        return str((raw >> 16, raw >> 8 & 255, raw & 255)) if self.in_color else str(raw)


def check_pairs(values: object) -> None:
    """Refuses what is no list of pairs of a number, or a colour, and a class.

    Raises:
      ValueError: the first that is none, and how they are written.
    """
    def is_pair(pair: object) -> bool:
        two = isinstance(pair, tuple | list) and len(pair) == 2
        return two and isinstance(pair[1], str) and not isinstance(pair[0], list | dict)

    for pair in values if isinstance(values, tuple | list) else (values,):
        if not is_pair(pair):
            raise ValueError(f"{pair!r} is no pair: pairs are written ((0, 'road'), (1, 'sky')), one ((0, 'road'),), "
                             "of colours (((128, 64, 128), 'road'),)")  # fmt: skip


def label_map(dataset: str, space: LabelSpace, values: Values = (), tolerance: int = 0) -> LabelMap:
    """How raw label values of a data set become train ids of a label space.

    Args:
      dataset: data set whose files hold the raw values.
      space: the label space.
      values: pairs of a raw value, or a colour (red, green, blue), and its class or 'ignored'; several values may share
        a class. Empty: the data set's own values; those of 'folder' are the train ids.
      tolerance: a colour that is off by no more than this in each channel means what the nearest named one does.

    Returns:
      The map; values that are not named become `IGNORE`.

    Raises:
      ValueError: the data set's own values have no meaning in that space, or `values` names no class of it.
    """
    if values:
        check_pairs(values)
    named = dict(values) if values else _own_values(dataset, space)
    if len(named) < len(tuple(values)):
        raise ValueError(f"a label value of data set {dataset!r} is given twice: {[raw for raw, _ in values]}")
    colors = [raw for raw in named if not isinstance(raw, int)]
    if 0 < len(colors) < len(named):
        raise ValueError(f"label values of data set {dataset!r} are partly colours, partly numbers: {list(named)}")
    table = np.full(2**24 if colors else _VALUES, IGNORE, np.uint8)
    known = np.zeros(len(table), bool)
    for raw, name in named.items():
        if not (is_color(raw) if colors else 0 <= raw < _VALUES):
            raise ValueError(
                f"label value {raw!r} of data set {dataset!r}: expected 0 to {_VALUES - 1}, or an RGB colour of three "
                "values from 0 to 255, without quotes"
            )
        number = color_number(raw) if colors else raw
        if name != IGNORED and name not in space.classes:
            # a class that the space leaves out, such as Cityscapes' truck in SYNTHIA's 16, is ignored
            if values:
                raise ValueError(f"label value {raw} of data set {dataset!r} is given class {name!r}, which is not in "
                                 f"label space {space.name!r}: {', '.join(space.classes)}, or {IGNORED!r}")  # fmt: skip
        elif name != IGNORED:
            table[number] = space.classes.index(name)
        known[number] = True
    numbers = tuple(color_number(raw) if colors else raw for raw in named)
    if colors and tolerance:
        _widen(table, known, numbers, tolerance)
    return LabelMap(space, table, known, numbers)


def _widen(table: np.ndarray, known: np.ndarray, colors: Sequence[int], tolerance: int) -> None:
    """Gives the colours around each of `colors` its meaning; where several are in reach, that of the nearest."""
    meanings = table[list(colors)]
    nearest = np.full((256, 256, 256), 3 * 256**2, np.int32)  # squared distances
    table, known = table.reshape(nearest.shape), known.reshape(nearest.shape)
    for color, meaning in zip(colors, meanings, strict=True):
        channels = (color >> 16, color >> 8 & 255, color & 255)
        box = tuple(slice(max(c - tolerance, 0), c + tolerance + 1) for c in channels)
        red, green, blue = np.ogrid[tuple(slice(s.start, min(s.stop, 256)) for s in box)]
        distance = (red - channels[0]) ** 2 + (green - channels[1]) ** 2 + (blue - channels[2]) ** 2
        closer = distance < nearest[box]
        nearest[box][closer], table[box][closer], known[box][closer] = distance[closer], meaning, True


def is_color(raw: object) -> bool:
    """Whether this is (red, green, blue), each a whole number from 0 to 255."""
    return isinstance(raw, tuple | list) and len(raw) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in raw)


def color_number(color: Sequence[int]) -> int:
    """One number for an RGB colour of 8 bits a channel."""
    red, green, blue = color
    return (int(red) << 16) | (int(green) << 8) | int(blue)


def own_space(dataset: str) -> LabelSpace:
    """The label space that is made for a data set."""
    return LABEL_SPACES[_OWN_VALUES[dataset][0]]


def _own_values(dataset: str, space: LabelSpace) -> dict[int, str]:
    if dataset == FOLDER:
        return dict(enumerate(space.classes)) | {IGNORE: IGNORED, 255: IGNORED}
    if dataset not in datasets_in(space.name):
        raise ValueError(f"no label values of data set {dataset!r} are known in label space {space.name!r}; known "
                         f"there: {', '.join(datasets_in(space.name))}")  # fmt: skip
    own, values = _OWN_VALUES[dataset]
    if space.name == "camvid11" != own:
        return {raw: _IN_CAMVID.get(name, name) for raw, name in values.items()}
    return values


def own_ids(space: LabelSpace, datasets: Sequence[tuple[str, Values]] = ()) -> tuple[int, ...] | None:
    """The value of each train id in label files: what a data set's own tools and servers read.

    Args:
      space: the label space.
      datasets: data sets and their `values`, as of `label_map`; the first one that says what its values mean counts.
        Where none does, values are train ids. Empty: they are not known, and the space's name has to do.

    Returns:
      A value for each train id, the first of those that mean its class; None: labels are colours, or it is not known.
    """
    if not datasets:
        if space.name not in _TARGETS:
            return None
        datasets = [(_TARGETS[space.name], ())]
    for name, values in datasets:
        if values or name != FOLDER and name in datasets_in(space.name):
            named = dict(values) if values else _own_values(name, space)
            first = {cls: raw for raw, cls in reversed(named.items())}
            ids = tuple(first.get(cls) for cls in space.classes)
            return ids if all(isinstance(raw, int) for raw in ids) else None
    return tuple(range(len(space)))


def datasets_in(space: str) -> list[str]:
    """Names of the data sets whose own label values have a meaning in a label space."""
    return [name for name, (own, _) in _OWN_VALUES.items() if space in (own, *_ALSO_IN.get(name, ()))] + [FOLDER]


def all_datasets() -> list[str]:
    """Names of all data sets."""
    return [*_OWN_VALUES, FOLDER]
