"""Networks in PyTorch under the names of the released code and of plain DeepLabv2, and their files."""

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

from benchmarks.torch_network import Network
from proda_jax.models.backbones import backbone
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.weights.contents import Weights
from proda_jax.models.weights.torch_names import from_torch

SCALAR = np.float64(0).__reduce__()[0]  # the function that rebuilds NumPy's scalars
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
SMALL = {"depths": (1, 1, 1, 1), "width": 8}
CLASSES = 5
IMAGE = np.random.default_rng(0).random((2, 33, 47, 3)).astype(np.float32)


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


def small_model(**settings) -> SegmentationNetwork:
    sizes = {"head_channels": 32, "feature_channels": 32, "classes": CLASSES} | SMALL | settings
    return SegmentationNetwork(backbone=backbone("resnet101", sizes.pop("depths"), sizes.pop("width")), **sizes)


def shapes_of(model: SegmentationNetwork) -> dict:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 96, 3)), train=False))


def logits(read: Weights, model: SegmentationNetwork, image: np.ndarray = IMAGE) -> np.ndarray:
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
