"""What stages 1 to 3 start from: soft pseudo labels, prototypes, hard pseudo labels. All in evaluation mode."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from proda_jax.adaptation import prototypes, selectors
from proda_jax.adaptation.averaging import averaged_probabilities
from proda_jax.data.label_spaces import IGNORE
from proda_jax.data.pseudo_labels import PseudoLabels
from proda_jax.data.source import ExampleSource, ordered_records
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_nearest
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
) -> jax.Array:
    """p_{t,0} of whole images (Algorithm 1, line 2).

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      stride: pixels between two labels, the network's output stride or a divisor; the released code keeps what is on
        the network's output grid.
      scales, flip: see `averaged_probabilities`; the released code does neither.

    Returns:
      Probabilities float16 [batch, h, w, classes] whose corners are the images' corners; the network's output grid is
      every (output stride / stride)-th point of them.
    """
    size = soft_label_size(model, images.shape[1:3], stride)
    return averaged_probabilities(model, variables, images, size, scales=scales, flip=flip).astype(jnp.float16)


def soft_label_size(model: SegmentationNetwork, image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of the soft labels of images of this size, see `soft_labels`."""
    return tuple(int((n - 1) * model.output_stride // stride) + 1 for n in model.output_size(image_size))


def hard_labels(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    threshold: float,
    *,
    selector: Callable = selectors.above_threshold,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
) -> jax.Array:
    """Labels of whole images for distillation (Algorithm 1, line 23).

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      threshold: confidence by which the selector, one of `selectors`, says which pixels are ignored.
      scales, flip: see `averaged_probabilities`; the released code averages the image and its mirror image.

    Returns:
      uint8 [batch, height, width].
    """
    mean = averaged_probabilities(model, variables, images, images.shape[1:3], scales=scales, flip=flip)
    return jnp.where(selector(mean.max(-1), threshold), jnp.argmax(mean, axis=-1), IGNORE).astype(jnp.uint8)


def fill_store(
    store: PseudoLabels, make: Callable, variables: Any, source: ExampleSource, batch_size: int, mesh: Mesh, title: str
) -> None:
    """Makes the pseudo labels that a store does not have yet.

    Args:
      store: where they go.
      make: mapped function (variables, images) -> labels.
      variables: of the network, replicated.
      source: the images.
      batch_size: images in one step, over all devices.
      mesh: the devices.
      title: for the progress bar.
    """
    missing = set(store.missing(source.names))
    hosts.wait("pseudo labels")  # all have looked before one writes
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
    hosts.wait("pseudo labels are written")


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
    batches_in_pass = -(-len(source) // batch_size)
    with progress("initial prototypes", batches_in_pass * stage.prototype_init_passes, "batches") as bar:
        for _ in range(stage.prototype_init_passes):
            batches = source.ordered_batches(batch_size, labels=labelled, shard=hosts.share())
            for batch in devices.prefetch(batches, mesh):
                stop_if_preempted()
                with bar.compiling():
                    current = devices.settle(mapped(variables, current, batch))
                bar.update()
    return current


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
      make: (model, variables, images, **options) -> labels.
      options: of `make`.
    """

    folder: str
    make: Callable
    options: dict[str, Any]


def soft_recipe(stage: ml_collections.ConfigDict) -> Recipe:
    """p_{t,0} for a stage with these settings."""
    averaged = averaging(stage)
    options = {"stride": stage.soft_label_stride, **averaged}
    return Recipe(f"soft_labels_{stage.soft_label_stride}" + label_tag(**averaged), soft_labels, options)


def hard_recipe(stage: ml_collections.ConfigDict) -> Recipe:
    """Hard pseudo labels for a stage with these settings."""
    averaged = averaging(stage)
    selected = "" if stage.label_selector == "above_threshold" else f"_{stage.label_selector}"
    make = functools.partial(hard_labels, selector=selectors.SELECTORS[stage.label_selector])
    folder = f"hard_labels_{stage.label_threshold:g}{selected}" + label_tag(**averaged)
    return Recipe(folder, make, {"threshold": stage.label_threshold, **averaged})


RECIPES = {"soft_label": soft_recipe, "hard_label": hard_recipe}  # by the name that a kind of stage gives its labels
