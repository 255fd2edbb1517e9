"""Scores predictions that lie in files, whoever made them, as the networks of this program are scored.

Where labels are Cityscapes', the result is that of its own evaluation script: a pixel that is given no class counts as
wrong, and one whose label is ignored counts nowhere.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import ml_collections
import numpy as np
from etils import epath

from proda_jax.data import decode_pillow
from proda_jax.data.checks import first_of, meaning_of
from proda_jax.data.decode import cores
from proda_jax.data.label_spaces import FOLDER, IGNORE, LabelMap, label_map, label_space, reported_subsets
from proda_jax.data.source import ExampleSource
from proda_jax.data_prep.examples import naming
from proda_jax.data_prep.png import index_png, is_png
from proda_jax.run import evaluate
from proda_jax.run.sources import Sources
from proda_jax.system.folders import listing, shown
from proda_jax.system.paths import expanded
from proda_jax.system.progress import progress, say
from proda_jax.system.refusals import choose

AUTO, TRAIN_IDS, LABEL_IDS, COLORS = VALUES = ("auto", "train_ids", "label_ids", "colors")
_GREY_OR_PALETTE = (0, 3, 4)  # colour types in a PNG's header
_COLOR_TYPE = 25  # where it stands


def score(config: ml_collections.ConfigDict, sources: Sources, folder: epath.PathLike, values: str = AUTO) -> dict:
    """Scores of the PNG files in a folder on the validation images.

    Args:
      config: the whole configuration.
      sources: its data sets.
      folder: searched with all folders in it. A file belongs to the image with whose name its own begins.
      values: what the files hold: 'train_ids', 'label_ids', by which is meant what the labels' own files hold, or
        'colors'; 'auto' finds out, and says so where it is a guess.

    Returns:
      As `Experiment.evaluate`, the 'network' being the folder, with 'prediction_values'.

    Raises:
      ValueError: files are missing, or cannot be meant: two for an image, other sizes, values without meaning.
    """
    choose("--prediction_values", values, VALUES)
    source, data = sources.labelled_validation(), first_of(config.data, "validation")
    folder = epath.Path(expanded(folder))
    counted = _count(source, _files(folder, source.names), values)
    space = label_space(config.data.label_space, config.data.classes, config.data.colors)
    confusion, values = _confusion(counted, meaning_of(config.data, first_of(config.data, "validation")), values)
    if not confusion.any():
        raise ValueError(evaluate.NOTHING_COUNTS.format(len(source)))
    if without := confusion[:, -1].sum():
        say(f"{100 * without / confusion.sum():.2f} % of the labelled pixels were given no class, and count as wrong")
    facts = {"task": config.task, "network": str(folder), "prediction_values": values}
    facts |= {"data": f"{data.name}, {data.split}", "images": len(source), "evaluate_at": evaluate.LABELS}
    return facts | evaluate.summary(confusion, space, reported_subsets(space), dice=True)


def _files(folder: epath.Path, names: Iterable[str]) -> list[epath.Path]:
    """The file of each image, in order."""
    if not folder.is_dir():
        raise ValueError(f"--predictions={folder}: expected a folder of PNG files; there is no such folder")
    found, others = {}, []
    by_end: dict[str, list[str]] = {}
    for name in names:
        by_end.setdefault(name.rpartition("/")[2], []).append(name)
    for below, path in listing(folder, (".png",)).files.items():
        name = _image_of(below.removesuffix(path.suffix), by_end)
        if name is None:
            others.append(path)
        elif name in found:
            raise ValueError(f"--predictions={folder}: two files are of image {name}, {found[name]} and {path}: name a "
                             "folder with one for each")  # fmt: skip
        else:
            found[name] = path
    if others:
        say(f"{len(others)} files of {folder} are of no image that is scored, such as {shown(others[0])}")
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"--predictions={folder}: no prediction of {len(missing)} of {len(missing) + len(found)} images, the first "
            f"being {missing[0]}; expected {missing[0]}.png, or {missing[0]}_....png"
        )
    return [found[name] for name in names]


def _image_of(below: str, by_end: dict[str, list[str]]) -> str | None:
    """The image of a file, by the longest beginning of its name that is an image's; None: it has none.

    Names that differ in their folders alone want these, too.
    """
    folder, slash, end = below.rpartition("/")
    while end:
        whole = f"{folder}{slash}{end}"
        if candidates := by_end.get(end):
            fitting = [name for name in candidates if f"/{whole}".endswith(f"/{name}")]
            return fitting[0] if fitting else candidates[0] if len(candidates) == 1 else None
        end = re.sub(r"(^|[_.-])[^_.-]*$", "", end)
    return None


@dataclasses.dataclass
class _Counted:
    """What files hold where labels count.

    Attributes:
      pixels: by (train id of the truth, value); values of colours are `color_number`s.
      first: of each value, in all pixels, the first file.
      in_color: whether the files hold colours.
    """

    pixels: Counter
    first: dict[int, epath.Path]
    in_color: bool


def _count(source: ExampleSource, files: list[epath.Path], values: str) -> _Counted:
    """Counts all pixels, of whatever values.

    Raises:
      ValueError: naming files that cannot be read, or whose sizes are not their labels'.
    """
    with naming(files[0]):
        first = files[0].read_bytes()
        in_color = is_png(first) and first[_COLOR_TYPE] not in _GREY_OR_PALETTE if values == AUTO else values == COLORS
    total, problems = _Counted(Counter(), {}, in_color), []

    def of_one(record: int) -> tuple[dict[tuple[int, int], int], np.ndarray]:
        raw, label = _values(files[record], in_color), source.label(record)
        if raw.shape != label.shape:
            shapes = ["{} x {}".format(*shape[::-1]) for shape in (raw.shape, label.shape)]
            raise ValueError(f"{files[record]} is {shapes[0]}, and its label {shapes[1]}")
        pairs, pixels = np.unique(label.astype(np.int64) << 24 | raw, return_counts=True)
        counts = {(int(pair >> 24), int(pair & 0xFFFFFF)): int(n) for pair, n in zip(pairs, pixels, strict=True)}
        return counts, np.unique(pairs & 0xFFFFFF)

    def of_one_or_why_not(record: int):
        try:
            return of_one(record)
        except ValueError as error:
            return error

    with progress("scoring predictions", len(files), leave=False) as bar, ThreadPoolExecutor(cores()) as pool:
        for path, found in zip(files, pool.map(of_one_or_why_not, range(len(files))), strict=True):
            bar.update()
            if isinstance(found, ValueError):
                problems.append(str(found))
                continue
            total.pixels.update(found[0])
            for value in found[1].tolist():
                total.first.setdefault(value, path)
    if problems:
        raise ValueError(f"{len(problems)} of {len(files)} predictions cannot be scored, as they are compared pixel by "
                         f"pixel: {'; '.join(problems[:5])}{'; ...' if len(problems) > 5 else ''}")  # fmt: skip
    return total


def _values(path: epath.Path, in_color: bool) -> np.ndarray:
    """What a PNG file holds, int64 [height, width]."""
    with naming(path):
        encoded = path.read_bytes()
        if not is_png(encoded):
            raise ValueError("it is not a PNG file")
        if in_color:
            return decode_pillow.raw_label(encoded, in_color=True).astype(np.int64)
        try:
            plain = index_png(encoded)
        except ValueError:
            raise ValueError("it holds colours, and other files do not, or --prediction_values says so") from None
        return decode_pillow.raw_label(plain, in_color=False).astype(np.int64)


def _confusion(counted: _Counted, own: LabelMap, values: str) -> tuple[np.ndarray, str]:
    """Confusion matrix, int64 [classes, classes + 1], the last column being of no class; and what the values are.

    Raises:
      ValueError: values mean nothing.
    """
    classes = len(own.space)
    meanings = _meanings(own)
    if values == AUTO:
        values = COLORS if counted.in_color else _guess(counted, meanings)
    if values not in meanings:
        raise ValueError("--prediction_values=label_ids: the labels' own files hold colours; their predictions are "
                         "train_ids or colors")  # fmt: skip
    meaning = meanings[values]
    if not counted.in_color and counted.first.keys() == {0, 255} and meaning.table[255] == IGNORE:
        raise ValueError(f"{counted.first[255]} and the others hold 0 and 255 alone, as masks of two classes do, and "
                         f"255 is no class among {values}: write masks as 0 and 1, or as labels are")  # fmt: skip
    if unknown := [value for value in counted.first if not meaning.known[value]]:
        more = f", as {len(unknown) - 1} other values" if len(unknown) > 1 else ""
        raise ValueError(
            f"{counted.first[unknown[0]]} holds {meaning.named(unknown[0])}, which means nothing among {values}{more}: "
            f"name what the files hold as --prediction_values, one of {', '.join(VALUES[1:])}"
        )
    confusion = np.zeros((classes, classes + 1), np.int64)
    for (truth, value), pixels in counted.pixels.items():
        if truth < classes:
            confusion[truth, min(int(meaning.table[value]), classes)] += pixels
    return confusion, values


def _meanings(own: LabelMap) -> dict[str, LabelMap]:
    """What values mean as train ids, as those of the labels' own files, and as colours."""
    space = own.space
    meanings = {TRAIN_IDS: label_map(FOLDER, space)}
    if not own.in_color:
        known = own.known.copy()
        known[255] = True  # no class, in whatever data set
        meanings[LABEL_IDS] = dataclasses.replace(own, known=known)
    colors = [(tuple(color), name) for color, name in zip(space.colors.tolist(), space.classes, strict=True)]
    unnamed = [] if (0, 0, 0) in dict(colors) else [((0, 0, 0), "ignored")]
    meanings[COLORS] = own if own.in_color else label_map(FOLDER, space, [*colors, *unnamed])
    return meanings


def _guess(counted: _Counted, meanings: dict[str, LabelMap]) -> str:
    """Train ids or label ids: whichever knows more of the values, and train ids where both know all, which is said."""
    unknown = {kind: sum(not meanings[kind].known[value] for value in counted.first)
               for kind in (TRAIN_IDS, LABEL_IDS) if kind in meanings}  # fmt: skip
    fitting = [kind for kind, values in unknown.items() if not values]
    if counted.first.keys() == {0, 255} and LABEL_IDS in fitting and meanings[LABEL_IDS].table[255] != IGNORE:
        return LABEL_IDS  # masks, as the labels are
    if len(fitting) == 2 and any(len({meanings[kind].table[value] for kind in fitting}) > 1 for value in counted.first):
        largest = max((value for value in counted.first if value < IGNORE), default=0)
        say(f"a guess: the files hold values up to {largest}, which are taken for train ids; if they are not, name "
            "--prediction_values=label_ids")  # fmt: skip
    return min(unknown, key=unknown.get)
