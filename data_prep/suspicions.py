"""Labels that do not mean what the settings say: how that shows in what was counted, and which setting mends it."""

from collections.abc import Callable, Iterable

import numpy as np

from proda_jax.data.label_spaces import IGNORE, LabelMap
from proda_jax.data_prep.counts import Counts, class_pixels

_MOST_IGNORED = 0.5  # share of all pixels
_NEAR, _VERY_NEAR = 40, 8  # from a class's colour, in the channel that differs most
_MANY_COLORS = 8  # this many of them near classes' colours are no class of their own
_NOISE = 0.01  # share of all pixels that are near a class's colour


def suspicions(counts: Counts, label_map: LabelMap, role: str, allowed: Iterable[str]) -> list[str]:
    """What is suspicious of a role's labels, each with the setting that mends it; empty where all is well.

    Args:
      counts: of the labels.
      label_map: what the settings say that they mean.
      role: 'source', 'target' or 'validation'; a class may be absent from all but the source.
      allowed: names of what is meant to be so, of `data.checks.ALLOWANCES`.
    """
    if not counts.values:
        return []
    causes = ("label_shapes", "other_palettes", "noisy_colors", "binary_masks", "values_from_one")
    found = _found(causes, counts, label_map, role, allowed)
    if not found:  # what causes bring with them goes without saying
        found = _found(("ignored_pixels", "absent_classes"), counts, label_map, role, allowed)
    return found


def _found(names: Iterable[str], counts: Counts, label_map: LabelMap, role: str, allowed: Iterable[str]) -> list[str]:
    said = {name: _CHECKS[name](counts, label_map, role) for name in names if name not in tuple(allowed)}
    return [f"{text}; if that is meant, --config.data.allow={name}" for name, text in said.items() if text]


def _label_shapes(counts: Counts, label_map: LabelMap, role: str) -> str:
    if not counts.other_label_shapes:
        return ""
    return (f"{counts.other_label_shapes} labels have another shape than their image and would be squeezed into it: "
            f"{counts.first['other_label_shapes']}. Were they turned, or cut? Bring them into their images' "
            "shape")  # fmt: skip


def _other_palettes(counts: Counts, label_map: LabelMap, role: str) -> str:
    if not counts.other_palettes:
        return ""
    space = label_map.space
    first = ", ".join(f"({tuple(color)}, {name!r})"
                      for color, name in zip(space.colors[:2].tolist(), space.classes, strict=False))  # fmt: skip
    return (f"{counts.other_palettes} labels have palettes that contradict the settings: "
            f"{counts.first['other_palettes']}. If the colours are right, set "
            f"data.{role}.label_values=({first}{', ...' if len(space) > 2 else ''})")  # fmt: skip


def _noisy_colors(counts: Counts, label_map: LabelMap, role: str) -> str:
    """Colours beside those of classes, as compression, scaling or another colour space leave them."""
    if not label_map.in_color:
        return ""
    near = near_colors(counts, label_map)
    near = {value: d for value, d in near.items() if d <= _VERY_NEAR or len(near) >= _MANY_COLORS}
    pixels = sum(counts.values[value] for value in near)
    if pixels < _NOISE * counts.pixels:
        return ""
    first = max(near, key=counts.values.__getitem__)
    return (f"{share(pixels, counts)} of the pixels have colours that are almost those of classes, such as "
            f"{label_map.named(first)} ({share(counts.values[first], counts)}), as compression or scaling leaves them: "
            f"set data.{role}.color_tolerance={max(near.values())}, the most that a channel may be off")  # fmt: skip


def near_colors(counts: Counts, label_map: LabelMap) -> dict[int, int]:
    """{colour without meaning: how far it is from the nearest that has one, in the channel that differs most}."""
    known, found = _channels(np.array(label_map.values)), {}
    for value in (value for value in counts.values if not label_map.known[value]):
        distance = int(np.abs(known - _channels(np.array([value]))).max(-1).min())
        if distance <= _NEAR:
            found[value] = distance
    return found


def _channels(colors: np.ndarray) -> np.ndarray:
    """Red, green and blue of colour numbers, int [n, 3]."""
    return np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1).astype(int)


def _binary_masks(counts: Counts, label_map: LabelMap, role: str) -> str:
    if label_map.in_color or set(counts.values) != {0, 255} or label_map.table[255] != IGNORE:
        return ""
    classes = label_map.space.classes
    values = ", ".join(f"({value}, {name!r})" for value, name in zip((0, 255), classes, strict=False))
    return (f"the labels hold 0 and 255 alone, as masks of two classes do, and 255, which "
            f"{share(counts.values[255], counts)} of the pixels have, is no class: say what they are, such as "
            f"data.{role}.label_values=({values})")  # fmt: skip


def _values_from_one(counts: Counts, label_map: LabelMap, role: str) -> str:
    classes = label_map.space.classes
    number = len(classes)
    positions = not label_map.in_color and (label_map.table[:number] == np.arange(number)).all()
    values = sorted(value for value in counts.values if value not in (IGNORE, 255))
    if not positions or label_map.known[number] or not values or values[-1] != number:
        return ""
    zero = "(0, 'ignored'), " if 0 in values else ""
    mended = zero + ", ".join(f"({i + 1}, {name!r})" for i, name in enumerate(classes[:3])) + ", ..." * (number > 3)
    return (f"label values go from {values[0]} to {number}, where 0 to {number - 1} are expected for {number} classes: "
            f"if they are counted from 1, set data.{role}.label_values=({mended})")  # fmt: skip


def _ignored_pixels(counts: Counts, label_map: LabelMap, role: str) -> str:
    ignored = counts.pixels - class_pixels(counts, label_map).total()
    if ignored <= _MOST_IGNORED * counts.pixels:
        return ""
    without = [value for value, _ in counts.values.most_common() if label_map.table[value] == IGNORE]
    return (f"{share(ignored, counts)} of all pixels are ignored, having {_listed(without, counts, label_map)}: give "
            f"them a class in data.{role}.label_values")  # fmt: skip


def _absent_classes(counts: Counts, label_map: LabelMap, role: str) -> str:
    present = class_pixels(counts, label_map)
    absent = [name for name in label_map.space.classes if name not in present]
    if role != "source" or not absent:
        return ""
    meant = set(label_map.table[label_map.known])
    unnamed = [name for name in absent if label_map.space.classes.index(name) not in meant]
    text = f"no source pixel is {', '.join(absent)}, so nothing can be learnt of that"
    if unnamed:
        return f"{text}: no value stands for {', '.join(unnamed)} in data.{role}.label_values"
    return (f"{text}: the labels hold {_listed(list(dict(counts.values.most_common())), counts, label_map)}; does "
            f"data.{role}.label_values say what these are?")  # fmt: skip


def _listed(values: list[int], counts: Counts, label_map: LabelMap) -> str:
    """Values with their share of all pixels, the most frequent ones."""
    what = "the colours" if label_map.in_color else "the values"
    named = [f"{label_map.named(value)} ({share(counts.values[value], counts)})" for value in values[:6]]
    return f"{what} {', '.join(named)}{', ...' if len(values) > 6 else ''}"


def share(pixels: int, counts: Counts) -> str:
    """Of all pixels, in percent."""
    return f"{100 * pixels / counts.pixels:.3g} %"


_CHECKS: dict[str, Callable[[Counts, LabelMap, str], str]] = {
    "label_shapes": _label_shapes,
    "other_palettes": _other_palettes,
    "noisy_colors": _noisy_colors,
    "binary_masks": _binary_masks,
    "values_from_one": _values_from_one,
    "ignored_pixels": _ignored_pixels,
    "absent_classes": _absent_classes,
}
