"""What a prepared data set holds, as a file beside it and as text."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from etils import epath

from proda_jax.data.label_spaces import LabelMap
from proda_jax.data_prep.counts import Counts, class_pixels, without_meaning
from proda_jax.system.files import read_json, write_json

NAME = "summary.json"


@dataclasses.dataclass
class Summary:
    """Counts of a data set, of raw label values: what they mean is said when it is shown.

    Attributes:
      title: name of the data set.
      splits: counts of each split.
      notes: what was left out of the raw folder.
    """

    title: str
    splits: dict[str, Counts]
    notes: list[str]

    @classmethod
    def of(cls, title: str, parts: dict[str, Sequence[Counts]], notes: list[str]) -> "Summary":
        """Adds up the parts of each split."""
        return cls(title, {name: sum(counts, Counts()) for name, counts in parts.items()}, notes)

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Summary":
        """Reads one.

        Raises:
          ValueError: it is damaged.
        """
        values = read_json(epath.Path(folder) / NAME, f"delete {folder} and give the same command again")
        splits = {name: Counts.from_json(counts) for name, counts in values["splits"].items()}
        return cls(values["title"], splits, values["notes"])

    def save(self, folder: epath.PathLike) -> None:
        values = vars(self) | {"splits": {name: vars(counts) for name, counts in self.splits.items()}}
        write_json(epath.Path(folder) / NAME, values)

    def unmapped(self, label_map: LabelMap) -> Counter:
        """Pixels of each label value without meaning."""
        return sum((without_meaning(counts.values, label_map) for counts in self.splits.values()), Counter())

    def text(self, label_map: LabelMap) -> str:
        """The summary for a terminal."""
        lines = []
        for name, counts in self.splits.items():
            lines.append(f"{self.title}/{name}: {counts.images} images, {counts.bytes / 1e6:.1f} MB")
            lines.append(f"  width x height: {_sizes(counts)}")
            lines += _labels(counts, label_map) if counts.values else ["  no labels"]
            lines += [f"  note: {note}" for note in self.notes_of(name, label_map)]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def brief(self, split: str, label_map: LabelMap) -> list[str]:
        """What a run says of the split that it uses: a line, and one for each thing worth knowing."""
        counts = self.splits[split]
        ignored = counts.pixels - class_pixels(counts, label_map).total()
        labels = f"{100 * ignored / counts.pixels:.1f} % of the pixels ignored" if counts.values else "no labels"
        first = f"{self.title}/{split}: {counts.images:,} images of {_sizes(counts)}, {labels}"
        return [first, *self.notes_of(split, label_map), *self.notes]

    def notes_of(self, split: str, label_map: LabelMap) -> list[str]:
        """What is worth knowing of a split besides numbers."""
        counts = self.splits[split]
        notes = _notes_of_labels(counts, label_map) if counts.values else []
        if counts.rotated:
            notes.append(f"{counts.rotated} labelled images ask to be turned when shown (EXIF), which prediction does; "
                         "here they are as their labels")  # fmt: skip
        if counts.paged:
            notes.append(f"{counts.paged} images have several pages or frames, of which the first is taken, such as "
                         f"{counts.first['paged']}")  # fmt: skip
        return notes


def _sizes(counts: Counts) -> str:
    sizes = ", ".join(f"{size} ({n})" for size, n in counts.sizes.most_common(4))
    return f"{sizes}{', ...' if len(counts.sizes) > 4 else ''}"


def _labels(counts: Counts, label_map: LabelMap) -> list[str]:
    pixels = class_pixels(counts, label_map)
    labelled = pixels.total()
    lines = [f"  pixels with a class: {labelled:,}, ignored: {counts.pixels - labelled:,}"]
    width = max((len(name) for name in pixels), default=0)
    return lines + [f"    {name:<{width}} {100 * n / labelled:6.2f} %  {n:>15,}" for name, n in pixels.items()]


def _notes_of_labels(counts: Counts, label_map: LabelMap) -> list[str]:
    pixels, notes = class_pixels(counts, label_map), []
    if absent := [name for name in label_map.space.classes if name not in pixels]:
        notes.append(f"no pixel of {', '.join(absent)}")
    if unmapped := without_meaning(counts.values, label_map):
        values = ", ".join(f"{value} ({n:,} pixels)" for value, n in unmapped.most_common(8))
        notes.append(f"label values without meaning, which are ignored: {values}")
    if counts.others:
        notes.append(f"{counts.others:,} pixels have rare values that were not counted one by one")
    if counts.other_label_sizes:
        notes.append(f"{counts.other_label_sizes} labels differ in size from their image; they are resized")
    return notes
