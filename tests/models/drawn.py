"""Weights and inputs drawn by a seeded rule, in the names and axes of other frameworks.

Read by the tests, and by ``make_reference.py`` under another framework: NumPy only.
"""

import numpy as np

CLASSES = 7


def _rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def inputs(seed, size, channels=3):
    """One picture as the first convolution takes it, ``[1, size, size, channels]``."""
    return _rng(1000 + seed).standard_normal((1, size, size, channels)).astype(np.float32)


def _conv(rng, out, into, k):
    """OIHW."""
    scale = np.sqrt(2 / (into * k * k))
    return (scale * rng.standard_normal((out, into, k, k))).astype(np.float32)


def _norm(rng, features, gain=1.0):
    return {
        "weight": (gain * rng.uniform(0.5, 1.5, features)).astype(np.float32),
        "bias": (0.3 * rng.standard_normal(features)).astype(np.float32),
        # Multiples of 1/64: sums with the biases below are exact in float32.
        "running_mean": (np.round(16 * rng.standard_normal(features)) / 64).astype("f4"),
        "running_var": rng.uniform(0.5, 2.0, features).astype(np.float32),
    }


def _put(tensors, name, parts):
    for leaf, value in parts.items():
        tensors[f"{name}.{leaf}"] = value


def _head(rng, name, features):
    kernel = rng.standard_normal((CLASSES, features)) / np.sqrt(features)
    bias = rng.standard_normal(CLASSES)
    return {f"{name}.weight": kernel.astype("f4"), f"{name}.bias": bias.astype("f4")}


def torch_cifar(seed, depth, channels=3, width=16):
    """A CIFAR ResNet as its PyTorch authors name it; kernels OIHW."""
    rng = _rng(seed)
    tensors = {"conv1.weight": _conv(rng, width, channels, 3)}
    _put(tensors, "bn1", _norm(rng, width))
    into = width
    for stage in (1, 2, 3):
        out = width * 2 ** (stage - 1)
        for block in range((depth - 2) // 6):
            at = f"layer{stage}.{block}"
            tensors[f"{at}.conv1.weight"] = _conv(rng, out, into, 3)
            _put(tensors, f"{at}.bn1", _norm(rng, out))
            tensors[f"{at}.conv2.weight"] = _conv(rng, out, out, 3)
            _put(tensors, f"{at}.bn2", _norm(rng, out, 0.3))
            into = out
    return tensors | _head(rng, "linear", into)


def torch_imagenet(seed, depth):
    """A torchvision ResNet 18 or 50."""
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    rng = _rng(seed)
    tensors = {"conv1.weight": _conv(rng, 64, 3, 7)}
    _put(tensors, "bn1", _norm(rng, 64))
    into = 64
    for stage, count in enumerate(blocks, start=1):
        planes = 64 * 2 ** (stage - 1)
        out = planes * (4 if depth == 50 else 1)
        for block in range(count):
            at = f"layer{stage}.{block}"
            shapes = [(planes, into, 3), (planes, planes, 3)]
            if depth == 50:
                shapes = [(planes, into, 1), (planes, planes, 3), (out, planes, 1)]
            for i, (o, c, k) in enumerate(shapes, start=1):
                tensors[f"{at}.conv{i}.weight"] = _conv(rng, o, c, k)
                _put(tensors, f"{at}.bn{i}", _norm(rng, o, 0.3 if i == len(shapes) else 1))
            if block == 0 and into != out:
                tensors[f"{at}.downsample.0.weight"] = _conv(rng, out, into, 1)
                _put(tensors, f"{at}.downsample.1", _norm(rng, out))
            into = out
    return tensors | _head(rng, "fc", into)


def keras_resnet50(seed):
    """The names of Keras' first ResNet-50, ``/`` written ``__``; kernels HWIO, biases."""
    rng = _rng(seed)
    tensors = {}

    def layer(conv, norm, out, into, k, gain=1.0):
        tensors[f"{conv}__kernel"] = _conv(rng, out, into, k).transpose(2, 3, 1, 0)
        tensors[f"{conv}__bias"] = (np.round(16 * rng.standard_normal(out)) / 64).astype(
            "f4"
        )
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        parts = _norm(rng, out, gain).values()
        for name, value in zip(names, parts, strict=True):
            tensors[f"{norm}__{name}"] = value

    layer("conv1", "bn_conv1", 64, 3, 7)
    into = 64
    for stage, count in enumerate((3, 4, 6, 3), start=2):
        planes = 64 * 2 ** (stage - 2)
        for block in "abcdef"[:count]:
            for branch, out, c, k, gain in (
                ("2a", planes, into, 1, 1.0),
                ("2b", planes, planes, 3, 1.0),
                ("2c", 4 * planes, planes, 1, 0.3),
                ("1", 4 * planes, into, 1, 1.0),
            ):
                if branch != "1" or block == "a":
                    at = f"{stage}{block}_branch{branch}"
                    layer(f"res{at}", f"bn{at}", out, c, k, gain)
            into = 4 * planes
    head = _head(rng, "fc1000", into)
    tensors["fc1000__kernel"] = head["fc1000.weight"].T
    tensors["fc1000__bias"] = head["fc1000.bias"]
    return tensors
