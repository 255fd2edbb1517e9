"""Networks that others trained, brought to the released code's names and to our images."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np

from proda_jax.models import backbones
from proda_jax.models.backbones import Backbone
from proda_jax.models.weights.resnet_names import refuse_average_pool, torchvision_names
from proda_jax.models.weights.torch_names import AUXILIARY, INPUT_CONVENTION
from proda_jax.models.weights.transformer_names import authors_names

WRAPPERS = re.compile(r"^(?:module\.|Scale\.)+")  # of torch.nn.DataParallel, and of AdaptSegNet's initial weights
PREFIXES = ("backbone", "encoder", "encoder_q", "base_encoder", "online_encoder", "student", "teacher", "encoder_k")
Convention = tuple[tuple[float, ...], tuple[float, ...]]  # what is subtracted from RGB in [0, 1], what divides it
CONVENTIONS: dict[str, Convention] = {
    "rgb01": ((0.0,) * 3, (1.0,) * 3),
    "rgb127": ((127 / 255,) * 3, (128 / 255,) * 3),  # (RGB - 127) / 128, of tensorflow/tpu's EfficientNets
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of torchvision, timm and Hugging Face
}
INPUTS = (*CONVENTIONS, "bgr_mean")
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red; what plain DeepLabv2 networks subtract


def released_names(arrays: Mapping[str, np.ndarray], path: PathLike | str) -> tuple[dict, list[str], list[str]]:
    """Arrays under the released code's names, names of those set aside, and notes on what was renamed.

    Raises:
      ValueError: two arrays end up under one name, or the network is one that is known and has no counterpart here.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        name = WRAPPERS.sub("", name)
        if name in renamed:
            raise ValueError(f"{path}: expected one array named {name}, found it with and without a prefix")
        renamed[name] = array
    renamed, notes = authors_names(torchvision_names(renamed))
    refuse_average_pool(renamed, path)
    renamed, aside, more = without_prefix(renamed)
    notes += more
    if not any(name.startswith("layer6.conv2d_list.") for name in renamed):
        return renamed, aside, notes
    # ADVENT, CLAN and the multi-level AdaptSegNet: the main head is layer6, and layer5 is the auxiliary one
    both = {re.sub(r"^layer5\.", f"{AUXILIARY}layer5.", name): array for name, array in renamed.items()}
    both = {re.sub(r"^layer6\.", "layer5.", name): array for name, array in both.items()}
    return both, aside, [*notes, "layer6 was taken as the main head, and layer5 as the auxiliary one"]


def without_prefix(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Arrays of the backbone that stands below a prefix, such as 'backbone.', 'encoder.' or 'encoder_q.', without it;
    names of all others, and a note. As they are, where the backbone has none.

    Of several backbones, MoCo's and others', the one whose prefix comes first in `PREFIXES` is taken.
    """
    if backbones.read_off({name: array.shape for name, array in arrays.items()}) is not None:
        return dict(arrays), [], []
    firsts = [first_weight(row) for row in backbones.beginnings()]
    found = {name.removesuffix(first) for name in arrays for first in firsts if name.endswith(f".{first}")}
    found = {prefix for prefix in found if not any(prefix != other and prefix.startswith(other) for other in found)}
    if not found:
        return dict(arrays), [], []
    preferred = {prefix: place for place, prefix in enumerate(PREFIXES)}
    prefix = min(sorted(found), key=lambda prefix: preferred.get(prefix.split(".")[-2], len(PREFIXES)))
    kept = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    note = f"the backbone was taken from below {prefix!r}"
    if len(found) > 1:
        note += f"; there is one below {', '.join(repr(other) for other in sorted(found - {prefix}))}, too"
    return kept, [name for name in arrays if not name.startswith(prefix)], [note]


def first_weight(backbone: Backbone) -> str:
    """Name of the kernel that sees the images."""
    return f"{backbone.file_name(tuple(backbone.first_convolution.split('/')))}.weight"


def with_input_convention(
    arrays: Mapping[str, np.ndarray], images: str | None, plain: bool, backbone: Backbone, path: PathLike | str
) -> tuple[dict[str, np.ndarray], str]:
    """Arrays with 'input.mean' and 'input.std', and a note on where they come from.

    Images of plain DeepLabv2 networks are BGR in 0 .. 255 minus a mean. The same numbers reach the first convolution
    from RGB in [0, 1] when the input channels of its kernel change places and the image is multiplied by 255.

    Args:
      arrays: of the network.
      images: one of `INPUTS` or numbers, see `convention`; None: 'bgr_mean' where the network is `plain`, otherwise
        what the backbone's published weights want.
      plain: whether it is a plain DeepLabv2 network.
      backbone: that it has.
      path: of the file, for errors.

    Raises:
      ValueError: the file says itself, or `images` is something else.
    """
    if any(name in arrays for name in INPUT_CONVENTION):
        if images:
            raise ValueError(f"{path} says itself how its images are fed: expected no input convention, got {images!r}")
        return dict(arrays), "images are fed as the file says (input.mean, input.std)"
    guess = "" if images else "; this is a guess, as the file does not say"
    if images == "bgr_mean" or (plain and not images):
        first = first_weight(backbone)
        changed = dict(arrays)
        if first in changed and changed[first].ndim == 4:
            changed[first] = changed[first][:, ::-1]
        fed = (np.array(BGR_MEAN[::-1]) / 255.0, np.full(3, 1.0 / 255.0))
        how = f"BGR minus mean: {first.removesuffix('.weight')} was turned to RGB, input.mean and input.std do the rest"
        return changed | as_arrays(*fed), f"images are fed as {how}{guess}"
    mean, std = convention(images or backbone.images)
    plainly = (mean, std) == CONVENTIONS["rgb01"]
    how = "RGB in [0, 1]" if plainly else f"(RGB in [0, 1] - {rounded(mean)}) / {rounded(std)}"
    return dict(arrays) | as_arrays(mean, std), f"images are fed as {how}{guess}"


def convention(images: str) -> Convention:
    """Mean and divisor of RGB in [0, 1] from a name in `CONVENTIONS`, or from numbers as 'r,g,b/r,g,b'.

    Raises:
      ValueError: it is neither.
    """
    if images in CONVENTIONS:
        return CONVENTIONS[images]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in images.split("/"))
    except ValueError:
        mean = std = ()
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(
            f"input convention {images!r}: expected one of {', '.join(INPUTS)}, or mean and divisor of red, green and "
            "blue in [0, 1], such as 0.5,0.5,0.5/0.25,0.25,0.25"
        )
    return mean, std


def as_arrays(mean: Sequence[float], std: Sequence[float]) -> dict[str, np.ndarray]:
    """They under the names that they have in files."""
    return {name: np.asarray(value, np.float32) for name, value in zip(INPUT_CONVENTION, (mean, std), strict=True)}


def rounded(numbers: Sequence[float]) -> str:
    """One number where all are the same."""
    return ", ".join(f"{number:.4g}" for number in (numbers[:1] if len(set(numbers)) == 1 else numbers))


def matrix(array: np.ndarray) -> np.ndarray:
    """A fully connected layer's matrix, also where it came as a 1x1 convolution."""
    return array[..., 0, 0] if array.shape[2:] == (1, 1) else array
