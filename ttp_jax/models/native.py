"""This package's own weight files: safetensors with the architecture in their metadata."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save as to_bytes

from ttp_jax.models.mlp import mlp
from ttp_jax.models.network import Network, Preprocessing
from ttp_jax.models.resnet import cifar, imagenet
from ttp_jax.models.staged import Staged
from ttp_jax.types import InputError

FORMAT = "ttp_jax 1"


def build(config: dict[str, Any]) -> Staged:
    """The model that a :attr:`Network.config` describes.

    Raises:
        InputError: A family this version does not know, or arguments it does not take.
    """
    arguments = {k: v for k, v in config.items() if k != "family"}
    families = {"cifar": cifar, "imagenet": imagenet, "mlp": mlp}
    try:
        return families[config["family"]](**arguments)
    except (KeyError, TypeError) as problem:
        raise InputError(
            f"a network is described by a family ({', '.join(families)}) and its "
            f"arguments, got {config}; is the file from a newer version?"
        ) from problem


def flatten(variables: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Variables as one level of names, ``params/stage1/block0/conv1/kernel``."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def save(network: Network, path: str | Path, *, dtype: Any = np.float32) -> None:
    """Write ``network`` so that ``load(..., weights=path)`` gives it back; atomic.

    Args:
        network: What to write.
        path: Of the safetensors file.
        dtype: ``np.float16`` halves the file; read back as float32 either way.

    Raises:
        InputError: Weights that are not finite in ``dtype``.
    """
    path = Path(path)
    with np.errstate(over="ignore"):
        tensors = {
            name: np.ascontiguousarray(value, dtype)
            for name, value in flatten(network.variables).items()
        }
    lost = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if lost:
        raise InputError(
            f"expected finite weights that {np.dtype(dtype)} can hold, got others in "
            f"{lost[0]} ({len(lost)} tensors in all); write float32"
        )
    metadata = {
        "format": FORMAT,
        "config": json.dumps(network.config),
        "preprocess": json.dumps(asdict(network.preprocess)),
        "image_size": str(network.image_size),
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(to_bytes(tensors, metadata))
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def described(metadata: dict[str, str]) -> tuple[dict[str, Any], Preprocessing, int]:
    """Architecture, preprocessing and picture size from the metadata of our own file.

    Raises:
        InputError: Metadata that this version cannot read.
    """
    try:
        config = json.loads(metadata["config"])
        fields = json.loads(metadata["preprocess"])
        fields |= {k: tuple(fields[k]) for k in ("mean", "std")}
        return config, Preprocessing(**fields), int(metadata["image_size"])
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"expected the metadata of a {FORMAT} file, got {sorted(metadata)}; "
            f"write the file again with this version"
        ) from problem
