"""What stages start from: soft pseudo labels, prototypes, hard pseudo labels, translations. All in evaluation mode."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from proda_jax.adaptation import class_thresholds, prototypes, selectors
from proda_jax.adaptation.averaging import averaged_probabilities
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.source import ExampleSource, ordered_records
from proda_jax.data.store import Store
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_nearest
from proda_jax.models.translator import Translator, translated
from proda_jax.system import devices, hosts
from proda_jax.system.interruption import Stopped
from proda_jax.system.progress import progress


def soft_labels(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    *,
    stride: int = 8,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    selector: str | None = None,
    entropy: float = 0.0,
    thresholds: tuple[float, ...] | None = None,
) -> jax.Array:
    """p_{t,0} of whole images (Algorithm 1, line 2), or what a selector by classes makes of it.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      stride: pixels between two labels, the network's output stride or a divisor; the released code keeps what is on
        the network's output grid.
      scales, flip: see `averaged_probabilities`; the released code does neither.
      selector: one of `CLASS_SELECTORS`, whose labels are kept as one-hot vectors, and zeros where there is none.
      entropy: above 0, they are soft instead, see `class_thresholds.regularised_labels`.
      thresholds: of the selector, for each class.

    Returns:
      Probabilities float16 [batch, h, w, classes] whose corners are the images' corners; the network's output grid is
      every (output stride / stride)-th point of them.
    """
    size = soft_label_size(model, images.shape[1:3], stride)
    soft = averaged_probabilities(model, variables, images, size, scales=scales, flip=flip)
    if selector is not None and entropy:
        soft = class_thresholds.regularised_labels(soft, jnp.asarray(thresholds), entropy)
    elif selector is not None:
        labels = selectors.CLASS_SELECTORS[selector].labels(soft, jnp.asarray(thresholds))
        soft = jax.nn.one_hot(labels, model.classes)
    return soft.astype(jnp.float16)


def soft_label_size(model: SegmentationNetwork, image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of the soft labels of images of this size, see `soft_labels`."""
    return tuple(int((n - 1) * model.output_stride // stride) + 1 for n in model.output_size(image_size))


def hard_labels(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    threshold: float = 0.0,
    *,
    selector: str = "above_threshold",
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    thresholds: tuple[float, ...] | None = None,
) -> jax.Array:
    """Labels of whole images for distillation (Algorithm 1, line 23).

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      threshold: confidence by which the selector says which pixels are ignored.
      selector: one of `SELECTORS`, or of `CLASS_SELECTORS`, which goes by `thresholds` of each class.
      scales, flip: see `averaged_probabilities`; the released code averages the image and the flipped one.

    Returns:
      uint8 [batch, height, width].
    """
    mean = averaged_probabilities(model, variables, images, images.shape[1:3], scales=scales, flip=flip)
    if selector in selectors.CLASS_SELECTORS:
        return selectors.CLASS_SELECTORS[selector].labels(mean, jnp.asarray(thresholds)).astype(jnp.uint8)
    kept = selectors.SELECTORS[selector](mean.max(-1), threshold)
    return jnp.where(kept, jnp.argmax(mean, axis=-1), IGNORE).astype(jnp.uint8)


def confidences(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    *,
    stride: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Largest probability of each pixel, and its class, of every device's images: [images, h, w] float32 and uint8.

    Arguments are those of `soft_labels`, on whose grid pixels are; without `stride` they are the images' own.
    """
    size = images.shape[1:3] if stride is None else soft_label_size(model, images.shape[1:3], stride)
    mean = averaged_probabilities(model, variables, images, size, scales=scales, flip=flip)
    found = mean.max(-1), jnp.argmax(mean, axis=-1).astype(jnp.uint8)
    return jax.lax.all_gather(found, devices.AXIS, tiled=True)


def confidences_by_class(
    mapped: Callable, variables: Any, source: ExampleSource, batch_size: int, mesh: Mesh, title: str,
    *, classes: int, every: int,
) -> list[np.ndarray]:  # fmt: skip
    """Confidences of the pixels predicted as each class, over a whole data set; four bytes for each that is kept.

    Args:
      mapped: `confidences` of a network, on the mesh.
      variables: of the network, replicated.
      source: the images.
      batch_size: images in one step, over all devices.
      mesh: the devices.
      title: for the progress bar.
      classes, every: see `class_thresholds.by_class`.
    """
    found: list[list[np.ndarray]] = [[] for _ in range(classes)]
    batches = source.ordered_batches(batch_size, labels=False, shard=hosts.share())
    with progress(title, len(source)) as bar:
        for batch, records in zip(batches, ordered_records(len(source), batch_size), strict=True):
            stop_if_preempted()
            with bar.compiling():
                sure, predicted = map(np.asarray, mapped(variables, devices.put_batch(batch["image"], mesh)))
            for image in np.flatnonzero(records >= 0):
                parts = class_thresholds.by_class(sure[image], predicted[image], classes, every)
                for of_class, part in zip(found, parts, strict=True):
                    of_class.append(part)
            bar.update(int((records >= 0).sum()))
    return [np.concatenate(parts) for parts in found]


def translate(model: Translator, variables: Any, images: jax.Array, *, window: tuple[int, int], overlap: float):
    """Source images as the target would look; see `models.translator.translated`."""
    return translated(model, variables["params"], images, window=window, overlap=overlap)


def fill_store(
    store: Store, make: Callable, variables: Any, source: ExampleSource, batch_size: int, mesh: Mesh, title: str
) -> None:
    """Makes what a store does not have yet: pseudo labels, or translations.

    Args:
      store: where they go.
      make: mapped function (variables, images) -> what is kept of each.
      variables: of the network, replicated.
      source: the images.
      batch_size: images in one step, over all devices.
      mesh: the devices.
      title: for the progress bar.
    """
    missing = set(store.missing(source.names))
    hosts.wait(store.what)  # all have looked before one writes
    if not missing:
        return
    batches = source.ordered_batches(batch_size, labels=False, shard=hosts.share())
    all_records = ordered_records(len(source), batch_size)
    with progress(title, len(source)) as bar:
        for batch, records in zip(batches, all_records, strict=True):
            stop_if_preempted()
            names = [source.names[record] for record in records if record >= 0]
            if missing.intersection(names):  # on all hosts, as they compute together
                with bar.compiling():
                    labels = devices.local_rows(make(variables, devices.put_batch(batch["image"], mesh)))
                for record, label in zip(batch["record"], labels, strict=True):
                    if record >= 0 and source.names[record] in missing:
                        store.write(source.names[record], label)
            bar.update(len(names))
    hosts.wait(f"{store.what} are written")


def _accumulate(
    model: SegmentationNetwork, variables: Any, current: prototypes.Prototypes, batch: dict[str, jax.Array], *, by: str,
    count_limit: int | None, min_pixels: int,
) -> prototypes.Prototypes:  # fmt: skip
    """Prototypes with the class means of one batch, of which the labels, if it has them, have a say."""
    output = model.apply(variables, batch["image"].astype(jnp.float32) / 255.0, train=False)
    assigned = jnp.argmax(output.logits, axis=-1)
    if "label" in batch:
        agree = resize_nearest(batch["label"].astype(jnp.int32), assigned.shape[1:3]) == assigned
        assigned = jnp.where(agree, assigned, IGNORE)
    assigned = jnp.where((batch["record"] >= 0)[:, None, None], assigned, IGNORE)
    means = prototypes.class_means(output.features, assigned, model.classes, min_pixels=min_pixels)
    means, pixels = jax.lax.all_gather(means, devices.AXIS, tiled=True)
    return prototypes.accumulate(current, means, pixels, by=by, count_limit=count_limit)


def stop_if_preempted() -> None:
    """Ends a preparation where several hosts are: what is done is in files."""
    if hosts.is_preempted():
        raise Stopped("stopped while preparing a stage")


def initial_prototypes(
    model: SegmentationNetwork,
    variables: Any,
    source: ExampleSource,
    stage: ml_collections.ConfigDict,
    batch_size: int,
    mesh: Mesh,
) -> prototypes.Prototypes:
    """Prototypes from a data set (Equation 5; Table 6).

    Args:
      model, variables: the warm-up network; variables replicated.
      source: target images, whose classes are the network's own argmax; or, with `stage.prototype_init` 'source',
        labelled source images, of which only the pixels count where label and argmax agree (released).
      stage: section of stage 1.
      batch_size: images in one step, over all devices.
      mesh: the devices.
    """
    labelled = stage.prototype_init == "source"
    step = functools.partial(
        _accumulate, model, by=stage.prototype_init_by, count_limit=stage.prototype_init_limit,
        min_pixels=stage.prototype_init_min_pixels,
    )  # fmt: skip
    mapped = devices.map_step(step, mesh, "rrb", "r")
    current = devices.replicate(prototypes.empty(model.classes, feature_channels(model, variables)), mesh)
    passes = stage.prototype_init_passes
    add = functools.partial(mapped, variables)
    return over_batches("initial prototypes", add, current, source, batch_size, mesh, labels=labelled, passes=passes)


def over_batches(
    what: str, add: Callable[[Any, dict], Any], current: Any, source: ExampleSource, batch_size: int, mesh: Mesh, *,
    labels: bool, passes: int = 1,
) -> Any:  # fmt: skip
    """What comes of `current` once each batch of a data set was added to it, under a bar that says `what`.

    Args:
      add: (current, batch) -> current, mapped over the devices.
      source: the data set, which is gone through in order, `passes` times; with its labels, if `labels`.
      batch_size: images in a batch, over all devices of `mesh`.
    """
    with progress(what, -(-len(source) // batch_size) * passes, "batches") as bar:
        for _ in range(passes):
            batches = source.ordered_batches(batch_size, labels=labels, shard=hosts.share())
            for batch in devices.prefetch(batches, mesh):
                stop_if_preempted()
                with bar.compiling():
                    current = devices.block_on_cpu(add(current, batch))
                bar.update()
    return current


def _add_probabilities(
    model: SegmentationNetwork, variables: Any, current: jax.Array, batch: dict[str, jax.Array]
) -> jax.Array:
    """Sum of the class probabilities of all positions, [classes], with those of one batch."""
    p = averaged_probabilities(model, variables, batch["image"], model.output_size(batch["image"].shape[1:3]))
    there = (batch["record"] >= 0)[:, None, None, None]
    return current + jax.lax.psum(jnp.where(there, p, 0.0).mean((1, 2)).sum(0), devices.AXIS)


def class_shares(
    model: SegmentationNetwork, variables: Any, source: ExampleSource, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """Share of each class in a network's predictions of a data set, float32 [classes] (CPSL).

    Arguments are those of `initial_prototypes`.
    """
    mapped = devices.map_step(functools.partial(_add_probabilities, model), mesh, "rrb", "r")
    current = devices.replicate(np.zeros(model.classes, np.float32), mesh)
    add = functools.partial(mapped, variables)
    total = np.asarray(over_batches("shares of classes", add, current, source, batch_size, mesh, labels=False))
    return total / total.sum()


def _add_class_features(
    model: SegmentationNetwork, variables: Any, current: jax.Array, batch: dict[str, jax.Array]
) -> jax.Array:
    """Sum of each class's features of length one, [classes, channels], with those of one batch."""
    images = batch["image"].astype(jnp.float32) / 255.0
    _, kept = model.apply(variables, images, train=False, mutable=["intermediates"])
    features = prototypes.unit(kept["intermediates"]["encoded"][0])
    labels = resize_nearest(batch["label"].astype(jnp.int32), features.shape[1:3])
    labels = jnp.where((batch["record"] >= 0)[:, None, None], labels, IGNORE)
    members = jax.nn.one_hot(labels, len(current), dtype=jnp.float32)
    added = jnp.einsum("bhwk,bhwc->kc", members, features, precision=jax.lax.Precision.HIGHEST)
    return current + jax.lax.psum(added, devices.AXIS)


def foundation_prototypes(
    model: SegmentationNetwork, variables: Any, source: ExampleSource, classes: int, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """Mean direction of each class's features of a frozen network, float32 [classes, channels] of length one (DFUDA).

    Zero of a class without a pixel. `source`: labelled images; other arguments are those of `initial_prototypes`.
    """
    mapped = devices.map_step(functools.partial(_add_class_features, model), mesh, "rrb", "r")
    channels = model.backbone.levels[-1].channels
    current = devices.replicate(np.zeros((classes, channels), np.float32), mesh)
    add, what = functools.partial(mapped, variables), "prototypes of another network"
    sums = over_batches(what, add, current, source, batch_size, mesh, labels=True)
    return np.asarray(prototypes.unit(sums))


def feature_channels(model: SegmentationNetwork, variables: Any) -> int:
    """Channels of the feature f of this network."""
    shape = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, jnp.zeros((1, 64, 64, 3)))
    return shape.features.shape[-1]


def averaging(stage: ml_collections.ConfigDict) -> dict[str, Any]:
    """Over which views of an image the predictions are averaged that become a stage's pseudo labels."""
    return {"scales": tuple(stage.label_scales), "flip": stage.label_flip}


def label_tag(*, scales: Sequence[float], flip: bool) -> str:
    """What the name of a folder of pseudo labels says of how predictions were averaged."""
    at = "" if tuple(scales) == (1.0,) else "_at_" + "_".join(f"{scale:g}" for scale in scales)
    return at + ("_flipped" if flip else "")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the pseudo labels of a stage are made.

    Attributes:
      folder: name of the folder that keeps them, which says how they were made.
      make: (model, variables, images, **options) -> labels; with `balance`, `thresholds` is one more option.
      options: of `make`.
      balance: how thresholds of each class follow from all target images, if they do: the 'selector', and its
        'portion', 'every' and 'most'.
    """

    folder: str
    make: Callable
    options: dict[str, Any]
    balance: dict[str, Any] | None = None

    @property
    def measured(self) -> dict[str, Any]:
        """Options of `confidences`: those of `make` that say what is predicted."""
        return {name: self.options[name] for name in ("stride", "scales", "flip") if name in self.options}

    def thresholds(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """Thresholds of each class, float32 [classes], from `confidences_by_class`."""
        rule = selectors.CLASS_SELECTORS[self.balance["selector"]]
        return rule.thresholds(found, self.balance["portion"], self.balance["most"])


def soft_recipe(stage: ml_collections.ConfigDict) -> Recipe:
    """p_{t,0} for a stage with these settings."""
    averaged, balance = averaging(stage), balancing(stage)
    options = {"stride": stage.soft_label_stride, **averaged}
    folder = f"soft_labels_{stage.soft_label_stride}" + label_tag(**averaged)
    if balance:
        soft = not stage.hard_labels and not selectors.CLASS_SELECTORS[stage.label_selector].capped
        options |= {"selector": stage.label_selector, "entropy": stage.label_entropy if soft else 0.0}
        folder += balance_tag(balance) + (f"_entropy_{options['entropy']:g}" if options["entropy"] else "")
    return Recipe(folder, soft_labels, options, balance)


def hard_recipe(stage: ml_collections.ConfigDict) -> Recipe:
    """Hard pseudo labels for a stage with these settings."""
    averaged, balance = averaging(stage), balancing(stage)
    if balance:
        options = {"selector": stage.label_selector, **averaged}
        return Recipe("hard_labels" + balance_tag(balance) + label_tag(**averaged), hard_labels, options, balance)
    selected = "" if stage.label_selector == "above_threshold" else f"_{stage.label_selector}"
    make = functools.partial(hard_labels, selector=stage.label_selector)
    folder = f"hard_labels_{stage.label_threshold:g}{selected}" + label_tag(**averaged)
    return Recipe(folder, make, {"threshold": stage.label_threshold, **averaged})


def balancing(stage: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """See `Recipe.balance`."""
    rule = selectors.CLASS_SELECTORS.get(stage.label_selector)
    if rule is None:
        return None
    most = stage.label_threshold if rule.capped else None
    return {"selector": stage.label_selector, "portion": stage.label_portion, "every": stage.label_every, "most": most}


def balance_tag(balance: dict[str, Any]) -> str:
    """What the name of a folder of pseudo labels says of thresholds by classes."""
    most = "" if balance["most"] is None else f"_to_{balance['most']:g}"
    return f"_{balance['selector']}_{balance['portion']:g}{most}_every_{balance['every']}"


RECIPES = {"soft_label": soft_recipe, "hard_label": hard_recipe}  # by the name that a kind of stage gives its labels
