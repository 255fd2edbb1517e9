"""Networks of other libraries with random weights, which ours are compared with; none is downloaded."""

import functools
from types import ModuleType

import numpy as np
import pytest
import torch

# torchvision's compiled operators, none of which is used here: its wheel on the package index has them for CUDA alone,
# and beside PyTorch for CPUs it can be imported only where they have been declared
OPERATORS = {
    f"{name}(Tensor x) -> Tensor"
    for kind in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
    for name in (kind, f"_{kind}_backward")
} | {f"{name}(Tensor x) -> Tensor" for name in ("nms", "qnms", "qroi_align")}


@functools.cache
def library(name: str) -> ModuleType:
    """transformers, timm or torchvision; the test is left out where it is not installed."""
    declare_operators()
    return pytest.importorskip(name)


@functools.cache
def declare_operators() -> torch.library.Library | None:
    """Declares torchvision's operators where their own library cannot be loaded; they last as long as the result."""
    try:
        import torchvision.extension
    except ImportError:
        return None
    except RuntimeError:
        pass
    else:
        return None if torchvision.extension._has_ops() else None
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        declared.define(operator)
    return declared


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The network for prediction, no two of its layers alike."""
    generator = torch.Generator().manual_seed(seed)
    statistics = [(name, value) for name, value in network.named_buffers() if "running_" in name]
    for name, value in [*network.named_parameters(), *statistics]:
        drawn = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            drawn = 1 + 0.1 * drawn.tanh()
        elif value.ndim == 1 and ("norm" in name or "bn" in name or "ls" in name) and name.endswith("weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn *= value[0].numel() ** -0.5 if value.ndim > 1 and value.shape[0] > 1 else 0.1
        value.data.copy_(drawn)
    return network.eval()


def image(*size: int, seed: int = 0) -> np.ndarray:
    """RGB in [0, 1], float32 [1, height, width, 3]."""
    return np.random.default_rng(seed).random((1, *size, 3), np.float32)


def normalised(images: np.ndarray) -> torch.Tensor:
    """The same as torchvision normalises it, [1, 3, height, width]."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.tensor((images - np.float32(mean)) / np.float32(std)).permute(0, 3, 1, 2)
