"""What all TFDS builders of this project share: encoded files stored as they are, in order, with their names."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from proda_jax.data_prep import records, shards
from proda_jax.data_prep.examples import Checks, Example, checked, read_files
from proda_jax.data_prep.records import Record, digest, states
from proda_jax.data_prep.summary import Summary
from proda_jax.system.files import is_remote
from proda_jax.system.folders import PassedOver, listing, shown
from proda_jax.system.paths import expanded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # in lower or upper case
LABEL_SUFFIXES = (".png",)
UNFINISHED = ".unfinished"  # ends the name of the folder in which finished shards wait for the others


class LayoutError(ValueError):
    """A raw folder does not look as its archive does."""


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders: a subclass lists the records of each split, and reads them if they are no files.

    A split is written in shards, side by side in threads, each of them whole or not at all; a preparation that was
    interrupted goes on with the shards that are missing.
    """

    VERSION = tfds.core.Version("2.0.0")
    LAYOUT = ""  # expected layout of the raw folder, for error messages

    def __init__(self, *, checks: Checks, raw_dir: str | None = None, skip_unlabelled: bool = False, **kwargs):
        """Makes the builder.

        Args:
          checks: what is demanded of each file, and at which size it is stored.
          raw_dir: folder into which the data set's archives were unpacked.
          skip_unlabelled: whether images without a label are left out, of splits that have labels, and not refused.
          **kwargs: of `tfds.core.GeneratorBasedBuilder`.
        """
        self.raw_dir = resolved(raw_dir) if raw_dir else None
        self.checks = checks
        self.skip_unlabelled = skip_unlabelled
        self.notes: list[str] = []  # what was left out of the raw folder, for the summary
        self.passed_over = PassedOver()  # likewise
        super().__init__(**kwargs)

    def splits(self) -> dict[str, Sequence[Record]]:
        """The records of each split, in order; all labelled or none."""
        raise NotImplementedError

    def records(self) -> dict[str, list[Record]]:
        """The same, checked, and without images that have no label where these are to be left out.

        Raises:
          LayoutError: there are none, labels are missing, or two records of a split have the same name.
        """
        self.notes, self.passed_over = [], PassedOver()
        splits = {name: list(records) for name, records in self.splits().items() if records}
        if not splits:
            raise self.layout_error("no images")
        for name, found in splits.items():
            self._check_names(name, found)
            splits[name] = self._labelled(name, found)
        self.notes += [f"passed over: {line}" for line in self.passed_over.lines()]
        return splits

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """Encoded image and label of a record; the label is empty where there is none."""
        return read_files(record)

    def example(self, record: Record) -> Example:
        """The example of a record, checked."""
        files = states(record)  # before it is read, so that a change meanwhile is noticed
        image, label = self.read(record)
        example = checked(record, image, self.own_values(record, label), self.checks)
        return example.of(files, digest(image, label))

    def own_values(self, record: Record, label: bytes) -> bytes:
        """A record's label, with the raw values that the data set is known for, where the file has others."""
        return label

    @property
    def origin(self) -> dict:
        """What a prepared copy was made from, and how; another copy in its place has to agree."""
        return {
            "raw_dir": str(self.raw_dir) if self.raw_dir else None,
            "store_scale": self.checks.store_scale,
            "labels_in_color": self.checks.label_map.in_color,  # palettes are kept then, otherwise their indices
        }

    # What TFDS asks for

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Tensor(shape=(), dtype=np.object_),  # PNG of raw values; Image would demand one
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )  # fmt: skip

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Sequence[Record]]:
        return self.records()

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[str, Example]]:
        for record in records:
            yield record.name, self.example(record).features

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> Sequence[tfds.core.SplitInfo]:
        """Writes all splits; in place of TFDS's way, which takes one example after another and starts over."""
        splits = self._split_generators(dl_manager)
        labelled = {name: records[0].label is not None for name, records in splits.items()}
        plan = {"origin": self.origin, "names": {s: [r.name for r in records] for s, records in splits.items()}}
        folder = self.data_path.parent / f"{self.version}{UNFINISHED}"
        for killed in self.data_path.parent.glob(f"{self.version}.incomplete*"):
            if killed != self.data_path:
                killed.rmtree()
        written = shards.write(folder, plan, splits, self.example, self.info.features, self.info.name)
        stored = {name: [one for shard in made for one in shard.examples] for name, made in written.items()}
        records.save(self.data_path, stored)
        counts = {name: [one.counts for one in found] for name, found in stored.items()}
        Summary.of(self.info.name, counts, self.notes).save(self.data_path)
        self.info.metadata.update(plan, labelled=labelled)
        infos = [self._take_over(name, made) for name, made in written.items()]
        folder.rmtree()
        return infos

    def _take_over(self, split: str, written: Sequence[shards.Shard]) -> tfds.core.SplitInfo:
        """Moves a split's shards to where TFDS looks for them."""
        template = self._get_filename_template(split_name=split)
        for number, shard in enumerate(written):
            shard.path.replace(template.sharded_filepath(shard_index=number, num_shards=len(written)))
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard.examples) for shard in written],
            num_bytes=sum(one.counts.bytes for shard in written for one in shard.examples),
            filename_template=template,
        )

    def _labelled(self, split: str, records: list[Record]) -> list[Record]:
        """The records of a split, of which some have labels: all, or those alone that have one."""
        missing = [record.name for record in records if record.label is None]
        if not 0 < len(missing) < len(records):
            return records
        lacking = f"no label for {len(missing)} of {len(records)} images, the first being {missing[0]}"
        if not self.skip_unlabelled:
            raise self.layout_error(f"split {split} has {lacking}; skip_unlabelled=True leaves them out")
        self.notes.append(f"left out of {split}: {lacking}")
        return [record for record in records if record.label is not None]

    def _check_names(self, split: str, records: Sequence[Record]) -> None:
        seen: dict[str, Record] = {}
        for record in records:
            if record.name in seen:
                raise self.layout_error(
                    f"split {split} has two images named {record.name}: {seen[record.name].image} and {record.image}"
                )
            seen[record.name] = record

    # Finding files

    def files(self, folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, epath.Path]:
        """{place below a folder of the archive: file} in order; none where there is no such folder.

        What is passed over there is counted; among images, files of other kinds, too.
        """
        root = self.folder(folder)
        if not root.is_dir():
            return {}
        try:
            found = listing(root, suffixes)
        except OSError as error:
            raise self.layout_error(f"{root} cannot be read ({error.strerror or error})") from None
        self.pass_over(found.passed_over if suffixes == LABEL_SUFFIXES else found.everything_passed_over())
        return found.files

    def pass_over(self, passed_over: PassedOver) -> None:
        """Adds to what was passed over."""
        for reason, number in passed_over.counts.items():
            self.passed_over.counts[reason] += number
            self.passed_over.first.setdefault(reason, passed_over.first[reason])

    def folder(self, below: str = "") -> epath.Path:
        """A folder of the archive."""
        if self.raw_dir is None:
            raise ValueError(f"{self.name} is prepared from files: pass raw_dir, a folder with {self.LAYOUT}")
        return self.raw_dir / below

    def pairs(self, images: str, labels: str) -> list[Record]:
        """Records of a folder of images and the labels of the same name in another folder; not of folders in them."""
        known: dict[str, epath.Path] = {}
        for below, path in self.files(labels, LABEL_SUFFIXES).items():
            if "/" not in below:
                self.add(known, _stem(below), path)
        found = self.files(images).items()
        return self.match(known, [(_stem(below), path) for below, path in found if "/" not in below])

    def add(self, known: dict[str, epath.Path], name: str, path: epath.Path) -> None:
        """Adds a label to those known by name; refuses a second one of the same name."""
        if name in known:
            raise self.layout_error(f"there are two labels named {name}: {known[name]} and {path}")
        known[name] = path

    def match(self, labels: dict[str, epath.Path], images: Sequence[tuple[str, epath.Path]]) -> list[Record]:
        """Records of (name, image) with the label of that name; notes labels that have no image."""
        orphans = sorted(labels.keys() - {name for name, _ in images})
        if orphans and images:
            self.notes.append(f"{len(orphans)} labels without an image were left out, such as {labels[orphans[0]]}")
        return [Record(name, path, labels.get(name)) for name, path in images]

    def labelled_pairs(self, images: str, labels: str) -> list[Record]:
        """The same for a data set that is of no use without labels."""
        records = self.pairs(images, labels)
        if records and all(record.label is None for record in records):
            raise self.layout_error(f"{images} has {len(records)} images, but {labels} has no label for any of them")
        return records

    def layout_error(self, found: str) -> LayoutError:
        """The error for a raw folder that is empty or holds something else."""
        here = "there is no such folder"
        if self.raw_dir.is_dir():
            here = f"the folder holds {held(self.raw_dir)}"
        return LayoutError(f"{self.raw_dir} does not look like {self.name}: {found}; expected {self.LAYOUT}; {here}")


def held(folder: epath.Path) -> str:
    """What a folder holds, for messages: some names, hidden ones aside."""
    names = sorted(shown(path.name) for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:8]) + ", ..." * (len(names) > 8) or "nothing"


def _stem(place: str) -> str:
    return os.path.splitext(place)[0]


def resolved(path: str) -> epath.Path:
    """An absolute path; one in a bucket is that already."""
    return epath.Path(path) if is_remote(path) else epath.Path(expanded(path)).resolve()
