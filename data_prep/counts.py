"""What a number of examples hold, counted in raw label values: what these mean is said when it is shown."""

import dataclasses
from collections import Counter
from typing import Any

from proda_jax.data.label_spaces import LabelMap

_MOST_VALUES = 1024  # that are counted one by one


@dataclasses.dataclass
class Counts:
    """What examples hold; JSON-serialisable.

    Attributes:
      images: number of images; `bytes`: of the files that are stored.
      sizes: images of each size as it is shown, {'width x height': number}.
      other_label_sizes: labels whose size differs from their image's, which are resized when they are read.
      other_label_shapes: those among them whose sides have another proportion than their image's.
      other_palettes: labels whose palette has the colour of one class for the value of another.
      rotated: labelled images whose EXIF orientation asks for a rotation, which is not done.
      paged: images with several pages or frames, of which the first is stored.
      first: {name of an oddity: the first file that has it, and how}.
      values: pixels of each raw label value, {value: pixels}; `others`: of rarer ones, where there are very many.
    """

    images: int = 0
    bytes: int = 0
    sizes: Counter = dataclasses.field(default_factory=Counter)
    other_label_sizes: int = 0
    other_label_shapes: int = 0
    other_palettes: int = 0
    rotated: int = 0
    paged: int = 0
    first: dict[str, str] = dataclasses.field(default_factory=dict)
    values: Counter = dataclasses.field(default_factory=Counter)
    others: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        total = Counts(*(_sum(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)))
        total.cap_values()
        return total

    def cap_values(self) -> None:
        """Counts only the most frequent values one by one; a photograph as a label has a million."""
        if len(self.values) > _MOST_VALUES:
            before = self.values.total()
            self.values = Counter(dict(self.values.most_common(_MOST_VALUES)))
            self.others += before - self.values.total()

    @property
    def pixels(self) -> int:
        """Of all labels."""
        return self.values.total() + self.others

    @classmethod
    def from_json(cls, values: dict) -> "Counts":
        """Counts that were written by this version or an older one."""
        known = {field.name for field in dataclasses.fields(cls)}
        found = cls(**{key: value for key, value in values.items() if key in known})
        found.sizes = Counter(found.sizes)
        found.values = Counter({int(value): pixels for value, pixels in found.values.items()})
        return found


def _sum(one: Any, other: Any) -> Any:
    return other | one if type(one) is dict else one + other  # of two first files, the first


def without_meaning(values: Counter, label_map: LabelMap) -> Counter:
    """Pixels of each value that is neither mapped to a class nor ignored on purpose, by the value's name."""
    return Counter({label_map.named(value): pixels for value, pixels in values.items() if not label_map.known[value]})


def class_pixels(counts: Counts, label_map: LabelMap) -> Counter:
    """Pixels of each class that occurs, most frequent first."""
    pixels: Counter = Counter()
    for value, number in counts.values.items():
        if (train_id := int(label_map.table[value])) < len(label_map.space):
            pixels[label_map.space.classes[train_id]] += number
    return Counter(dict(pixels.most_common()))
