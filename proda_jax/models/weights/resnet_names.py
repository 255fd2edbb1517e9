"""Hugging Face's names of a ResNet, brought to torchvision's, which the released code has; and other stems."""

import re
from collections.abc import Mapping

import numpy as np

STEM = "embedder.embedder"
BLOCK = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)\.(.+)"
)
DEEP_STEM = re.compile(r"(?:^|\.)(?:conv1|stem)\.[03]\.weight$")  # timm's 'd' variants; mmsegmentation's ResNetV1c


def torchvision_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with those of a Hugging Face ResNet renamed; all others as they are."""
    return {torchvision_name(name): array for name, array in arrays.items()}


def torchvision_name(name: str) -> str:
    """The name of an array of a Hugging Face ResNet in torchvision's; any other name as it is."""
    bare = name.removeprefix("resnet.")
    for theirs, ours in (("convolution", "conv1"), ("normalization", "bn1")):
        if bare.startswith(f"{STEM}.{theirs}."):
            return bare.replace(f"{STEM}.{theirs}", ours)
    block = BLOCK.fullmatch(bare)
    if block is None:
        return name
    group, number, layer, kind, leaf = block.groups()
    if layer is None:
        module = f"downsample.{int(kind == 'normalization')}"
    else:
        module = f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}"
    return f"layer{int(group) + 1}.{number}.{module}.{leaf}"


def refuse_deep_stem(arrays: Mapping[str, np.ndarray], path: object) -> None:
    """Refuses a network that begins with three 3x3 convolutions, where ours have one of 7x7.

    Raises:
      ValueError: it does; `path` is the file in the message.
    """
    if sum(DEEP_STEM.search(name) is not None for name in arrays) >= 2:
        raise ValueError(
            f"{path} holds a ResNet with a deep stem, three 3x3 convolutions in place of one of 7x7: expected the "
            "plain one (torchvision's resnet50 and resnet101; timm's without a 'd' behind the number; mmsegmentation's "
            "ResNet without V1c or V1d)"
        )
