"""Features of the same pixels in two dimensions, network by network (Figure 5)."""

import hashlib
import importlib.metadata
import sys
from typing import Any

import numpy as np

from proda_jax.data.label_spaces import LabelSpace
from proda_jax.report.content import Folder, Legend, Note, Section
from proda_jax.report.drawing import Panel, draw
from proda_jax.report.run import Run, compared

_OF_PAPER = "Figure 5 of the paper"
_FIGURE5 = {"building": "#1f77b4", "traffic sign": "#7f7f7f", "pole": "#ff7f0e", "vegetation": "#2ca02c"}
_OTHER = tuple(_FIGURE5.values())  # colours where those classes are not among the run's
_EDGE = "#8a8f96"  # of points
_COLUMNS = ("stage", "input", "pixel", "class", "x", "y")
_SEED = 0
_FEWEST = 30  # features of which neighbourhoods say anything; UMAP looks at 15 neighbours


def features(run: Run, folder: Folder) -> Section:
    """Before adaptation, after self-training, and after the whole method, side by side."""
    title = "Features in two dimensions"

    def without(reason: str) -> Section:
        return Section("features", title, [Note(f"No features in two dimensions: {reason}.", missing=True)], _OF_PAPER)

    arrays = {s.name: found[1] for s in run.stages
              if (found := s.newest("features", "feature_class", "feature_pixel"))}  # fmt: skip
    shown = compared(stage for stage in run.stages if stage.name in arrays)
    if not shown or not run.space:
        return without("a stage’s last snapshot holds them, and there is none")
    if len(arrays[shown[-1][1].name]["feature_class"]) < _FEWEST:
        return without(f"there are fewer than {_FEWEST} pixels")
    try:
        points = embedded({stage.name: arrays[stage.name]["features"] for _, stage in shown}, folder)
    except ImportError as error:
        return without(f"umap-learn is needed, in the version that requirements.txt names ({error})")
    classes = arrays[shown[-1][1].name]["feature_class"]
    chosen = highlighted(run.space, classes)
    everything = {int(c): "#{:02x}{:02x}{:02x}".format(*run.space.colors[c]) for c in np.unique(classes)}
    rows = []
    for _, stage in shown:
        found, (key, places) = arrays[stage.name], points[stage.name]
        names = [run.space.classes[c] for c in found["feature_class"]]
        rows += [(stage.name, key, int(pixel), name, float(x), float(y)) for pixel, name, (x, y)
                 in zip(found["feature_pixel"], names, places, strict=True)]  # fmt: skip
    link = {"CSV": folder.table("features", _COLUMNS, rows)}
    captions = {
        "four": f"Features f of {len(classes):,} pixels of held-out images, the same for every network and chosen by "
        "their true classes, mapped to two dimensions by UMAP, each network by itself; axes have no meaning. Here "
        f"{_listed(run.space, chosen)}.",
        "all": "The same points, every class in its own colour.",
    }
    blocks: list[Any] = []
    for which, colors in (("four", chosen), ("all", everything)):
        panels = []
        for what, stage in shown:
            name, of = f"features_{stage.name}_{which}", arrays[stage.name]["feature_class"]
            panels.append(_scatter(f"{what}: {stage.name}", name, points[stage.name][1], of, run.space, colors))
        legend = Legend([(run.space.classes[c], color) for c, color in colors.items()])
        blocks += [legend, folder.figure(panels, captions[which], link)]
    return Section("features", title, blocks, _OF_PAPER)


def _listed(space: LabelSpace, chosen: dict[int, str]) -> str:
    names = [space.classes[c] for c in chosen]
    return "the four classes of the paper’s figure" if set(names) == set(_FIGURE5) else ", ".join(names)


def highlighted(space: LabelSpace, classes: np.ndarray) -> dict[int, str]:
    """Four classes and their colours: those of Figure 5 that there are, filled up with the most frequent others."""
    counts = np.bincount(classes, minlength=len(space))
    wanted = {space.classes.index(name): color for name, color in _FIGURE5.items()
              if name in space.classes and counts[space.classes.index(name)]}  # fmt: skip
    free = [color for color in _OTHER if color not in wanted.values()]
    others = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c] and c not in wanted]
    return wanted | dict(zip(others, free, strict=False))


def embedded(vectors: dict[str, np.ndarray], folder: Folder) -> dict[str, tuple[str, np.ndarray]]:
    """Places of features in the plane, float64 [k, 2], with the key of what they were made from, by stage.

    Those that the folder's data/features.csv holds for the same input are taken from there.

    Args:
      vectors: [k, channels] of each stage.
      folder: of the report.

    Raises:
      ImportError: umap-learn is missing, or does not work here.
    """
    held: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        for row in folder.read_table("features"):
            held.setdefault((row["stage"], row["input"]), []).append((float(row["x"]), float(row["y"])))
    except (KeyError, TypeError, ValueError):
        held = {}  # not one of ours, or cut short: it is made anew
    found = {}
    for name, features in vectors.items():
        key = input_key(features)
        places = held.get((name, key), [])
        if len(places) != len(features):
            places = _umap(name, features)
        found[name] = (key, np.array(places, np.float64))
    return found


def input_key(features: np.ndarray) -> str:
    """Names features and the way in which they are mapped; other features, seed or version have another."""
    version = importlib.metadata.version("umap-learn")
    head = f"umap-learn {version}, seed {_SEED}, {features.dtype} {features.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(features).tobytes()).hexdigest()[:16]


def _umap(name: str, features: np.ndarray) -> np.ndarray:
    """The features in two dimensions, by UMAP with its own settings and a fixed seed."""
    print(f"report: features of {name} in two dimensions (UMAP, some seconds; kept for the next report)", flush=True)
    parametric = "umap.parametric_umap"
    absent = parametric not in sys.modules
    try:
        if absent:  # it brings TensorFlow, PyTorch and torchvision for what nothing here wants; UMAP does without it
            sys.modules[parametric] = None
        import umap
    except ImportError:
        raise
    except Exception as error:  # of what it brings besides, in versions that do not go together
        raise ImportError(f"umap-learn cannot be imported: {error}") from error
    finally:
        if absent:
            sys.modules.pop(parametric, None)

    return umap.UMAP(random_state=_SEED, n_jobs=1).fit_transform(np.asarray(features, np.float32))


def _scatter(
    title: str, name: str, places: np.ndarray, classes: np.ndarray, space: LabelSpace, colors: dict[int, str]
) -> Panel:
    """Points of the classes that have colours; the file has a legend, which the page has beside the panels."""

    def plot(axes: Any) -> None:
        for c, color in colors.items():
            # the grey edge keeps dark points visible on dark pages, and bright ones on bright pages
            axes.scatter(*places[classes == c].T, s=11, color=color, edgecolors=_EDGE, linewidths=0.25, rasterized=True,
                         label=space.classes[c])  # fmt: skip
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[:].set_visible(True)

    def legend(axes: Any) -> None:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, handletextpad=0.1,
                    columnspacing=1.0, fontsize=7)  # fmt: skip

    says = f"features in two dimensions, {title}: {', '.join(space.classes[c] for c in colors)}"
    return draw(name, plot, says=says, size=(3.6, 3.1), only_in_file=legend)
