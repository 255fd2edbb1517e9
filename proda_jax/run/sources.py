"""Opens what the configuration names: data sets, and the writer of curves and panels."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.data.checks import data_sets, meaning_of
from proda_jax.data.decode import has_tensorflow
from proda_jax.data.joined import Joined
from proda_jax.data.label_spaces import FOLDER
from proda_jax.data.source import ExampleSource
from proda_jax.data.subset import Subset
from proda_jax.run.evaluate import LABELS, scored_at
from proda_jax.run.labelled_target import records
from proda_jax.run.train import Writer
from proda_jax.system import hosts, memory
from proda_jax.system.progress import phase, say


class Sources:
    """The data sets of an experiment by role, opened when first asked for."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: epath.PathLike, given: dict | None = None):
        """Opens nothing yet.

        Args:
          config: the whole configuration.
          workdir: prepared data sets go to its `data` folder unless data.data_dir says otherwise.
          given: sources by role that are not to be opened from disk (tests, data in memory); a list where the role has
            several.
        """
        self._config = config
        self._data_dir = config.data.data_dir or str(epath.Path(workdir) / "data")
        self._parts: dict[str, list[ExampleSource]] = {}
        for role, source in (given or {}).items():
            self._parts[role] = list(source) if isinstance(source, list | tuple) else [source]
        self._files: dict[str, dict[str, epath.Path]] = {}  # by setting: the image files of a prepared target
        self._said: set[str] = set()
        self._split: tuple[list[ExampleSource], list[ExampleSource]] | None = None
        self.noted: dict[str, dict] = {}  # by role: what is worth knowing of data that were opened from disk

    def open(self, role: str) -> ExampleSource:
        """The 'source', 'target' or 'validation' images, prepared on first use.

        Several sources or targets come as one; of several validation sets this is the first, by which the best network
        is chosen, and of which snapshots are taken.

        Target images whose labels are learnt from, `data.labelled_target`, are not among the target's.

        Raises:
          ValueError: the raw data are missing, not laid out as expected, or do not look like what the settings say.
        """
        parts = self._rest_and_few()[0] if role == "target" else self._of(role)
        if len(parts) == 1 or role == "validation":
            return parts[0]
        chosen = [i for i, part in enumerate(parts) if len(part)] or [0]
        if len(chosen) == 1:
            return parts[chosen[0]]
        return Joined(*([values[i] for i in chosen] for values in (parts, self.titles(role), self._shares(role))))

    def each(self, role: str) -> list[tuple[ml_collections.ConfigDict, ExampleSource]]:
        """The settings and the images of each data set of a role, as `open` gives them."""
        parts = self._rest_and_few()[0] if role == "target" else self._of(role)
        return list(zip(data_sets(self._config.data, role).values(), parts, strict=True))

    def labelled(self) -> ExampleSource | None:
        """What stages learn from with labels: source images, and target images that are in `data.labelled_target`.

        None where there are neither.
        """
        data = self._config.data
        parts, shares, titles = [], [], []
        source = self._of("source") if data_sets(data, "source") else []
        if source:
            parts, shares, titles = list(source), self._shares("source"), self.titles("source")
        if data.get("labelled_target") is not None:
            few = self._rest_and_few()[1]
            share = data.labelled_target_share if source else 1.0
            of_target = [share * one for one in self._shares("target")]
            shares = [(1.0 - share) * one for one in shares] + of_target
            parts, titles = parts + few, titles + [f"labelled {title}" for title in self.titles("target")]
        chosen = [i for i, part in enumerate(parts) if len(part)]
        if len(chosen) < 2:
            return parts[chosen[0]] if chosen else None
        return Joined(*([values[i] for i in chosen] for values in (parts, titles, shares)))

    def labelled_validation(self) -> ExampleSource:
        """The validation images, which have labels.

        Raises:
          ValueError: they have none, or there are no such images.
        """
        if not data_sets(self._config.data, "validation") or not self.open("validation").labelled:
            raise ValueError("there are no labelled validation images (config.data.validation) to evaluate on")
        return self.open("validation")

    def _of(self, role: str) -> list[ExampleSource]:
        """The data sets of a role, each by itself; those of the target as they are read from the disk."""
        wanted = data_sets(self._config.data, role)
        if not wanted:
            return []
        if role not in self._parts:
            with phase(f"opening the {role} images"):
                self._parts[role] = [self._open(role, setting, one) for setting, one in wanted.items()]
        return self._parts[role]

    def _rest_and_few(self) -> tuple[list[ExampleSource], list[ExampleSource]]:
        """Of each of the target's data sets: the images without labels, and the few with; none of these by default."""
        if self._split is None:
            given, whole, few = "target" in self._parts, self._of("target"), self._config.data.get("labelled_target")
            if few is None:
                if not given:
                    labels = self._needs_target_labels()
                    whole = [self._held(part, labels=labels and part.labelled) for part in whole]
                self._split = (whole, [])
            else:
                files = list(self._files.values()) or [{}] * len(whole)
                listed = records(few, [(part.names, there) for part, there in zip(whole, files, strict=True)])
                for setting, part, some in zip(data_sets(self._config.data, "target"), whole, listed, strict=True):
                    if some and not part.labelled:
                        raise ValueError(
                            f"{few} (config.data.labelled_target) names {part.names[some[0]]!r}, an image of "
                            f"config.{setting}, which has no labels: say where they are as config.{setting}.labels, "
                            "or leave it out of the list"
                        )
                parts = [Subset(part, some) for part, some in zip(whole, listed, strict=True)]
                rest = [Subset(part, np.setdiff1d(np.arange(len(part)), some))
                        for part, some in zip(whole, listed, strict=True)]  # fmt: skip
                if not given:
                    parts = [self._held(part, labels=part.labelled) for part in parts]
                    rest = [self._held(part, labels=False) for part in rest]
                self._split = rest, parts
        return self._split

    def titles(self, role: str) -> list[str]:
        """What the data sets of a role are called, each another name."""
        return [f"{one.name}, {one.split}" for one in data_sets(self._config.data, role).values()]

    def _shares(self, role: str) -> list[float]:
        """What the data sets of a role are of its images in a step, 1 in all."""
        shares = [one.get("share", 1.0) for one in data_sets(self._config.data, role).values()]
        return [share / sum(shares) for share in shares]

    def _open(self, role: str, setting: str, wanted: ml_collections.ConfigDict) -> ExampleSource:
        from proda_jax.data.pipeline import TfdsSource
        from proda_jax.data_prep.prepare import prepare_role
        from proda_jax.data_prep.records import label_values

        data = self._config.data
        folder = prepare_role(data, role, self._data_dir, wanted=wanted) if hosts.is_first() else None
        hosts.wait(f"{setting} is prepared")
        if folder is None:  # there is something to do if each host has a disk of its own
            folder = prepare_role(data, role, self._data_dir, wanted=wanted)
        source = TfdsSource(
            wanted.name if wanted.name != FOLDER else f"{FOLDER}/{wanted.split}",
            wanted.split,
            data_dir=self._data_dir,
            image_size=tuple(wanted.image_size),
            label_map=meaning_of(data, wanted),
            threads=data.threads,
            noted=functools.partial(label_values, folder, wanted.split),
        )
        few = data.get("labelled_target") is not None
        looked_at = source.labelled and (role != "target" or self._needs_target_labels())
        # the labels in a folder's copy are then those of the few images alone
        looked_at = looked_at or source.labelled and role == "target" and few and wanted.name == FOLDER
        self._look(role, setting, wanted, folder, looked_at)
        if role == "validation" and self._at_labels and source.label_scale != 1.0:
            raise ValueError(
                f"{folder} holds labels at {source.label_scale} of their size, as versions before 0.2 stored them with "
                "data.store_scale, and scores are at their own: delete that folder and give the same command again, or "
                "set --config.evaluate_at=image_size"
            )
        if role == "target":  # held once it is known of which images labels are wanted
            self._files[setting] = _image_files(folder, wanted.split) if few else {}
            return source
        return self._held(source, labels=source.labelled, own_labels=role == "validation" and self._at_labels)

    def _held(self, source: ExampleSource, *, labels: bool, own_labels: bool = False) -> ExampleSource:
        """A data set that was opened from the disk, in memory where that is asked for, or needed."""
        if self._config.data.loader == "memory" or not has_tensorflow() and self._is_held_instead(source):
            more = {"own_labels": labels} if own_labels else {}
            return source.to_memory(labels=labels, **more) if len(source) else source
        return source

    def _look(
        self, role: str, setting: str, wanted: ml_collections.ConfigDict, folder: epath.Path, labels: bool
    ) -> None:
        """Says what is worth knowing of a role's data, and refuses what does not look like what the settings say."""
        from proda_jax.data_prep.prepare import problems, refusal
        from proda_jax.data_prep.summary import Summary

        data, title = self._config.data, setting.removeprefix("data.")
        lines = Summary.load(folder).brief(wanted.split, meaning_of(data, wanted))
        self.noted[title] = {"data": f"{wanted.name}, {wanted.split}", "lines": lines}
        say("\n  ".join([f"{title}: {lines[0]}", *lines[1:]]))
        if wrong := problems(data, role, wanted, folder, labels=labels):
            raise refusal(title, wrong)

    def _is_held_instead(self, source: ExampleSource) -> bool:
        """Whether images that TensorFlow cannot read ahead are held in memory: all that fit into half of what is free.

        Where nobody knows what is free, into half of all there is.
        """
        height, width = source.image_size
        room = memory.free() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        held = len(source) * height * width * 4 < room / 2
        how = "held in memory, as by data.loader=memory" if held else "read again and again, too many for the memory"
        self._say_once(f"TensorFlow cannot be imported: images are decoded with Pillow and {how}")
        return held

    @property
    def _at_labels(self) -> bool:
        """Whether scores are at the labels' own sizes."""
        return scored_at(self._config) == LABELS

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            say(message)

    def _needs_target_labels(self) -> bool:
        """Whether a stage is an oracle: nothing else reads labels of target training images."""
        return any(kinds.of(stage).target(stage) == "labels" for stage in map(self._config.get, self._config.stages))

    @contextlib.contextmanager
    def writer(self, folder: epath.Path) -> Iterator[Writer]:
        """Writes for TensorBoard into a stage's folder, if `summaries` is set."""
        if not (self._config.summaries and hosts.is_first()):
            yield NoWriter()
            return
        try:
            with phase("loading TensorBoard's writer"):
                from clu import metric_writers
        except ImportError as error:
            self._say_once(f"no curves for TensorBoard, which clu writes with TensorFlow: {error}")
            yield NoWriter()
            return
        logging.info("metrics for TensorBoard in %s", folder)
        with contextlib.closing(metric_writers.SummaryWriter(str(folder / "summaries"))) as writer:
            yield writer


def _image_files(folder: epath.Path, split: str) -> dict[str, epath.Path]:
    """{name: file} of the images that a prepared split was made of, as far as it notes them."""
    from proda_jax.data_prep.records import load

    noted = (load(folder) or {}).get(split, ())
    return {one.name: epath.Path(one.files[0].path) for one in noted if one.files}


class NoWriter:
    """Takes what a writer of clu's takes, and writes nothing."""

    def write_scalars(self, step: int, scalars: Mapping) -> None:
        """Nothing."""

    def write_images(self, step: int, images: Mapping) -> None:
        """Nothing."""
