"""Opens what the configuration names: data sets, and the writer of curves and panels."""

import contextlib
import os
from collections.abc import Iterator, Mapping

import ml_collections
from absl import logging
from etils import epath

from proda_jax.adaptation.stages import kinds
from proda_jax.data.checks import NONE, meaning_of
from proda_jax.data.decoders import has_tensorflow
from proda_jax.data.label_spaces import FOLDER
from proda_jax.data.source import ExampleSource
from proda_jax.run.evaluate import LABELS, scored_at
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
          given: sources by role that are not to be opened from disk (tests, data in memory).
        """
        self._config = config
        self._data_dir = config.data.data_dir or str(epath.Path(workdir) / "data")
        self._opened: dict[str, ExampleSource] = dict(given or {})
        self._said: set[str] = set()
        self.noted: dict[str, dict] = {}  # by role: what is worth knowing of data that were opened from disk

    def open(self, role: str) -> ExampleSource:
        """The 'source', 'target' or 'validation' data set, prepared on first use.

        Raises:
          ValueError: the raw data are missing, not laid out as expected, or do not look like what the settings say.
        """
        if role not in self._opened:
            with phase(f"opening the {role} images"):
                self._opened[role] = self._open(role)
        return self._opened[role]

    def labelled_validation(self) -> ExampleSource:
        """The validation images, which have labels.

        Raises:
          ValueError: they have none, or there are no such images.
        """
        if self._config.data.validation.name == NONE or not self.open("validation").labelled:
            raise ValueError("there are no labelled validation images (config.data.validation) to evaluate on")
        return self.open("validation")

    def _open(self, role: str) -> ExampleSource:
        from proda_jax.data.pipeline import TfdsSource
        from proda_jax.data_prep.prepare import prepare_role

        data = self._config.data
        wanted = data[role]
        folder = prepare_role(data, role, self._data_dir) if hosts.is_first() else None
        hosts.wait(f"{role} data are prepared")
        if folder is None:  # there is something to do if each host has a disk of its own
            folder = prepare_role(data, role, self._data_dir)
        source = TfdsSource(
            wanted.name if wanted.name != FOLDER else f"{FOLDER}/{wanted.split}",
            wanted.split,
            data_dir=self._data_dir,
            image_size=tuple(wanted.image_size),
            label_map=meaning_of(data, role),
            threads=data.threads,
        )
        labels = source.labelled and (role != "target" or self._needs_target_labels())
        self._look(role, folder, labels)
        if role == "validation" and self._at_labels and source.label_scale != 1.0:
            raise ValueError(
                f"{folder} holds labels at {source.label_scale} of their size, as versions before 0.2 stored them with "
                "data.store_scale, and scores are at their own: delete that folder and give the same command again, or "
                "set --config.evaluate_at=image_size"
            )
        if data.loader == "memory" or not has_tensorflow() and self._is_held_instead(source):
            return source.to_memory(labels=labels, own_labels=labels and role == "validation" and self._at_labels)
        return source

    def _look(self, role: str, folder: epath.Path, labels: bool) -> None:
        """Says what is worth knowing of a role's data, and refuses what does not look like what the settings say."""
        from proda_jax.data_prep.prepare import problems, refusal
        from proda_jax.data_prep.summary import Summary

        data = self._config.data
        lines = Summary.load(folder).brief(data[role].split, meaning_of(data, role))
        self.noted[role] = {"data": f"{data[role].name}, {data[role].split}", "lines": lines}
        say("\n  ".join([f"{role}: {lines[0]}", *lines[1:]]))
        if wrong := problems(data, role, folder, labels=labels):
            raise refusal(role, wrong)

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


class NoWriter:
    """Takes what a writer of clu's takes, and writes nothing."""

    def write_scalars(self, step: int, scalars: Mapping) -> None:
        """Nothing."""

    def write_images(self, step: int, images: Mapping) -> None:
        """Nothing."""
