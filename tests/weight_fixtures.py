"""Networks in PyTorch whose state dicts have the names of the released code and of plain DeepLabv2, and their files.

They are written here from the description of those networks, so that ours are compared with something of another make.
"""

import pickle
import types
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from golden_network import to_nchw
from torch import nn

from proda_jax.models.deeplab import DeepLab
from proda_jax.models.torch_names import from_torch
from proda_jax.models.weights import Weights

SCALAR = np.float64(0).__reduce__()[0]  # the function that rebuilds NumPy's scalars
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
SMALL = {"depths": (1, 1, 1, 1), "width": 8}
CLASSES = 5
IMAGE = np.random.default_rng(0).random((2, 33, 47, 3)).astype(np.float32)


class Block(nn.Module):
    """A bottleneck, with the stride in its first convolution."""

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        if project:
            shortcut = nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class PlainHead(nn.Module):
    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, classes, 3, padding=d, dilation=d) for d in (6, 12, 18, 24))

    def forward(self, x: torch.Tensor, branches: int = 4) -> torch.Tensor:
        return sum(branch(x) for branch in self.conv2d_list[:branches])


class Gate(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        first, second = nn.Linear(channels, channels // 16), nn.Linear(channels // 16, channels)
        self.se = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class ReleasedHead(nn.Module):
    def __init__(self, inputs: int, classes: int, channels: int):
        super().__init__()

        def branch(dilation: int) -> nn.Sequential:
            kernel = {"kernel_size": 3, "padding": dilation, "dilation": dilation} if dilation else {"kernel_size": 1}
            return nn.Sequential(nn.Conv2d(inputs, channels, **kernel), nn.GroupNorm(32, channels), nn.ReLU())

        self.conv2d_list = nn.ModuleList(branch(dilation) for dilation in (0, 6, 12, 18, 24))
        joined = nn.Conv2d(5 * channels, channels, 3, padding=1)
        self.bottleneck = nn.Sequential(Gate(5 * channels), joined, nn.GroupNorm(32, channels))
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], 1)))


class Network(nn.Module):
    """Backbone and a head named layer5; `auxiliary`: a plain main head named layer6, and layer5 on the third group."""

    def __init__(
        self,
        depths=(1, 1, 1, 1),
        width=8,
        classes=5,
        *,
        head: str | None = "released",
        head_channels=32,
        extra_norm=False,
        auxiliary=False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, self.groups = width, len(depths)
        for group, (depth, stride, dilation) in enumerate(zip(depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            inner = width * 2**group
            blocks = [Block(inputs, inner, stride, dilation, True)]
            blocks += [Block(4 * inner, inner, 1, dilation, False) for _ in range(depth - 1)]
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
            inputs = 4 * inner
        if extra_norm:
            self.bn_pretrain = nn.BatchNorm2d(inputs)
        if head == "released":
            self.layer5 = ReleasedHead(inputs, classes, head_channels)
        elif head == "deeplab":
            self.layer5 = PlainHead(inputs // 2 if auxiliary else inputs, classes)
            if auxiliary:
                self.layer6 = PlainHead(inputs, classes)

    def forward(self, x: torch.Tensor, **head) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        if hasattr(self, "bn_pretrain"):
            x = self.bn_pretrain(x)
        return getattr(self, "layer6" if hasattr(self, "layer6") else "layer5")(x, **head)


def network(seed: int = 0, **arguments) -> Network:
    """A small network in evaluation mode in which no two tensors are alike and signals keep their size."""
    model, generator = Network(**arguments).eval(), torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var") or "weight" in name:
            tensor.copy_(1 + 0.2 * noise.tanh())
        else:
            tensor.copy_(0.1 * noise)
    return model


def bgr_minus_mean(image: np.ndarray) -> torch.Tensor:
    """What plain DeepLabv2 networks are fed, [n, 3, h, w], of RGB images in [0, 1], [n, h, w, 3]."""
    return torch.tensor(image[..., ::-1] * 255.0 - np.array(BGR_MEAN), dtype=torch.float32).permute(0, 3, 1, 2)


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    """The state dict as arrays, without PyTorch's counters of batches."""
    return {name: t.numpy() for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def released_checkpoint(module: nn.Module, classes: int = 5, **entries) -> dict:
    """What the authors' code saves: network, zero prototypes, step and score."""
    inner = {"model_state": module.state_dict(), "objective_vectors": torch.zeros(classes, 32)}
    return {"ResNet101": inner, "iter": 61001, "best_iou": np.float64(0.4321)} | entries


class OldNumpyPickler(pickle._Pickler):
    """Writes NumPy's scalars under the module path that NumPy had before version 2."""

    def save_global(self, obj, name=None):
        if obj is SCALAR:
            self.write(pickle.GLOBAL + b"numpy.core.multiarray\nscalar\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)


OLD_NUMPY = types.SimpleNamespace(Pickler=OldNumpyPickler, dump=pickle.dump, __name__="old_numpy")


def write_simclr(prefix: str, backbone: Mapping[str, np.ndarray], depths, **others: np.ndarray) -> None:
    """A TensorFlow checkpoint of a backbone in SimCLRv2's names and layouts, with `others` beside it."""
    import tensorflow as tf

    modules = [("conv1", "bn1")]
    for group, depth in enumerate(depths, start=1):
        for block in range(depth):
            place = f"layer{group}.{block}"
            modules += [(f"{place}.downsample.0", f"{place}.downsample.1")] if block == 0 else []
            modules += [(f"{place}.conv{i}", f"{place}.bn{i}") for i in (1, 2, 3)]
    variables = {"global_step": np.int64(7), **others}
    for number, (conv, norm) in enumerate(modules):
        suffix = f"_{number}" * (number > 0)
        kernel = np.moveaxis(backbone[f"{conv}.weight"], (0, 1), (3, 2))
        variables[f"base_model/conv2d{suffix}/kernel"] = kernel
        variables[f"base_model/conv2d{suffix}/kernel/Momentum"] = np.zeros_like(kernel)
        for theirs, leaf in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        ):
            variables[f"base_model/batch_normalization{suffix}/{theirs}"] = backbone[f"{norm}.{leaf}"]
    variables = {name: value for name, value in variables.items() if value is not None}
    names, values = list(variables), [tf.constant(value) for value in variables.values()]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def small_model(**settings) -> DeepLab:
    settings = {"head_channels": 32, "feature_channels": 32, "classes": CLASSES} | SMALL | settings
    return DeepLab(**settings)


def shapes_of(model: DeepLab) -> dict:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 96, 3)), train=False))


def logits(read: Weights, model: DeepLab, image: np.ndarray = IMAGE) -> np.ndarray:
    variables = from_torch(read.arrays, shapes_of(model))
    return to_nchw(jax.jit(lambda v, x: model.apply(v, x, train=False).logits)(variables, image))


def save_torch(payload, path: Path, legacy: bool = False, **arguments) -> Path:
    torch.save(payload, path, _use_new_zipfile_serialization=not legacy, **arguments)
    return path


def assert_equal(read: Weights, expected: Weights) -> None:
    assert read.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert read.arrays[name].dtype == np.float32
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)
    np.testing.assert_equal(read.prototypes, expected.prototypes)
    assert (read.step, read.best_miou) == (expected.step, expected.best_miou)
