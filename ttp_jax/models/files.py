"""Weight files to named arrays and a checksum; what the names mean is not known here."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from ttp_jax.models import torch_files
from ttp_jax.types import InputError

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class WeightFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read(path: str | Path, *, sha256: str | None = None) -> WeightFile:
    """Read ``.safetensors``, ``.npz`` or a PyTorch checkpoint, told apart by content.

    Args:
        path: Of the file.
        sha256: Expected checksum in hexadecimal.

    Raises:
        InputError: It does not exist, cannot be read, is cut short, has another checksum,
            or asks for code to be run.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise InputError(
            f"expected a weights file at {path}, got {problem.strerror or problem}; "
            f"check the path"
        ) from problem
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise InputError(
            f"expected the SHA-256 {sha256} for {path}, got {found}; "
            f"fetch the file again or correct the checksum"
        )
    try:
        tensors, metadata = _parse(data)
    except InputError as problem:
        # What a damaged file is quoted with may hold line breaks.
        raise InputError(
            f"weights file {path}: {' '.join(str(problem).split())}"
        ) from problem
    except Exception as problem:  # damaged bytes fail anywhere in the three parsers
        detail = " ".join(str(problem).split())[:120] or type(problem).__name__
        raise InputError(
            f"expected a whole safetensors, npz or PyTorch file, got {len(data)} bytes in "
            f"{path} that cannot be read ({detail}); fetch it again"
        ) from problem
    return WeightFile(tensors, metadata, found)


def _parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if data[8:9] == b"{":
        return _safetensors(data)
    if torch_files.is_legacy(data):
        return torch_files.read_legacy(data), {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if torch_files.is_zip(archive):
            return torch_files.read_zip(archive), {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}, {}


def _safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    tensors = {}
    for name, tensor in safetensors.deserialize(data):
        if tensor["dtype"] not in _DTYPES:
            raise InputError(
                f"expected tensors of {', '.join(_DTYPES)}, got {tensor['dtype']} in {name}"
            )
        flat = np.frombuffer(tensor["data"], np.dtype(_DTYPES[tensor["dtype"]]))
        tensors[name] = flat.reshape(tensor["shape"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})
