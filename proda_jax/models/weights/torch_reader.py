"""Reads PyTorch's two file formats without PyTorch: arrays, containers and numbers, and nothing is ever called.

A PyTorch file is a pickle of containers whose tensors point into storages beside it, which lie in a zip archive (since
version 1.6) or one after another behind the pickle. A pickle may name any function to be called with any arguments;
here each of the few names that weights need stands for code of this file, and any other is refused by name.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from proda_jax.models.weights.contents import file_bytes

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what the older format begins with
ZIP = b"PK"
BFLOAT16 = "bfloat16"  # which NumPy has no type for: kept as the upper half of a float32
STORAGES = {  # type of a storage's elements by PyTorch's name of its class
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
NUMBER_TYPES = "?bhilqBHILQefd"  # NumPy's codes of the types whose scalars and arrays a file may hold


class Refused(ValueError):
    """The file asks for something besides arrays, containers and numbers; its argument is the name of that."""


class Storage:
    """A run of numbers that tensors are views of.

    Attributes:
      kind: type of the elements, one of the values of `STORAGES`.
      numbers: [elements], bfloat16 as uint16.
    """

    def __init__(self, kind: str, numbers: np.ndarray):
        self.kind, self.numbers = kind, numbers


class Tensor:
    """A view of a storage; `array` reads it, once the storage is filled."""

    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]):
        if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
            raise ValueError(f"a tensor of size {size} and strides {stride} from {offset} on")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(storage.numbers):
            raise ValueError(f"a tensor reaches to number {last} of {len(storage.numbers)}")
        self._storage, self._offset, self._size, self._stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """Its numbers, in an array of their own; half precision becomes float32."""
        if 0 in self._size:
            numbers = np.empty(self._size, self._storage.numbers.dtype)
        else:
            here = self._storage.numbers[self._offset :]
            strides = [step * here.itemsize for step in self._stride]
            numbers = np.lib.stride_tricks.as_strided(here, self._size, strides, writeable=False)
        if self._storage.kind == BFLOAT16:
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.astype(np.float32 if numbers.dtype == np.float16 else numbers.dtype, order="C")


class NumberType:
    """In place of a `numpy.dtype`, of numbers only."""

    def __init__(self, name: str, *_: Any):
        if np.dtype(name).char not in NUMBER_TYPES:
            raise Refused(f"numpy.dtype({name!r})")
        self._type = np.dtype(name)

    def __setstate__(self, state: tuple):
        self._type = self._type.newbyteorder(state[1])

    def numbers(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self._type).astype(self._type.newbyteorder("="))


class NumberArray:
    """In place of a `numpy.ndarray`, of numbers only."""

    def __init__(self, *_: Any):
        self._array = np.empty(0)

    def __setstate__(self, state: tuple):
        _, shape, kind, by_columns, data = state
        self._array = kind.numbers(data).reshape(shape, order="F" if by_columns else "C")

    def array(self) -> np.ndarray:
        return self._array


def load(data: bytes) -> Any:
    """What a PyTorch file holds: containers with NumPy arrays in place of its tensors, half precision as float32.

    Raises:
      Refused: it asks for something that is neither array, container nor number.
      ValueError: it is damaged, or no PyTorch file.
    """
    try:
        return resolved(_from_zip(data) if data.startswith(ZIP) else _from_sequence(data))
    except Refused:
        raise
    except Exception as error:  # what a damaged pickle leads to depends on where it is damaged
        raise ValueError(f"damaged, or no PyTorch file ({error})") from error


def load_file(path: epath.Path) -> Any:
    """`load` of a file, which its errors name."""
    data = file_bytes(path)
    try:
        return load(data)
    except Refused as error:
        raise ValueError(
            f"{path} asks for {error}, which may run code: expected tensors, containers and numbers only; "
            "save its state dict alone, where you trust the file"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a PyTorch file of tensors, containers and numbers; it is damaged or of another kind"
        ) from error


def resolved(tree: Any) -> Any:
    """The same containers with arrays where tensors were."""
    if isinstance(tree, Tensor | NumberArray):
        return tree.array()
    if isinstance(tree, Mapping):
        return {key: resolved(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(resolved, tree))
    return tree


def _from_zip(data: bytes) -> Any:
    """The format since PyTorch 1.6: members data.pkl, data/<key>, byteorder in one folder."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} members data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in archive.namelist() else "little"
    found: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        if key not in found:
            numbers = _numbers(archive.read(f"{folder}data/{key}"), kind, order)
            if len(numbers) < count:
                raise ValueError(f"storage {key} has {len(numbers)} numbers of {count}")
            found[key] = Storage(kind, numbers)
        return found[key]

    return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _from_sequence(data: bytes) -> Any:
    """The older format: magic number, version, facts of the system, the pickle, keys of storages, storages."""
    stream = io.BytesIO(data)

    def plain() -> Any:
        return _Unpickler(stream, None).load()

    if (plain(), plain()) != (MAGIC, PROTOCOL):
        raise ValueError("another beginning than PyTorch's")
    order = "little" if plain()["little_endian"] else "big"
    found: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        if key not in found:
            stored = _stored_as(kind)
            if count * stored.itemsize > len(data):
                raise ValueError(f"storage {key} of {count} numbers is longer than the file")
            found[key] = Storage(kind, np.zeros(count, stored))
        return found[key]

    tree = _Unpickler(stream, storage).load()
    for key in plain():
        numbers = found[key].numbers
        count = int.from_bytes(stream.read(8), order)
        if count != len(numbers):
            raise ValueError(f"storage {key} has {count} numbers, {len(numbers)} were announced")
        numbers[:] = _numbers(stream.read(numbers.nbytes), found[key].kind, order)
    return tree


def _stored_as(kind: str) -> np.dtype:
    return np.dtype("u2" if kind == BFLOAT16 else kind)


def _numbers(data: bytes, kind: str, order: str) -> np.ndarray:
    numbers = np.frombuffer(data, _stored_as(kind))
    return numbers if order == sys.byteorder else numbers.byteswap()


class _Unpickler(pickle.Unpickler):
    """Knows the names in `NAMES` and storages, and refuses every other."""

    def __init__(self, stream: io.BytesIO, storage: Callable[[str, str, int], Storage] | None):
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        try:
            return NAMES[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, reference: tuple) -> Storage:
        what, kind, key, _, count, *view = reference
        if self._storage is None or what != "storage" or kind not in STORAGES.values():
            raise ValueError(f"a reference to {what!r} of {kind!r}")
        whole = self._storage(kind, str(key), count)
        if not view or view[0] is None:
            return whole
        _, first, length = view[0]  # a part of a storage, as files before PyTorch 0.4 have them
        return Storage(kind, whole.numbers[first : first + length])


def _rebuild_tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


def _size(numbers: tuple = ()) -> tuple:
    return tuple(numbers)


def _device(*names: Any) -> str:
    return ":".join(map(str, names))


def _scalar(kind: NumberType, data: bytes) -> np.generic:
    return kind.numbers(data)[0]


def _reconstruct(*_: Any) -> NumberArray:
    return NumberArray()


def _bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): _bytes,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("numpy", "dtype"): NumberType,
    ("numpy", "ndarray"): NumberArray,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")  # as NumPy 1 and NumPy 2 call it
        for name, function in {"scalar": _scalar, "_reconstruct": _reconstruct}.items()
    },
}
