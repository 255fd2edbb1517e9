"""Hugging Face's names of a ResNet, brought to torchvision's, which the released code has; and deep stems."""

import re
from collections.abc import Collection, Mapping

import numpy as np

STEM = "embedder.embedder"
BLOCK = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d)|shortcut)\.(convolution|normalization)\.(.+)"
)
TIMMS_STEM = re.compile(r"(?P<prefix>(?:.*\.)?)conv1\.(?P<place>[01346])\.(?P<leaf>\w+)")
AVERAGE_POOL = re.compile(r"(?:^|\.)layer\d\.0\.downsample\.2\.weight$")  # the 'd' variants of timm and mmsegmentation


def torchvision_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with those of a Hugging Face ResNet renamed, and those of timm's deep stems; all others as they are.

    A deep stem has mmsegmentation's names here, 'stem.0' to 'stem.7', as torchvision has none.
    """
    prefixes = {match["prefix"] for match in map(TIMMS_STEM.fullmatch, arrays) if match}
    return {deep_stem_name(torchvision_name(name), prefixes): array for name, array in arrays.items()}


def deep_stem_name(name: str, prefixes: Collection[str]) -> str:
    """The name of an array of timm's deep stems in mmsegmentation's; any other name as it is.

    Args:
      name: of the array.
      prefixes: of the networks that have such a stem; timm calls its last normalisation what a plain one's is called.
    """
    if match := TIMMS_STEM.fullmatch(name):
        return f"{match['prefix']}stem.{match['place']}.{match['leaf']}"
    module, _, leaf = name.rpartition(".")
    prefix = module.removesuffix("bn1")
    return f"{prefix}stem.7.{leaf}" if prefix != module and prefix in prefixes else name


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


def refuse_average_pool(arrays: Mapping[str, np.ndarray], path: object) -> None:
    """Refuses a network whose shortcuts halve their size by an average, where ours have a convolution with a stride.

    Raises:
      ValueError: it does; `path` is the file in the message.
    """
    if any(AVERAGE_POOL.search(name) for name in arrays):
        raise ValueError(
            f"{path} holds a ResNet whose shortcuts are averaged (a 'd' variant): expected one without (torchvision's "
            "resnet50 and resnet101; timm's without a letter behind the number or with a 'c'; mmsegmentation's ResNet "
            "and ResNetV1c)"
        )
