"""An account of arrays: which were taken, left over, missing, or of a wrong shape."""

import dataclasses
import fnmatch
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from proda_jax.models.shapes import Shape

FEW = 4  # names with a common beginning that are still listed one by one
COUNTERS = ".num_batches_tracked"  # PyTorch's batch normalisations count their batches; nothing here uses that


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of each array.

    Attributes:
      taken: names of those that have a place in the network and fit it.
      left_over: names of what the file holds besides.
      missing: names of those that the file should hold; `optional`: names that it need not (the classifier).
      wrong_shape: what is wrong, for each array of another shape than its place.
      notes: what else the reader should know.
    """

    taken: tuple[str, ...]
    left_over: tuple[str, ...]
    missing: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    optional: frozenset[str]
    notes: tuple[str, ...]

    def check(self, path: os.PathLike | str, allow_missing: Sequence[str] = ()) -> None:
        """Refuses weights that do not fit.

        Args:
          path: the file, for the message.
          allow_missing: names, or patterns such as 'layer4.*', of arrays that may be missing.

        Raises:
          ValueError: arrays have a wrong shape, or are missing without being optional or allowed to.
        """
        patterns = (*self.optional, *allow_missing)
        missing = [name for name in self.missing if not any(fnmatch.fnmatchcase(name, p) for p in patterns)]
        problems = list(self.wrong_shape[:FEW])
        if len(self.wrong_shape) > FEW:
            problems.append(f"{len(self.wrong_shape) - FEW} more arrays have another shape than expected")
        if missing:
            problems.append(f"missing: {', '.join(grouped(missing))}")
        if problems:
            notes = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise ValueError(f"{path} does not fit the network: {'; '.join(problems)}{notes}")

    def text(self, verbose: bool = False) -> str:
        """The account in lines; names with a common beginning are put together unless `verbose`."""
        show = list if verbose else grouped
        lines = [f"taken: {len(self.taken)} arrays" + (f": {', '.join(self.taken)}" if verbose else "")]
        lines.append(f"left over: {', '.join(show(self.left_over)) or 'nothing'}")
        lines.append(f"missing: {', '.join(show(self.missing)) or 'nothing'}")
        lines.append(f"wrong shape: {'; '.join(self.wrong_shape) or 'nothing'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def account(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, Shape],
    *,
    optional: Collection[str] = (),
    left_over: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Account:
    """Compares arrays with the shapes that a network has; nothing is in no list, and nothing in two.

    Args:
      arrays: under the network's names.
      expected: shape of each array of the network; None stands for any size.
      optional: names that may be missing.
      left_over: names of what the file holds besides `arrays`.
      notes: for the reader.
    """
    taken, wrong = [], []
    for name in (name for name in arrays if name in expected):
        shape, like = tuple(arrays[name].shape), expected[name]
        if len(shape) == len(like) and all(b in (None, a) for a, b in zip(shape, like, strict=True)):
            taken.append(name)
        else:
            wrong.append(f"{name} has shape {written(shape)}, expected {written(like)}")
    return Account(
        taken=tuple(taken),
        left_over=(*(name for name in arrays if name not in expected), *left_over),
        missing=tuple(name for name in expected if name not in arrays),
        wrong_shape=tuple(wrong),
        optional=frozenset(optional),
        notes=tuple(notes),
    )


def written(shape: Shape) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def grouped(names: Sequence[str]) -> list[str]:
    """Names as a person would list them: those of one module together, such as 'layer6.* (8)'."""
    groups = defaultdict(list)
    for name in names:
        groups["*" + COUNTERS if name.endswith(COUNTERS) else name.split(".")[0]].append(name)
    result = []
    for key, members in groups.items():
        if len(members) <= FEW:
            result += members
        elif key.startswith("*"):
            result.append(f"{key} ({len(members)})")
        else:
            common = os.path.commonprefix([name.split(".") for name in members])
            result.append(f"{'.'.join(common)}.* ({len(members)})")
    return result
