"""What a run keeps to look at: the same few images in every stage, and what its networks make of them as they learn.

Reports, panels and the curves of pseudo-label quality (Figures 2, 3 and 5) are drawn from these files alone.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from proda_jax.adaptation import prototypes, selectors
from proda_jax.adaptation.stages import kinds
from proda_jax.adaptation.stages.step import probabilities
from proda_jax.adaptation.state import TrainState
from proda_jax.data import metrics
from proda_jax.data.label_spaces import IGNORE, LabelSpace
from proda_jax.data.source import Batch, ExampleSource
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_align_corners
from proda_jax.run import evaluate
from proda_jax.system import devices, hosts
from proda_jax.system.files import NotWritten, npz, write_atomically, write_if_new
from proda_jax.system.progress import say

WIDEST = 1024  # pixels of a sample as it is kept
LABELS = ("learnt_from", "fixed", "network")  # whose quality is measured: see `judge`
MEASURES = ("miou", "pixel_accuracy", "class_accuracy")


class HeldOutImages:
    """The images of an experiment that are looked at: held-out ones, evenly spread, some of them as samples.

    Attributes:
      images: all of them, in memory; labelled unless they are target images of a run without validation images.
      samples: places of the samples among them.
      grid: height and width of the network's features of one of them.
    """

    def __init__(self, source: ExampleSource, settings: ml_collections.ConfigDict, batch_size: int,
                 network: SegmentationNetwork, *, labels: bool):  # fmt: skip
        """Reads the images.

        Args:
          source: labelled validation images; target training images, whose labels stay unread, where there are none.
          settings: the configuration's `snapshots`.
          batch_size: images in one step, over all devices.
          network: whose features are kept.
          labels: whether their labels may be read.
        """
        chosen = spread(len(source), max(settings.held_out, settings.images))
        self.images = source.to_memory(labels=labels, records=chosen)
        self.samples = spread(len(chosen), settings.images)
        self.batch_size = batch_size
        self.grid = network.output_size(self.images.image_size)
        self.points = np.full((len(chosen), 0), -1, np.int32)
        if self.images.labelled:
            truth = at_corners(self.images.labels, self.grid)
            self.points = feature_points(truth, settings.features)

    def batches(self) -> Iterator[Batch]:
        """This host's shares of all images, in order."""
        return self.images.ordered_batches(self.batch_size, labels=self.images.labelled, shard=hosts.share())

    def write(self, path: epath.Path) -> None:
        """Writes the samples: image [n, h, w, 3], name [n] and, where they have labels, label [n, h, w]."""
        names = np.array([self.images.names[i] for i in self.samples])
        arrays = {"image": reduced(self.images.images[self.samples]), "name": names}
        if self.images.labelled:
            arrays["label"] = reduced(self.images.labels[self.samples])
        with left_out_if_not_written():
            write_if_new(path, npz(compressed=True, **arrays))


class Snapshots:
    """Takes the snapshots of one stage: <folder>/snapshots/<step>.npz."""

    def __init__(
        self,
        looked: HeldOutImages,
        folder: epath.Path,
        model: SegmentationNetwork,
        mesh: Mesh,
        stage: ml_collections.ConfigDict,
        space: LabelSpace,
        soft_labels: Callable | None = None,
        teacher: Any = None,
    ):
        """Takes none yet.

        Args:
          looked: the images.
          folder: of the stage.
          model: the stage's network.
          mesh: the devices.
          stage: its settings.
          space: its classes.
          soft_labels: mapped (variables, images) -> p_{t,0}, in stages that learn from soft labels.
          teacher: replicated variables of the network that makes them.
        """
        self._looked, self._folder, self._mesh, self._stage, self._space = looked, folder, mesh, stage, space
        self._predict = devices.map_step(functools.partial(predictions, model), mesh, "rb", "r")
        self._features = devices.map_step(functools.partial(features_at, model), mesh, "rbb", "r")
        judging = functools.partial(judge, model, ml_collections.FrozenConfigDict(stage))
        self._judge = devices.map_step(judging, mesh, "rb", "rr")
        self._soft_labels, self._teacher = soft_labels, teacher

    @functools.cached_property
    def _batches(self) -> list[Batch]:
        """This host's shares of the images, with p_{t,0} where the stage learns from it."""
        batches = list(self._looked.batches())
        if self._soft_labels is not None:
            for batch in batches:
                images = devices.put_batch(batch["image"], self._mesh)
                batch["soft_label"] = devices.local_rows(self._soft_labels(self._teacher, images))
            self._teacher = None
        return batches

    def path(self, step: int) -> epath.Path:
        return self._folder / "snapshots" / f"{step}.npz"

    def take(self, state: TrainState, confusion: np.ndarray | None = None) -> tuple[dict, dict]:
        """Writes the snapshot of a state.

        Args:
          state: train state after some step; of the first one, whatever it is, prototypes are those of Equation 5.
          confusion: [classes, classes] on all validation images, if they were scored.

        Returns:
          For the stage's history, {'pseudo_labels': {labels: {measure: percent}}} where it rectifies or fixes soft
          labels of labelled images; and panels to look at, {title: uint8 [samples, h, w, 3]}.
        """
        step = int(state.step)
        arrays = {"prediction": reduced(self._predicted(state))}
        if confusion is not None:
            arrays["confusion"] = confusion
        if self._soft_labels is not None:
            arrays |= self._judged(state)
        if state.prototypes is not None:
            arrays |= {"prototypes": np.asarray(state.prototypes.vectors), "seen": np.asarray(state.prototypes.seen)}
        if step == self._stage.steps and self._looked.points.size:
            arrays |= self._featured(state)
        if hosts.is_first():
            with left_out_if_not_written():
                write_atomically(self.path(step), npz(compressed=True, **arrays))
        entry = {}
        if "quality" in arrays:
            rows = [dict(zip(MEASURES, map(float, row), strict=True)) for row in arrays["quality"]]
            entry["pseudo_labels"] = dict(zip(LABELS, rows, strict=True))
        return entry, self._panels(arrays)

    def _predicted(self, state: TrainState) -> np.ndarray:
        images = self._looked.images.to_memory(labels=False, records=self._looked.samples)
        batches = images.ordered_batches(self._looked.batch_size, labels=False, shard=hosts.share())
        parts = [
            np.asarray(devices.block_on_cpu(self._predict(state.variables, batch["image"])))
            for batch in devices.prefetch(batches, self._mesh)
        ]
        return np.concatenate(parts)[: len(images)]

    def _judged(self, state: TrainState) -> dict[str, np.ndarray]:
        """Maps of the samples, and the quality of labels where images are labelled."""
        ema = state.params if state.ema_params is None else state.ema_params
        networks = {"network": state.variables, "guide": {"params": ema, "batch_stats": state.batch_stats}}
        networks["prototypes"] = state.prototypes
        total, parts = 0, []
        for batch in devices.prefetch(self._batches, self._mesh):
            matrices, maps = devices.block_on_cpu(self._judge(networks, batch))
            total, parts = total + np.asarray(matrices, np.int64), [*parts, jax.tree.map(np.asarray, maps)]
        maps = jax.tree.map(lambda *rows: np.concatenate(rows)[self._looked.samples], *parts)
        if self._looked.images.labelled:
            scores = [metrics.scores(matrix) for matrix in total]
            maps["quality"] = np.round([[100 * score[name] for name in MEASURES] for score in scores], 2)
        return maps

    def _featured(self, state: TrainState) -> dict[str, np.ndarray]:
        """Features of the network at the chosen points, their class, and which of all grid points they are."""
        rows = []
        for batch in self._looked.batches():
            points = np.where(batch["record"][:, None] < 0, -1, self._looked.points[batch["record"]])
            found = self._features(
                state.variables, *(devices.put_batch(x, self._mesh) for x in (batch["image"], points))
            )
            rows.append(np.asarray(found))
        found, points = np.concatenate(rows)[: len(self._looked.points)], self._looked.points
        truth = at_corners(self._looked.images.labels, self._looked.grid).reshape(len(points), -1)
        of_image, kept = np.arange(len(points))[:, None], points >= 0
        return {
            "features": found[kept],
            "feature_class": truth[of_image, points][kept],
            "feature_pixel": (points + of_image * truth.shape[1])[kept].astype(np.int32),
        }

    def _panels(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        colors = np.vstack([self._space.colors, np.zeros((256 - len(self._space), 3), np.uint8)])
        panels = {"input": reduced(self._looked.images.images[self._looked.samples])}
        panels |= {
            title: colors[arrays[key]]
            for title, key in (("soft_label", "fixed"), ("rectified_label", "rectified"), ("prediction", "prediction"))
            if key in arrays
        }
        if "weight" in arrays:
            panels["weight"] = (255 * arrays["weight"].astype(np.float32)).astype(np.uint8)[..., None].repeat(3, -1)
        return panels


def predictions(model: SegmentationNetwork, variables: Any, images: jax.Array) -> jax.Array:
    """Classes of every device's images, uint8 [images, height, width]."""
    classes = evaluate.predict(model, variables, images).astype(jnp.uint8)
    return jax.lax.all_gather(classes, devices.AXIS, tiled=True)


def features_at(model: SegmentationNetwork, variables: Any, images: jax.Array, points: jax.Array) -> jax.Array:
    """Features f of every device's images at points of the output grid.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      points: row-major places on the output grid, int32 [batch, points]; -1 is no place.

    Returns:
      float16 [images, points, channels].
    """
    features = model.apply(variables, images.astype(jnp.float32) / 255.0, train=False).features
    features = features.reshape(len(features), -1, features.shape[-1])
    found = jnp.take_along_axis(features, jnp.maximum(points, 0)[..., None], axis=1).astype(jnp.float16)
    return jax.lax.all_gather(found, devices.AXIS, tiled=True)


def judge(
    model: SegmentationNetwork, stage: ml_collections.ConfigDict, networks: dict[str, Any], batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What a stage would learn from on images it never learns from (Figures 2 and 3).

    As in a training step, but on whole images, without dropout and with running statistics.

    Args:
      model: the network.
      stage: settings of a stage that rectifies pseudo labels.
      networks: variables of the trained 'network', of the 'guide' that weighs labels, and the 'prototypes' or None.
      batch: 'image' uint8 [batch, height, width, 3], 'soft_label' p_{t,0} [batch, h, w, classes], 'record', and 'label'
        uint8 [batch, height, width] where there are any.

    Returns:
      Confusion matrices int32 [3, classes, classes] of the labels that the stage learns from, of the fixed ones
      (argmax of p_{t,0}) and of the network's own prediction, which conventional self-training would use next; over
      pixels of the soft labels' grid that have a label. And maps [images, h, w] of all devices' images: 'fixed' and
      'rectified' uint8, and float16 'confidence' of the fixed labels and 'weight' that their class is given, in [0, 1].
    """
    images, soft = batch["image"].astype(jnp.float32) / 255.0, batch["soft_label"].astype(jnp.float32)
    size = soft.shape[1:3]
    kind = kinds.of(stage)
    own = jnp.argmax(resize_align_corners(model.apply(networks["network"], images, train=False).logits, size), -1)
    distances, guess, current = None, None, networks["prototypes"]
    if kind.momentum_encoder(stage):
        guide = model.apply(networks["guide"], images, train=False)
        distance = prototypes.DISTANCES[stage.get("prototype_distance", "euclidean")]
        distances = distance(resize_align_corners(guide.features, size), current.vectors)
        guess = probabilities(resize_align_corners(guide.logits, size))
    kept, weights = kind.module.weigh(stage, soft, distances, guess, current)
    learnt_from, _ = prototypes.rectify(
        kept, weights, stage.label_threshold, selectors.by_confidence(stage.label_selector)
    )
    best, labelled = jnp.argmax(soft, axis=-1), soft.max(-1) > 0  # a selector by classes leaves zeros elsewhere
    learnt_from, fixed = (jnp.where(labelled, labels, IGNORE) for labels in (learnt_from, best))
    maps = {
        "fixed": fixed.astype(jnp.uint8),
        "rectified": learnt_from.astype(jnp.uint8),
        "confidence": soft.max(-1).astype(jnp.float16),
        "weight": jnp.take_along_axis(weights, best[..., None], axis=-1)[..., 0].astype(jnp.float16),
    }
    matrices = jnp.zeros((len(LABELS), model.classes, model.classes), jnp.int32)
    if "label" in batch:
        truth = jnp.where((batch["record"] >= 0)[:, None, None], at_corners(batch["label"], size), IGNORE)
        matrices = jnp.stack([
            metrics.confusion_matrix(labels, jnp.where(labels == IGNORE, IGNORE, truth), model.classes)
            for labels in (learnt_from, fixed, own)
        ])  # fmt: skip
    maps = jax.tree.map(lambda x: jax.lax.all_gather(x, devices.AXIS, tiled=True), maps)
    return jax.lax.psum(matrices, devices.AXIS), maps


@contextlib.contextmanager
def left_out_if_not_written() -> Iterator[None]:
    """Training goes on without a file that is only there to be looked at."""
    try:
        yield
    except NotWritten as error:
        say(f"reports will do without this one: {error}")


def spread(size: int, count: int) -> np.ndarray:
    """`count` of 0 .. size - 1 (all, if there are fewer), evenly spread, int64."""
    count = min(count, size)
    return (np.arange(count) * size + size // 2) // max(count, 1)


def at_corners(labels: Any, size: tuple[int, int]) -> Any:
    """Labels [batch, height, width] at the points of a grid whose corners are theirs: [batch, *size]."""
    rows, columns = (np.rint(np.linspace(0, n - 1, m)).astype(int) for n, m in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows][:, :, columns]


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Images or labels [n, h, w, ...] at most `WIDEST` wide: every second, third, ... pixel."""
    stride = -(-pixels.shape[2] // WIDEST)
    return pixels[:, ::stride, ::stride]


def feature_points(truth: np.ndarray, per_class: int) -> np.ndarray:
    """Points whose features are kept: up to `per_class` of each class, drawn from all images alike.

    Args:
      truth: classes on the output grid, [images, h, w].
      per_class: how many.

    Returns:
      Row-major places, int32 [images, points], filled up with -1.
    """
    generator, flat = np.random.default_rng(0), truth.reshape(len(truth), -1)
    chosen: list[list[int]] = [[] for _ in flat]
    for number in sorted(set(np.unique(flat)) - {IGNORE}):
        places = np.argwhere(flat == number)
        for image, place in generator.permutation(places)[:per_class]:
            chosen[image].append(int(place))
    longest = max(map(len, chosen), default=0)
    rows = [sorted(row) + [-1] * (longest - len(row)) for row in chosen]
    return np.array(rows, np.int32).reshape(len(chosen), longest)
