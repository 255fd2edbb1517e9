"""A user's own files: images, and labels where there are any."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from proda_jax.data_prep import lists
from proda_jax.data_prep.base import IMAGE_SUFFIXES, LABEL_SUFFIXES, DataSet, LayoutError, held, resolved
from proda_jax.data_prep.patterns import Pattern, as_texts, named, told_apart
from proda_jax.data_prep.records import Record

Files = dict[str, epath.Path]  # by what they have in common with their counterparts


class Folder(DataSet):
    """One split, of the name that the configuration gives it."""

    name = "folder"

    def __init__(
        self,
        *,
        split: str,
        images: str | Sequence[str],
        labels: str | Sequence[str] | None = None,
        file_list: str | None = None,
        labelled: str | None = None,
        no_images: Mapping[str, str | Sequence[str]] | None = None,
        **kwargs,
    ):
        """Reads nothing yet.

        Args:
          split: name of the data set and its one split.
          images: folder of images, or a pattern, or several.
          labels: the same for label PNGs: one for all images, or one for each of `images`; or None.
          file_list: text file that names those of them that are meant; or None.
          labelled: text file that names the images whose labels may be read; or None, all of them.
          no_images: labels of other data sets, by the settings that name them; none may be taken for an image.
          **kwargs: of `DataSet`.

        Raises:
          LayoutError: there are other than one or as many labels as images.
        """
        self._split = split
        self._images = [Pattern.parse(text, IMAGE_SUFFIXES) for text in as_texts(images)]
        self._labels = [Pattern.parse(text, LABEL_SUFFIXES) for text in as_texts(labels)]
        self._list = resolved(file_list) if file_list else None
        self._few = resolved(labelled) if labelled else None
        self._no_images = {setting: [Pattern.parse(text, LABEL_SUFFIXES) for text in as_texts(given)]
                           for setting, given in (no_images or {}).items()}  # fmt: skip
        if len(self._labels) not in (0, 1, len(self._images)):
            raise LayoutError(f"{split} has {len(self._images)} folders of images and {len(self._labels)} of labels: "
                              "name one of labels for all, or one for each")  # fmt: skip
        self.config = split
        super().__init__(**kwargs)

    @property
    def origin(self) -> dict:
        """What a prepared copy was made from."""
        chosen = {"raw_dir": _listed(self._images), "labels": _listed(self._labels) or None}
        chosen |= {"file_list": str(self._list)} if self._list else {}
        return super().origin | chosen | {"labelled": str(self._few) if self._few else None}

    @property
    def partly_labelled(self) -> bool:
        """Whether labels are wanted of some images alone."""
        return self._few is not None

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of the one split."""
        records = self._all_records()
        if not self._labels:
            self._refuse_labels({record.image for record in records})
        if self._few:
            records = self._labels_of_few(records)
        return {self._split: records}

    def _refuse_labels(self, images: set[epath.Path]) -> None:
        """Refuses labels of another data set among the images: they are PNG files, too, and would be learnt from."""
        for setting, patterns in self._no_images.items():
            found: list[epath.Path] = []
            with contextlib.suppress(LayoutError):  # which that data set is going to say
                for pattern in patterns:
                    if any(own.root in (pattern.root, *pattern.root.parents) for own in self._images):
                        found += pattern.listing().files.values()
            if held := [path for path in found if path in images]:
                raise self.layout_error(f"{len(held)} of these images are the labels of {setting}, the first being "
                                        f"{held[0]}: name folders, or a pattern, that leave them out")  # fmt: skip

    def _labels_of_few(self, records: list[Record]) -> list[Record]:
        """The records, without a label where the list does not name the image, so that it is never opened."""
        files, folders = {record.name: record.image for record in records}, [p.root for p in self._images]
        places = lists.roots(self._few)
        names = lists.Names(files, folders)
        chosen = {names.find(line.image, places) for line in lists.read(self._few)}
        return [record if record.name in chosen else dataclasses.replace(record, label=None) for record in records]

    def _all_records(self) -> list[Record]:
        images, labels = self._once([self._files(p) for p in self._images]), [self._files(p) for p in self._labels]
        begin = [""] * len(images)
        if len(set().union(*images)) < sum(map(len, images)):  # names occur twice
            begin = [f"{end}/" for end in told_apart(self._images)]
        chosen = _merged(images, begin)
        if len(labels) == len(images):
            known = _merged(labels, begin)
        else:  # one for all images, or none
            shared = labels[0] if labels else {}
            known = {start + name: shared[name] for start, part in zip(begin, images, strict=True)
                     for name in part if name in shared}  # fmt: skip
            known |= {name: path for name, path in shared.items() if not any(name in part for part in images)}
        if self._list:
            return self._in_list(chosen, known)
        if labels and not known.keys() & chosen.keys():
            raise LayoutError(
                f"none of the {len(known)} labels {_listed(self._labels)} has the name of one of the {len(chosen)} "
                f"images {_listed(self._images)}: {_first(known)} against {_first(chosen)}; what differs can be left "
                "out of the names with a pattern, such as photos/*_rgb.png and labels/*_label.png"
            )
        return self.match(known, sorted(chosen.items()))

    def _once(self, parts: list[Files]) -> list[Files]:
        """The same without files that an earlier part has, as folders may be in others."""
        seen, found = set(), []
        for part in parts:
            found.append({name: path for name, path in part.items() if path not in seen})
            seen |= set(part.values())
        if repeated := sum(map(len, parts)) - sum(map(len, found)):
            self.notes.append(f"{repeated} images lie in two of the folders of images, and count once")
        return found

    def _files(self, pattern: Pattern) -> Files:
        """{name: file} of a pattern; what it may have meant, too, and is not read is counted."""
        found = pattern.listing()
        whole = pattern.any_ending and pattern in self._images
        passed_over = found.everything_passed_over() if whole else found.passed_over
        self.pass_over(passed_over)
        files = {name: found.files[place] for name, place in sorted(named(pattern, found.files).items())}
        if not files:
            why = f"; passed over: {passed_over}" if passed_over else ""
            kinds = "" if pattern in self._images else "; labels are read from PNG files alone, which keep their values"
            raise LayoutError(f"there are no files {pattern}: the folder holds {held(pattern.root)}{why}{kinds}")
        return files

    def _in_list(self, images: Files, labels: Files) -> list[Record]:
        """Records of the files that the list names, each once."""
        lines, places = lists.read(self._list), lists.roots(self._list)
        all_images, all_labels = (
            lists.Names(files, [pattern.root for pattern in patterns])
            for files, patterns in ((images, self._images), (labels, self._labels))
        )
        found, problems, repeated = {}, [], 0
        for line in lines:
            name = all_images.find(line.image, places)
            label = labels.get(name)
            if line.label and self._labels:
                label = labels.get(all_labels.find(line.label, places))
                if label is None:
                    problems.append(f"line {line.number}, {line.label!r} (one of the labels is {_first(labels)})")
            if name is None:
                problems.append(f"line {line.number}, {line.image!r} (one of the images is {_first(images)})")
            if name in found:
                repeated += 1
                if label != found[name]:
                    raise LayoutError(f"{self._list}, line {line.number}: {line.image!r} has another label than in a "
                                      "line before: leave one of them out")  # fmt: skip
            found[name] = label
        if problems:
            raise LayoutError(f"{self._list} names {len(problems)} files that are not there, the first in "
                              f"{problems[0]}")  # fmt: skip
        if repeated:
            self.notes.append(f"{repeated} lines of {self._list} name an image once more")
        if left := len(images) - len(found):
            self.notes.append(f"{left} images are not in {self._list} and were left out")
        return [Record(name, images[name], label) for name, label in sorted(found.items())]

    def layout_error(self, found: str) -> LayoutError:
        """The error for files that do not fit together."""
        labels = _listed(self._labels) if self._labels else None
        return LayoutError(f"{_listed(self._images)} with labels {labels}: {found}")


def _merged(parts: Iterable[Files], begin: Iterable[str]) -> Files:
    return {start + name: path for start, part in zip(begin, parts, strict=True) for name, path in part.items()}


def _listed(patterns: Iterable[Pattern]) -> str:
    return ", ".join(map(str, patterns))


def _first(names: dict) -> str:
    return repr(next(iter(names))) if names else "none"
