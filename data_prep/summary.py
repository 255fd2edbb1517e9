"""What a prepared data set holds, as a file beside it and as text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from etils import epath

from data_prep.examples import Counts

NAME = "summary.json"


@dataclasses.dataclass
class Summary:
    """Counts of a data set.

    Attributes:
      title: name of the data set.
      classes: those of the label space in which labels were counted.
      splits: counts of each split.
      notes: what was left out of the raw folder.
    """

    title: str
    classes: Sequence[str]
    splits: dict[str, Counts]
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, title: str, classes: Sequence[str], parts: dict[str, Sequence[Counts]]) -> "Summary":
        """Adds up the parts of each split."""
        return cls(title, classes, {name: sum(counts, Counts()) for name, counts in parts.items()})

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Summary":
        values = json.loads((epath.Path(folder) / NAME).read_text())
        splits = {name: Counts.from_json(counts) for name, counts in values["splits"].items()}
        return cls(values["title"], values["classes"], splits, values["notes"])

    def save(self, folder: epath.PathLike) -> None:
        values = vars(self) | {"splits": {name: vars(counts) for name, counts in self.splits.items()}}
        (epath.Path(folder) / NAME).write_text(json.dumps(values, indent=2))

    @property
    def unmapped(self) -> Counter:
        """Pixels of each label value without meaning."""
        return sum((counts.unmapped for counts in self.splits.values()), Counter())

    def text(self) -> str:
        """The summary for a terminal."""
        lines = []
        for name, counts in self.splits.items():
            lines.append(f"{self.title}/{name}: {counts.images} images, {counts.bytes / 1e6:.1f} MB")
            sizes = ", ".join(f"{size} ({n})" for size, n in counts.sizes.most_common(4))
            lines.append(f"  width x height: {sizes}{', ...' if len(counts.sizes) > 4 else ''}")
            lines += _labels(counts, self.classes)
            if counts.rotated:
                lines.append(f"  note: {counts.rotated} JPEG images ask to be rotated when shown (EXIF); they are not")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def _labels(counts: Counts, classes: Sequence[str]) -> list[str]:
    labelled = counts.pixels.total()
    if not labelled + counts.ignored:
        return ["  no labels"]
    lines = [f"  pixels with a class: {labelled:,}, ignored: {counts.ignored:,}"]
    width = max((len(name) for name in counts.pixels), default=0)
    lines += [f"    {name:<{width}} {100 * n / labelled:6.2f} %  {n:>15,}" for name, n in counts.pixels.most_common()]
    if absent := [name for name in classes if name not in counts.pixels]:
        lines.append(f"  note: no pixel of {', '.join(absent)}")
    if counts.unmapped:
        values = ", ".join(f"{value} ({pixels:,} pixels)" for value, pixels in counts.unmapped.most_common(8))
        lines.append(f"  note: label values without meaning, which are ignored: {values}")
    if counts.other_label_sizes:
        lines.append(f"  note: {counts.other_label_sizes} labels differ in size from their image; they are resized")
    return lines
