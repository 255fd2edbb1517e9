"""Which target images a run may learn from with their labels: those in the list `data.labelled_target`."""

from collections.abc import Mapping, Sequence

from etils import epath

from proda_jax.data_prep import lists
from proda_jax.data_prep.base import resolved

Files = Mapping[str, epath.Path]  # image files by their names; none where they are not known


def names(file_list: str) -> list[str]:
    """What the list calls the images, sorted; where it stands does not matter.

    Raises:
      ValueError: it is not there, or names nothing.
    """
    return sorted({line.image for line in lists.read(resolved(file_list))})


def records(file_list: str, targets: Sequence[tuple[Sequence[str], Files]]) -> list[list[int]]:
    """The records that a list names.

    Args:
      file_list: the list; a line is what `data_prep.lists` reads, and a label that it names besides is passed over.
      targets: names and files of each of the target's data sets.

    Returns:
      Numbers of the records of each data set, in order.

    Raises:
      ValueError: the list cannot be read, a line names an image of none of them, or of several.
    """
    path = resolved(file_list)
    places, found, problems = lists.roots(path), [set() for _ in targets], []
    known = [_known(*target) for target in targets]
    for line in lists.read(path):
        called = [(i, name) for i, images in enumerate(known) if (name := images.find(line.image, places)) is not None]
        if len(called) == 1:
            found[called[0][0]].add(called[0][1])
        else:
            problems.append(f"line {line.number}, {line.image!r}, which names {'several' if called else 'none'}")
    if problems:
        raise ValueError(
            f"{path} (config.data.labelled_target): {len(problems)} of its lines do not name one target image each, "
            f"the first being {problems[0]}; one of the images is {next(iter(targets[0][0]))!r}"
        )
    return [[number for number, name in enumerate(there) if name in chosen]
            for (there, _), chosen in zip(targets, found, strict=True)]  # fmt: skip


def _known(there: Sequence[str], files: Files) -> lists.Names:
    everything = {name: files.get(name, epath.Path(name)) for name in there}
    return lists.Names(everything, {path.parent for path in files.values()})
