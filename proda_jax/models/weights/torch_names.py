"""Variables of our networks to and from state dicts with the released PyTorch code's names (NumPy arrays only)."""

import re
from collections.abc import Iterable, Mapping

import flax
import numpy as np

from proda_jax.models import backbones, contrast_projection, heads, scale_attention

NORM_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
CONV_LEAVES = {"kernel": "weight", "bias": "bias"}
RELEASED_HEAD = {
    "squeeze": "layer5.bottleneck.0.se.0",
    "excite": "layer5.bottleneck.0.se.2",
    "bottleneck_conv": "layer5.bottleneck.1",
    "bottleneck_norm": "layer5.bottleneck.2",
    "classifier": "layer5.head.1",
}
# 1x1 convolutions here, fully connected layers with matrices [out, in] there
LINEAR = re.compile(r".*/(squeeze|excite|q|kv|qkv|fc[12]|attn/proj|embed\d)")
# Ours alone: what is subtracted from RGB in [0, 1] and what divides it, where a state dict does not say.
INPUT_CONVENTION = {"input.mean": 0.0, "input.std": 1.0}

AUXILIARY = "auxiliary."  # before the names of what a second head has, which are those of the first


def torch_name(path: tuple[str, ...], *, head: str = "released") -> str:
    """The released code's name of the variable at `path`, such as ('backbone', 'layer1_0', 'bn1', 'scale').

    Args:
      path: modules and leaf, without the collection before them.
      head: a name of `heads.HEADS`; the branches of 'deeplab' are single convolutions and have shorter names.

    Raises:
      KeyError: for a variable that has no counterpart there.
    """
    *modules, leaf = path
    if modules[0] == "auxiliary_head":
        return AUXILIARY + torch_name(("head", *path[1:]), head=head)
    if modules[0] == "input":
        return f"input.{leaf}"
    leaves = NORM_LEAVES if leaf in ("scale", "mean", "var") or is_norm(modules[-1]) else CONV_LEAVES
    if modules[0] == "backbone":
        module = backbones.file_name(tuple(modules[1:]))
    elif modules[0] == "extra_norm":
        module = "bn_pretrain"
    elif modules[0] == scale_attention.MODULE:
        module = scale_attention.file_name(modules[1])
    elif modules[0] == contrast_projection.MODULE:
        module = contrast_projection.NAMES[modules[1]]
    elif modules[0] == "foundation":
        module = "foundation"
    elif modules[0] == "head" and head not in ("released", "deeplab"):
        module = heads.file_name(head, tuple(modules[1:]))
    elif modules[0] == "head":
        branch = re.fullmatch(r"branch(\d+)_(conv|norm)", modules[1])
        place = branch and f"layer5.conv2d_list.{branch[1]}"
        if branch and head == "released":
            place += f".{int(branch[2] == 'norm')}"
        module = place or RELEASED_HEAD[modules[1]]
    else:  # the discriminator, whose names agree
        module = ".".join(modules)
    return ".".join(filter(None, (module, leaves.get(leaf, leaf))))


def is_norm(module: str) -> bool:
    return module.startswith("bn") or module.endswith(("_bn", "_norm"))


def head_of(paths: Iterable[tuple[str, ...]]) -> str:
    """Which of `heads.HEADS` is among these variables, ('params', 'head', module, leaf) and others."""
    modules = {path[2] for path in paths if path[1] == "head"}
    if modules and all(re.fullmatch(r"branch\d+_conv", module) for module in modules):
        return "deeplab"
    return next((name for name, head in heads.HEADS.items() if head.mark in modules), "released")


def from_torch(state: Mapping[str, np.ndarray], variables: Mapping) -> dict:
    """Variables with the values of a state dict.

    Args:
      state: arrays under the released code's names, in PyTorch's layouts; more of them than wanted do no harm.
      variables: our variables, arrays or shapes, {'params': ..., 'batch_stats': ...}: which values are wanted.

    Returns:
      Nested dictionary like `variables`, of float32 NumPy arrays.

    Raises:
      ValueError: naming every entry that is missing or of another shape.
    """
    wanted = flax.traverse_util.flatten_dict(flax.core.unfreeze(variables))
    head = head_of(wanted)
    taken, problems = {}, []
    for path, like in wanted.items():
        name = torch_name(path[1:], head=head)
        if name in INPUT_CONVENTION and name not in state:
            taken[path] = np.full(like.shape, INPUT_CONVENTION[name], np.float32)
            continue
        if name not in state:
            problems.append(f"{name} is missing")
            continue
        value = np.asarray(state[name], np.float32)
        value = value[..., None, None] if value.ndim == 2 else value  # a fully connected layer is a 1x1 convolution
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value  # [out, in, h, w] to [h, w, in, out]
        if value.shape != tuple(like.shape):
            problems.append(f"{name} has shape {value.shape} after transposing, {tuple(like.shape)} was expected")
        taken[path] = value
    if problems:
        raise ValueError("The weights do not fit the network: " + "; ".join(problems))
    return flax.traverse_util.unflatten_dict(taken)


def to_torch(variables: Mapping) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: a state dict under the released code's names, in PyTorch's layouts."""
    state, flat = {}, flax.traverse_util.flatten_dict(flax.core.unfreeze(variables))
    head = head_of(flat)
    for path, value in flat.items():
        value = np.asarray(value)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        value = value[..., 0, 0] if value.ndim == 4 and LINEAR.fullmatch("/".join(path[:-1])) else value
        state[torch_name(path[1:], head=head)] = value
    return state
