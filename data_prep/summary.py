"""What a prepared data set holds, as a file beside it and as text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from etils import epath

from proda_jax.data.label_spaces import IGNORE, LabelMap
from proda_jax.data_prep.examples import Counts, without_meaning
from proda_jax.system.files import write_atomically

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
        splits = {name: sum(counts, Counts()) for name, counts in parts.items()}
        for counts in splits.values():
            counts.files = []
        return cls(title, splits, notes)

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Summary":
        values = json.loads((epath.Path(folder) / NAME).read_text())
        splits = {name: Counts.from_json(counts) for name, counts in values["splits"].items()}
        return cls(values["title"], splits, values["notes"])

    def save(self, folder: epath.PathLike) -> None:
        values = vars(self) | {"splits": {name: vars(counts) for name, counts in self.splits.items()}}
        write_atomically(epath.Path(folder) / NAME, json.dumps(values, indent=2))

    def unmapped(self, label_map: LabelMap) -> Counter:
        """Pixels of each label value without meaning."""
        return sum((without_meaning(counts.values, label_map) for counts in self.splits.values()), Counter())

    def text(self, label_map: LabelMap) -> str:
        """The summary for a terminal."""
        lines = []
        for name, counts in self.splits.items():
            lines.append(f"{self.title}/{name}: {counts.images} images, {counts.bytes / 1e6:.1f} MB")
            sizes = ", ".join(f"{size} ({n})" for size, n in counts.sizes.most_common(4))
            lines.append(f"  width x height: {sizes}{', ...' if len(counts.sizes) > 4 else ''}")
            lines += _labels(counts, label_map) if counts.values else ["  no labels"]
            if counts.rotated:
                lines.append(f"  note: {counts.rotated} JPEG images ask to be rotated when shown (EXIF); they are not")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def class_pixels(counts: Counts, label_map: LabelMap) -> Counter:
    """Pixels of each class that occurs, most frequent first."""
    pixels: Counter = Counter()
    for value, number in counts.values.items():
        if (train_id := label_map.table[value]) != IGNORE:
            pixels[label_map.space.classes[train_id]] += number
    return Counter(dict(pixels.most_common()))


def _labels(counts: Counts, label_map: LabelMap) -> list[str]:
    pixels = class_pixels(counts, label_map)
    labelled = pixels.total()
    lines = [f"  pixels with a class: {labelled:,}, ignored: {counts.values.total() + counts.others - labelled:,}"]
    width = max((len(name) for name in pixels), default=0)
    lines += [f"    {name:<{width}} {100 * n / labelled:6.2f} %  {n:>15,}" for name, n in pixels.items()]
    if absent := [name for name in label_map.space.classes if name not in pixels]:
        lines.append(f"  note: no pixel of {', '.join(absent)}")
    if unmapped := without_meaning(counts.values, label_map):
        values = ", ".join(f"{value} ({n:,} pixels)" for value, n in unmapped.most_common(8))
        lines.append(f"  note: label values without meaning, which are ignored: {values}")
    if counts.others:
        lines.append(f"  note: {counts.others:,} pixels have rare values that were not counted one by one")
    if counts.other_label_sizes:
        lines.append(f"  note: {counts.other_label_sizes} labels differ in size from their image; they are resized")
    return lines
