"""PyTorch's files are read as PyTorch reads them, and nothing in them is called."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from proda_jax.models.weights import torch_reader

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool)  # fmt: skip


def written(payload, legacy: bool, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream, _use_new_zipfile_serialization=not legacy, **options)
    return stream.getvalue()


def assert_same(ours, theirs) -> None:
    """The same containers, numbers and arrays, half precision as float32."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach()
        small = theirs.is_floating_point() and theirs.element_size() < 4
        expected = (theirs.float() if small else theirs).numpy()
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
    elif isinstance(theirs, np.ndarray | np.generic):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize("legacy", [False, True])
def test_every_type_view_and_container_is_what_pytorch_reads(legacy):
    base = torch.arange(60.0).reshape(3, 4, 5)
    module = torch.nn.Conv2d(2, 3, 3)
    payload = {
        "types": [(torch.arange(-3, 5) * 0.37).to(kind) for kind in TYPES],
        "views": (base, base.transpose(0, 2), base[1:, ::2, 3], base[0, 0, 0], base.expand(2, 3, 4, 5), base[:0]),
        "state": OrderedDict(module.state_dict()),
        "parameter": module.weight,
        "numbers": [1, 2**70, 0.5, True, None, "text", b"bytes", {3, 4}],
        "numpy": [np.float64(0.43), np.int64(7), np.arange(6).reshape(2, 3).T, np.array([0.5], ">f4")],
        "size": base.size(),
    }
    data = written(payload, legacy)
    assert_same(torch_reader.load(data), torch.load(io.BytesIO(data), weights_only=False))


@pytest.mark.parametrize("legacy", [False, True])
def test_anything_else_is_refused_by_name(legacy):
    for payload, name in (
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        ({"args": __import__("argparse").Namespace(lr=1)}, "argparse.Namespace"),
        ({"objects": np.array([None])}, "numpy.dtype"),
        (torch.zeros(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
    ):
        with pytest.raises(torch_reader.Refused, match=name):
            torch_reader.load(written(payload, legacy))


def test_a_tensor_never_reaches_beyond_its_storage():
    storage = torch_reader.Storage("f4", np.zeros(6, np.float32))
    for offset, size, stride in ((0, (2, 4), (4, 1)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,))):
        with pytest.raises(ValueError, match="tensor"):
            torch_reader.Tensor(storage, offset, size, stride)
    assert torch_reader.Tensor(storage, 5, (1,), (1,)).array().shape == (1,)
    assert torch_reader.Tensor(storage, 9, (0, 3), (3, 1)).array().shape == (0, 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_is_refused(legacy):
    data = written({"a": torch.arange(100.0)}, legacy)
    for cut in (2, len(data) // 2, len(data) - 5):
        with pytest.raises(ValueError, match="damaged"):
            torch_reader.load(data[:cut])


def test_a_storage_longer_than_the_file_is_refused_before_memory_is_taken():
    data = written({"a": torch.arange(100.0)}, legacy=True)
    announced = b"cpu" + data.split(b"cpu")[1][:2] + b"Kd"  # device, its place in the memo, 100 as one byte
    assert announced in data
    longer = data.replace(announced, announced[:-2] + pickle.dumps(2**40, 2)[2:-1])
    with pytest.raises(ValueError, match="longer than the file"):
        torch_reader.load(longer)
