"""Logits of ResNets by plain PyTorch calls, for ``test_reference.py`` to compare with.

    pip install torch numpy
    python tests/models/make_reference.py

writes ``reference.json`` (logits) and two small checkpoints beside this file. Weights and
inputs are drawn by the rule of ``drawn.py``, so none of them is stored. Written from the
papers and the documentation of the weights, without this package.
"""

import json
from pathlib import Path

import drawn
import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent


def tensor(array):
    return torch.from_numpy(np.array(array, np.float64))


def norm(w, name, x, eps):
    parts = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in parts), eps=eps)


def torch_cifar(w, x):
    x = F.relu(norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1), 1e-5))
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in w:
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(norm(w, f"{at}.bn1", y, 1e-5))
            y = norm(w, f"{at}.bn2", F.conv2d(y, w[f"{at}.conv2.weight"], padding=1), 1e-5)
            if stride == 2:
                quarter = y.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = F.relu(x + y)
            block += 1
    return F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])


def torch_imagenet(w, x):
    x = F.conv2d(x, w["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm(w, "bn1", x, 1e-5)), 3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in w:
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = x
            last = 3 if f"{at}.conv3.weight" in w else 2
            for i in range(1, last + 1):
                kernel = w[f"{at}.conv{i}.weight"]
                # The stride is on the first 3x3 of either kind of block.
                here = stride if i == last - 1 else 1
                y = F.conv2d(y, kernel, stride=here, padding=kernel.shape[-1] // 2)
                y = norm(w, f"{at}.bn{i}", y, 1e-5)
                y = F.relu(y) if i < last else y
            if f"{at}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = norm(w, f"{at}.downsample.1", x, 1e-5)
            x = F.relu(x + y)
            block += 1
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def keras_resnet50(w, x):
    def layer(conv, bn, x, stride=1, padding=0):
        kernel = w[f"{conv}__kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, w[f"{conv}__bias"], stride=stride, padding=padding)
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        return F.batch_norm(x, *(w[f"{bn}__{part}"] for part in parts), eps=1e-3)

    x = F.relu(layer("conv1", "bn_conv1", F.pad(x, (3, 3, 3, 3)), stride=2))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)  # zeros, as Keras pads
    for stage, blocks in ((2, "abc"), (3, "abcd"), (4, "abcdef"), (5, "abc")):
        for block in blocks:
            stride = 2 if stage > 2 and block == "a" else 1
            name = lambda branch, s=f"{stage}{block}": f"{s}_branch{branch}"  # noqa: E731
            both = lambda branch, n=name: (f"res{n(branch)}", f"bn{n(branch)}")  # noqa: E731
            y = F.relu(layer(*both("2a"), x, stride=stride))
            y = F.relu(layer(*both("2b"), y, padding=1))
            y = layer(*both("2c"), y)
            if block == "a":
                x = layer(*both("1"), x, stride=stride)
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), w["fc1000__kernel"].T, w["fc1000__bias"])


CASES = {
    "resnet20": (torch_cifar, lambda: drawn.torch_cifar(1, 20), 17, 3),
    "resnet20_grey": (torch_cifar, lambda: drawn.torch_cifar(2, 20, 1, 32), 14, 1),
    "resnet18": (torch_imagenet, lambda: drawn.torch_imagenet(3, 18), 40, 3),
    "resnet50": (torch_imagenet, lambda: drawn.torch_imagenet(4, 50), 37, 3),
    "resnet50_keras": (keras_resnet50, lambda: drawn.keras_resnet50(5), 40, 3),
}


def checkpoints():
    """Named tensors of several types, strides and offsets, in both containers."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = torch.nn.Linear(3, 2).state_dict()  # an OrderedDict with attributes
    state.clear()
    state["plain"] = base.clone()
    state["transposed"] = base.T
    state["part"] = base[1:3, ::2]
    state["half"] = base.half()
    state["brain"] = base.bfloat16()
    state["parameter"] = torch.nn.Parameter(base[0].clone())
    state["steps"] = torch.tensor(5)
    state["empty"] = torch.zeros(0, 3)
    torch.save({"epoch": 3, "state_dict": state}, HERE / "tiny.pth")
    torch.save(state, HERE / "tiny_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    logits = {}
    for seed, (name, (run, weights, size, channels)) in enumerate(CASES.items(), start=1):
        w = {k: tensor(v) for k, v in weights().items()}
        x = tensor(drawn.inputs(seed, size, channels)).permute(0, 3, 1, 2)
        logits[name] = run(w, x).tolist()
        print(name, logits[name][0])
    (HERE / "reference.json").write_text(json.dumps(logits, indent=1) + "\n")
    checkpoints()
