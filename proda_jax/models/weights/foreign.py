"""Networks that others trained, brought to the released code's names and to our images."""

import re
from collections.abc import Mapping
from os import PathLike

import numpy as np

from proda_jax.models.weights.torch_names import INPUT_CONVENTION
from proda_jax.models.weights.transformer_names import authors_names

WRAPPERS = re.compile(r"^(?:module\.|Scale\.)+")  # of torch.nn.DataParallel, and of AdaptSegNet's initial weights
INPUTS = ("rgb01", "bgr_mean", "imagenet")
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red; what plain DeepLabv2 networks subtract

IMAGENET = {"input.mean": (0.485, 0.456, 0.406), "input.std": (0.229, 0.224, 0.225)}  # of RGB in [0, 1], torchvision's


def released_names(arrays: Mapping[str, np.ndarray], path: PathLike | str) -> tuple[dict, list[str], list[str]]:
    """Arrays under the released code's names, names of those set aside, and notes on what was renamed.

    Raises:
      ValueError: two arrays end up under one name.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        name = WRAPPERS.sub("", name)
        if name in renamed:
            raise ValueError(f"{path}: expected one array named {name}, found it with and without a prefix")
        renamed[name] = array
    renamed, notes = authors_names(renamed)
    if not any(name.startswith("layer6.conv2d_list.") for name in renamed):
        return renamed, [], notes
    # ADVENT and the multi-level AdaptSegNet: the main head is layer6, layer5 an auxiliary one on layer3
    aside = [name for name in renamed if name.startswith("layer5.")]
    kept = {re.sub(r"^layer6\.", "layer5.", name): a for name, a in renamed.items() if not name.startswith("layer5.")}
    return kept, aside, ["layer6, the main head, was taken as layer5"]


def with_input_convention(
    arrays: Mapping[str, np.ndarray], images: str | None, default: str, first: str, path: PathLike | str
) -> tuple[dict[str, np.ndarray], str]:
    """Arrays with 'input.mean' and 'input.std', and a note on where they come from.

    `images`, or else `default`, says how the network wants its images: one of `INPUTS`.

    Images of plain DeepLabv2 networks are BGR in 0 .. 255 minus a mean. The same numbers reach the first convolution
    from RGB in [0, 1] when the input channels of `first`, its kernel, change places and the image is multiplied by 255.
    """
    if any(name in arrays for name in INPUT_CONVENTION):
        if images:
            raise ValueError(f"{path} says itself how its images are fed: expected no input convention, got {images!r}")
        return dict(arrays), "images are fed as the file says (input.mean, input.std)"
    if images not in (None, *INPUTS):
        raise ValueError(f"input convention {images!r}: expected one of {', '.join(INPUTS)}")
    images = images or default
    if images in ("rgb01", "imagenet"):
        values = INPUT_CONVENTION if images == "rgb01" else IMAGENET
        mean_and_std = {name: np.broadcast_to(np.float32(value), 3) for name, value in values.items()}
        note = "images are fed as RGB in [0, 1]" + (" minus ImageNet's mean, by its deviation" * (images == "imagenet"))
        return dict(arrays) | mean_and_std, note
    changed = dict(arrays)
    if first in changed and changed[first].ndim == 4:
        changed[first] = changed[first][:, ::-1]
    changed["input.mean"] = (np.array(BGR_MEAN[::-1]) / 255.0).astype(np.float32)
    changed["input.std"] = np.full(3, 1.0 / 255.0, np.float32)
    name = first.removesuffix(".weight")
    return changed, f"images are fed as BGR minus mean: {name} was turned to RGB, input.mean and input.std do the rest"


def matrix(array: np.ndarray) -> np.ndarray:
    """A fully connected layer's matrix, also where it came as a 1x1 convolution."""
    return array[..., 0, 0] if array.shape[2:] == (1, 1) else array
