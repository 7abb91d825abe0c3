"""Tensors of PyTorch checkpoints without PyTorch, and without running what they say.

A checkpoint is a pickle, which may name any function to be called. Here it may name the
handful that tensors are made of, each replaced by a harmless one; any other is refused.
Both containers are read: the zip of PyTorch 1.6 and later, and the stream before it.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttp_jax.types import InputError

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def is_legacy(data: bytes) -> bool:
    """Whether ``data`` starts like a checkpoint from before PyTorch 1.6."""
    return data.startswith(pickle.dumps(_LEGACY_MAGIC, protocol=2))


def is_zip(archive: zipfile.ZipFile) -> bool:
    """Whether ``archive`` is a checkpoint and not an npz file."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Named tensors of a checkpoint written by PyTorch 1.6 or later.

    Raises:
        InputError: It holds anything but tensors, plain values and containers.
    """
    entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = entry.removesuffix("data.pkl")
    if (
        root + "byteorder" in archive.namelist()
        and archive.read(root + "byteorder") != b"little"
    ):
        raise InputError("expected little-endian tensors in the checkpoint, got big-endian")

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        return np.frombuffer(archive.read(f"{root}data/{key}"), dtype, count)

    return _state_dict(_Restricted(io.BytesIO(archive.read(entry)), storage).load())


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Named tensors of a checkpoint written before PyTorch 1.6.

    The numbers follow the pickle that refers to them, so the pickle is read twice: first
    to learn the types, then with the numbers at hand.

    Raises:
        InputError: It holds anything but tensors, plain values and containers.
    """
    stream = io.BytesIO(data)
    types: dict[str, tuple[np.dtype, int]] = {}

    def unknown(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if count * dtype.itemsize > len(data):
            raise InputError(
                f"expected the {count} numbers of tensor {key}, got {len(data)} bytes in "
                f"the whole file; it is cut short"
            )
        types[key] = dtype, count
        return np.zeros(count, dtype)

    for _ in ("magic number", "version", "system"):
        _Restricted(stream, unknown).load()
    start = stream.tell()
    _Restricted(stream, unknown).load()
    storages = {}
    for key in _Restricted(stream, unknown).load():
        dtype, count = types[key]
        stored = int.from_bytes(stream.read(8), "little")
        if stored != count:
            raise InputError(f"expected {count} numbers in tensor {key}, got {stored}")
        size = count * dtype.itemsize
        storages[key] = np.frombuffer(stream.read(size), dtype, count)
    stream.seek(start)
    return _state_dict(_Restricted(stream, lambda dtype, key, count: storages[key]).load())


class _Restricted(pickle.Unpickler):
    """An unpickler that knows tensors, ordered dictionaries and plain values only."""

    def __init__(
        self, stream: io.BytesIO, storage: Callable[[np.dtype, str, int], np.ndarray]
    ) -> None:
        super().__init__(stream)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        # New objects each time: a pickle may set attributes on what it is given.
        if (module, name) == ("collections", "OrderedDict"):
            return type("Names", (dict,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _strided(*arguments[:4])
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return name
        raise InputError(
            f"expected a checkpoint of tensors alone, got one that asks to run "
            f"{module}.{name}; save model.state_dict() or convert it to safetensors"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, count, *_ = pid
        if kind != "storage" or storage not in _STORAGES:
            raise InputError(
                f"expected a reference to the numbers of a tensor, got {str(pid)[:80]}"
            )
        return self._storage(np.dtype(_STORAGES[storage]), str(key), int(count))


def _strided(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The tensor of this size and stride in ``storage``, copied; never reads outside it."""
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(type(v) is not int or v < 0 for v in numbers):
        raise InputError(f"expected the size and stride of a tensor, got {size}, {stride}")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= len(storage) or math.prod(size) > len(storage):
        raise InputError(
            f"expected a tensor inside its {len(storage)} stored numbers, got one of shape "
            f"{list(size)} that reaches number {last}; the file is damaged"
        )
    steps = [s * storage.itemsize for s in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)
    return view.copy()


def _state_dict(loaded: Any) -> dict[str, np.ndarray]:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"expected a checkpoint of named tensors, got a {type(loaded).__name__}; "
            f"save model.state_dict()"
        )
    return {k: v for k, v in loaded.items() if isinstance(v, np.ndarray)}
