"""Writes a data set with TFDS: encoded files stored as they are, in order, with their names."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from proda_jax.data.prepared import INDEX_DIGEST, index_digest
from proda_jax.data_prep import records, shards
from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.examples import Example
from proda_jax.data_prep.records import Record
from proda_jax.data_prep.summary import Summary
from proda_jax.system import digests

UNFINISHED = ".unfinished"  # ends the name of the folder in which finished shards wait for the others


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of any of the data sets.

    A split is written in shards, side by side in threads, each of them whole or not at all; a preparation that was
    interrupted goes on with the shards that are missing.
    """

    VERSION = tfds.core.Version("0.0.0")  # that of the data set takes its place

    def __init__(
        self, data_set: DataSet, data_dir: str, splits: dict[str, Sequence[Record]] | None = None,
        example: Callable[[Record], Example] | None = None,
    ):  # fmt: skip
        """Writes nothing yet.

        Args:
          data_set: what is written.
          data_dir: folder for prepared data sets.
          splits: its records, if they are listed already.
          example: reads the example of a record; None: from its files.
        """
        self._data_set, self._splits, self._example = data_set, splits, example or data_set.example
        self.name, self.VERSION = data_set.name, tfds.core.Version(data_set.version)
        config = tfds.core.BuilderConfig(name=data_set.config) if data_set.config else None
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

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
        return self._splits or self._data_set.records()

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[str, Example]]:
        for record in records:
            yield record.name, self._example(record).features

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> Sequence[tfds.core.SplitInfo]:
        """Writes all splits; in place of TFDS's way, which takes one example after another and starts over."""
        splits, data_set = self._split_generators(dl_manager), self._data_set
        labelled = {name: any(r.label is not None for r in records) for name, records in splits.items()}
        plan = {"origin": data_set.origin, "names": {s: [r.name for r in records] for s, records in splits.items()}}
        plan["label_scale"] = 1.0  # whatever the images' is
        folder = self.data_path.parent / f"{self.version}{UNFINISHED}"
        for killed in self.data_path.parent.glob(f"{self.version}.incomplete*"):
            if killed != self.data_path:
                killed.rmtree()
        written = shards.write(folder, plan, splits, self._example, self.info.features, self.info.name)
        stored = {name: [one for shard in made for one in shard.examples] for name, made in written.items()}
        records.save(self.data_path, stored)
        counts = {name: [one.counts for one in found] for name, found in stored.items()}
        Summary.of(self.info.name, counts, data_set.notes).save(self.data_path)
        lengths = {name: [len(shard.examples) for shard in made] for name, made in written.items()}
        metadata = plan | {"labelled": labelled, INDEX_DIGEST: index_digest(self.info.name, lengths)}
        self.info.metadata.update(metadata | {digests.KEY: digests.of_json(metadata)})
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
