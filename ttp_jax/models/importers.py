"""Weights of other frameworks as Flax variables: one name map for each layout.

A layout says, for each of our names, what the tensor is called over there and how its axes
run. Everything else (what is missing, unexpected, misshapen, not finite) is one function.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from flax import traverse_util

from ttp_jax.types import InputError

Layout = Literal["native", "torch", "keras"]
Variables = dict[str, dict[str, Any]]
Tensors = Mapping[str, np.ndarray]

_SHOWN = 3
_NAME = re.compile(
    r"(?P<collection>params|batch_stats)/(?P<stage>stem|stage\d+|head)"
    r"(/block(?P<block>\d+))?/(?P<kind>conv|bn|dense)(?P<index>\d*)/(?P<leaf>\w+)"
)


def normalise(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names without what wrappers and containers add to them.

    ``module.`` of data-parallel training goes, ``__`` becomes ``/`` where every name of a
    Keras file has it, and step counters are dropped.
    """
    out = {
        name.removeprefix("module."): value
        for name, value in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    if out and all("__" in name for name in out):
        out = {name.replace("__", "/"): value for name, value in out.items()}
    return out


def detect(tensors: Tensors) -> Layout:
    """Layout of normalised names.

    Raises:
        InputError: None of the known ones.
    """
    if "params/head/dense/kernel" in tensors:
        return "native"
    if "conv1.weight" in tensors and ("fc.weight" in tensors or "linear.weight" in tensors):
        return "torch"
    if "conv1/kernel" in tensors and "fc1000/kernel" in tensors:
        return "keras"
    names = ", ".join(sorted(tensors)[:_SHOWN]) or "no tensors"
    raise InputError(
        f"expected the tensors of a torchvision, timm, CIFAR or Keras ResNet or of this "
        f"package, got {len(tensors)} tensors ({names}, ...); save a state_dict or convert "
        f"the names"
    )


def head_classes(tensors: Tensors) -> int:
    """Number of outputs of the head in a file of any layout."""
    for name in ("params/head/dense/bias", "fc.bias", "linear.bias", "fc1000/bias"):
        if name in tensors:
            return tensors[name].shape[0]
    raise InputError("expected the bias of the head among the tensors, got none")


def stem_shape(tensors: Tensors) -> tuple[int, ...]:
    """Shape ``(height, width, channels, features)`` of the first convolution."""
    for name in ("params/stem/conv/kernel", "conv1.weight", "conv1/kernel"):
        if name in tensors and tensors[name].ndim == 4:
            h, w, i, o = tensors[name].shape
            return (h, w, i, o) if _is_hwio(tensors[name]) else (i, o, w, h)
    raise InputError("expected the kernel of the first convolution, got none of 4 axes")


def from_native(tensors: Tensors, shapes: Variables) -> Variables:
    """Variables written by this package: names joined by ``/``."""
    return _assemble(tensors, shapes, lambda name: name, lambda name, value: value)


def from_torch(tensors: Tensors, shapes: Variables) -> Variables:
    """torchvision, timm, and CIFAR ResNets as PyTorch names them.

    Convolutions are OIHW and the head ``[classes, features]``, or, where the first kernel
    shows it, already HWIO and ``[features, classes]``.
    """
    head = "fc" if "fc.weight" in tensors else "linear"
    first = tensors.get("conv1.weight")
    transposed = first is None or not _is_hwio(first)

    def source(name: str) -> str:
        part = _parse(name)
        leaf = {
            "kernel": "weight",
            "scale": "weight",
            "bias": "bias",
            "mean": "running_mean",
            "var": "running_var",
        }[part["leaf"]]
        if part["stage"] == "head":
            return f"{head}.{leaf}"
        if part["stage"] == "stem":
            return f"{part['kind']}1.{leaf}"
        prefix = f"layer{part['stage'][5:]}.{part['block']}"
        if part["index"] == "0":
            return f"{prefix}.downsample.{0 if part['kind'] == 'conv' else 1}.{leaf}"
        return f"{prefix}.{part['kind']}{part['index']}.{leaf}"

    def transform(name: str, value: np.ndarray) -> np.ndarray:
        if transposed and name.endswith("kernel"):
            return value.transpose((2, 3, 1, 0) if value.ndim == 4 else None)
        return value

    return _assemble(tensors, shapes, source, transform)


def from_keras(tensors: Tensors, shapes: Variables) -> Variables:
    """Keras' first ResNet-50: names such as ``res2a_branch2a/kernel``, kernels HWIO.

    Its convolutions carry biases in front of BatchNorm, where a bias only moves the mean:
    ``mean' = mean - bias``.
    """
    biases = {
        _keras_norm(name.removesuffix("/bias")): value
        for name, value in tensors.items()
        if name.endswith("/bias") and not name.startswith("fc")
    }

    def source(name: str) -> str:
        part = _parse(name)
        leaf = part["leaf"]
        if part["stage"] == "head":
            return f"fc1000/{leaf}"
        if part["stage"] == "stem":
            conv = "conv1"
        else:
            branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[part["index"]]
            block = "abcdefghijklmnopqrstuvwxyz"[int(part["block"])]
            conv = f"res{int(part['stage'][5:]) + 1}{block}_branch{branch}"
        if part["kind"] == "conv":
            return f"{conv}/{leaf}"
        leaf = {
            "scale": "gamma",
            "bias": "beta",
            "mean": "moving_mean",
            "var": "moving_variance",
        }[leaf]
        return f"{_keras_norm(conv)}/{leaf}"

    def transform(name: str, value: np.ndarray) -> np.ndarray:
        bias = biases.get(source(name).removesuffix("/moving_mean"))
        if name.endswith("/mean") and bias is not None and bias.shape == value.shape:
            return value.astype(np.float64) - bias
        return value

    kept = {
        name: value
        for name, value in tensors.items()
        if name.startswith("fc") or not name.endswith("/bias")
    }
    return _assemble(kept, shapes, source, transform)


def _keras_norm(conv: str) -> str:
    return "bn_conv1" if conv == "conv1" else conv.replace("res", "bn", 1)


def _is_hwio(kernel: np.ndarray) -> bool:
    """First kernels are square, take 1 or 3 channels, and give more than they are wide."""
    return kernel.ndim == 4 and kernel.shape[0] == kernel.shape[1]


def _parse(name: str) -> dict[str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"expected a model that this layout can hold, got the tensor {name}; "
            f"use a file of this package"
        )
    return match.groupdict()


def _assemble(
    tensors: Tensors,
    shapes: Variables,
    source: Callable[[str], str],
    transform: Callable[[str, np.ndarray], np.ndarray],
) -> Variables:
    """Fill ``shapes`` from ``tensors``, float32; report in the names of the file."""
    wanted: dict[str, Any] = traverse_util.flatten_dict(  # pyright: ignore
        shapes, sep="/", keep_empty_nodes=True
    )
    filled, missing, misshapen, not_finite = {}, [], [], []
    used = set()
    for name, expected in wanted.items():
        if expected is traverse_util.empty_node:
            filled[name] = expected
            continue
        origin = source(name)
        used.add(origin)
        if origin not in tensors:
            missing.append(origin)
            continue
        value = tensors[origin]
        try:
            value = transform(name, value)
        except ValueError:
            value = tensors[origin]
        if value.shape != expected.shape:
            misshapen.append(f"{origin} {list(value.shape)} not {list(expected.shape)}")
            continue
        with np.errstate(over="ignore"):
            filled[name] = np.ascontiguousarray(value, np.float32)
        if not np.isfinite(filled[name]).all():
            not_finite.append(origin)
    unexpected = sorted(set(tensors) - used)
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "not finite": not_finite,
    }
    if any(faults.values()):
        listed = "; ".join(
            f"{len(names)} {fault} ({_some(names)})"
            for fault, names in faults.items()
            if names
        )
        raise InputError(
            f"expected {len(wanted)} finite tensors of this model, got {listed}; "
            f"check that model and file belong together"
        )
    return traverse_util.unflatten_dict(filled, sep="/")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
