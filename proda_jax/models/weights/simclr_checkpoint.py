"""SimCLRv2's TensorFlow checkpoints (ResNets without selective kernels, such as r101_1x_sk0)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from etils import epath

from proda_jax.models.backbones import SIMCLR, backbone
from proda_jax.models.weights.contents import Contents
from proda_jax.models.weights.layout import Layout
from proda_jax.system.extras import need

CONV = re.compile(r"base_model/conv2d(?:_(\d+))?/kernel")
NORM = re.compile(r"base_model/batch_normalization(?:_(\d+))?/gamma")
LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def prefix(path: epath.Path) -> str | None:
    """What the names of a checkpoint's files begin with; None where `path` is no TensorFlow checkpoint.

    Args:
      path: that beginning, one of the files, or the folder with one checkpoint in it.
    """
    if path.is_dir():
        indices = sorted(path.glob("*.index"))
        return str(indices[0]).removesuffix(".index") if len(indices) == 1 else None
    beginning = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    return beginning if epath.Path(beginning + ".index").exists() else None


def read(checkpoint: str) -> Contents:
    """The backbone of a checkpoint under PyTorch's names and in its layouts.

    Its convolutions and normalisations are numbered in the order in which they were created, see `creation_order`.
    Optimizer slots, the step and the heads are left over.

    Raises:
      ValueError: the numbers have gaps, or some shape shows that they follow another order.
    """
    need(f"{checkpoint}: reading it", "train", "tensorflow")
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(checkpoint)
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(f"{checkpoint}: expected a TensorFlow checkpoint ({error})") from error
    shapes = reader.get_variable_to_shape_map()
    layout = find_layout(shapes, checkpoint)
    arrays, used = {}, set()
    for number, (conv, norm) in enumerate(creation_order(layout.backbone.depths)):
        suffix = f"_{number}" if number else ""
        kernel = f"base_model/conv2d{suffix}/kernel"
        arrays[f"{conv}.weight"] = reader.get_tensor(kernel).transpose(3, 2, 0, 1)
        used.add(kernel)
        for theirs, leaf in LEAVES.items():
            name = f"base_model/batch_normalization{suffix}/{theirs}"
            if name in shapes:
                arrays[f"{norm}.{leaf}"] = reader.get_tensor(name)
                used.add(name)
    return Contents(arrays, left_over=sorted(set(shapes) - used))


def creation_order(depths: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """PyTorch's names of each convolution and the normalisation after it, in the order in which SimCLRv2 makes them.

    The stem comes first. Then in each block the projection of the shortcut (in the first block of a group), and the
    1x1, 3x3 and 1x1 convolutions.
    """
    yield "conv1", "bn1"
    for group, depth in enumerate(depths, start=1):
        for block in range(depth):
            name = f"layer{group}.{block}"
            if block == 0:
                yield f"{name}.downsample.0", f"{name}.downsample.1"
            for i in (1, 2, 3):
                yield f"{name}.conv{i}", f"{name}.bn{i}"


def find_layout(shapes: Mapping[str, list[int]], checkpoint: str) -> Layout:
    """Depths and width, from the number of 3x3 kernels with each number of channels; checked against all shapes."""
    convs, norms = ({int(m[1] or 0) for m in map(kind.fullmatch, shapes) if m} for kind in (CONV, NORM))
    names = {number: f"base_model/conv2d{f'_{number}' if number else ''}/kernel" for number in convs}
    count = max(convs | norms, default=-1) + 1
    gaps = [f"conv2d_{n}" for n in range(count) if n not in convs]
    gaps += [f"batch_normalization_{n}" for n in range(count) if n not in norms]
    if gaps or not count:
        raise ValueError(
            f"{checkpoint}: expected variables base_model/conv2d and base_model/batch_normalization as SimCLRv2 has "
            f"them, numbered without gaps; found {len(convs)} and {len(norms)}; missing: {', '.join(gaps[:4]) or 'all'}"
        )
    spatial = Counter(shapes[names[n]][3] for n in sorted(convs) if n and tuple(shapes[names[n]][:2]) == (3, 3))
    depths = tuple(spatial[channels] for channels in sorted(spatial))
    layout = Layout(backbone(SIMCLR, depths, shapes[names[0]][3]))
    order, expected = list(creation_order(depths)), layout.shapes()
    if len(order) != count:
        raise ValueError(
            f"{checkpoint}: expected {len(order)} convolutions for groups of {depths} blocks, found {count}; "
            "networks with selective kernels (sk1) cannot be read"
        )
    for number, (conv, _) in enumerate(order):
        height, width, into, out = shapes[names[number]]
        if (out, into, height, width) != expected[f"{conv}.weight"]:
            raise ValueError(
                f"{checkpoint}: {names[number]} has shape {shapes[names[number]]}; expected that of {conv}.weight, "
                f"(out, in, height, width) = {expected[f'{conv}.weight']}, which is next in SimCLRv2's order"
            )
    return layout
