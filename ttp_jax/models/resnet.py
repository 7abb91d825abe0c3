"""Residual networks in Flax: the CIFAR family and the ImageNet family, stage by stage.

He et al., arXiv 1512.03385. Convolutions carry no bias and pad explicitly, so that weights
of other frameworks give the same numbers. Inputs are ``[n, h, w, channels]`` of any size.
"""

from functools import partial
from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn

from ttp_jax.models.staged import Staged
from ttp_jax.types import InputError

Stride = Literal["v1", "v1.5"]
"""Where a bottleneck halves the picture: on its first 1x1 (v1) or on its 3x3 (v1.5)."""
Shortcut = Literal["pad", "project"]
"""Option A of the paper (every other pixel, channels padded with zeros) or option B."""

IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}

BN_MOMENTUM = 0.9
"""Weight of the past in the running statistics, when training with batch statistics."""

_conv = partial(nn.Conv, use_bias=False)


def _conv3x3(features: int, stride: int, name: str) -> nn.Conv:
    return _conv(features, (3, 3), strides=stride, padding=((1, 1), (1, 1)), name=name)


def _norm(epsilon: float, train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=BN_MOMENTUM, epsilon=epsilon, name=name
    )


class Stem(nn.Module):
    """First convolution: 3x3 for small pictures, 7x7/2 and a 3x3/2 max pool for large."""

    features: int
    large: bool
    epsilon: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        """``[n, h, w, channels]`` to ``[n, h', w', features]``."""
        if self.large:
            pad = ((3, 3), (3, 3))
            x = _conv(self.features, (7, 7), strides=2, padding=pad, name="conv")(x)
        else:
            x = _conv3x3(self.features, 1, "conv")(x)
        x = nn.relu(_norm(self.epsilon, train, "bn")(x))
        if self.large:
            pad = ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=pad)  # pyright: ignore
        return x


class Block(nn.Module):
    """Residual block ``relu(F(x) + shortcut(x))``: two 3x3, or 1x1, 3x3, 1x1."""

    features: int
    stride: int
    bottleneck: bool
    stride_on: Stride
    shortcut: Shortcut
    epsilon: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        """``[n, h, w, c]`` to ``[n, h/stride, w/stride, features (times 4)]``."""
        norm = partial(_norm, self.epsilon, train)
        if self.bottleneck:
            first, second = (self.stride, 1) if self.stride_on == "v1" else (1, self.stride)
            out = 4 * self.features
            y = _conv(self.features, (1, 1), strides=first, padding=0, name="conv1")(x)
            y = nn.relu(norm("bn1")(y))
            y = nn.relu(norm("bn2")(_conv3x3(self.features, second, "conv2")(y)))
            y = norm("bn3")(_conv(out, (1, 1), padding=0, name="conv3")(y))
        else:
            out = self.features
            y = nn.relu(norm("bn1")(_conv3x3(out, self.stride, "conv1")(x)))
            y = norm("bn2")(_conv3x3(out, 1, "conv2")(y))
        if self.stride != 1 or x.shape[-1] != out:
            if self.shortcut == "project":
                x = _conv(out, (1, 1), strides=self.stride, padding=0, name="conv0")(x)
                x = norm("bn0")(x)
            else:
                x = x[:, :: self.stride, :: self.stride]
                more = out - x.shape[-1]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(y + x)


class Stage(nn.Module):
    """Blocks at one resolution; the last stage averages over the picture at its end.

    Averaging there and not in the head keeps the cached features of a frozen trunk small.
    """

    blocks: int
    features: int
    stride: int
    bottleneck: bool
    stride_on: Stride
    shortcut: Shortcut
    epsilon: float
    average: bool

    @nn.compact
    def __call__(self, x, train: bool = False):
        """``[n, h, w, c]`` to ``[n, h', w', c']``, or to ``[n, c']`` in the last stage."""
        for i in range(self.blocks):
            x = Block(
                features=self.features,
                stride=self.stride if i == 0 else 1,
                bottleneck=self.bottleneck,
                stride_on=self.stride_on,
                shortcut=self.shortcut,
                epsilon=self.epsilon,
                name=f"block{i}",
            )(x, train)
        return x.mean(axis=(1, 2)) if self.average else x


class Head(nn.Module):
    """Affine map to the logits, behind a layer of ``hidden`` ReLU units if there are any."""

    classes: int
    hidden: int | None = None

    @nn.compact
    def __call__(self, x, train: bool = False):
        """``[n, c]`` to ``[n, classes]``."""
        if self.hidden is not None:
            x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        return nn.Dense(self.classes, name="dense")(x)


def cifar(
    depth: int,
    *,
    classes: int,
    width: float | int = 1,
    bn_epsilon: float = 1e-5,
    head_hidden: int | None = None,
) -> Staged:
    """ResNet of section 4.2 of the paper: ``6k + 2`` layers, option-A shortcuts.

    Args:
        depth: Number of layers; 20, 32, 44 and 56 in the paper.
        classes: Number of outputs.
        width: Multiplies the 16, 32, 64 channels of the three stages.
        bn_epsilon: Added to the variances of BatchNorm.
        head_hidden: Units of a hidden layer in the head.

    Raises:
        InputError: A depth that is not ``6k + 2``, a width that leaves no whole channels.
    """
    if depth < 8 or (depth - 2) % 6:
        raise InputError(f"a CIFAR ResNet has 6k + 2 layers (8, 14, 20, ...), got {depth}")
    channels = [16 * width * 2**i for i in range(3)]
    if min(channels) < 1 or any(c != int(c) for c in channels):
        raise InputError(f"width times 16 must be a whole number of channels, got {width}")
    stem = Stem(int(channels[0]), large=False, epsilon=bn_epsilon)
    stages = [
        Stage(
            blocks=(depth - 2) // 6,
            features=int(c),
            stride=1 if i == 0 else 2,
            bottleneck=False,
            stride_on="v1.5",
            shortcut="pad",
            epsilon=bn_epsilon,
            average=i == 2,
        )
        for i, c in enumerate(channels)
    ]
    return _chain(stem, stages, Head(classes, head_hidden))


def imagenet(
    depth: int,
    *,
    classes: int,
    stride_on: Stride = "v1.5",
    bn_epsilon: float = 1e-5,
    head_hidden: int | None = None,
) -> Staged:
    """ResNet of table 1 of the paper, projection shortcuts where the shape changes.

    Args:
        depth: 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
        classes: Number of outputs.
        stride_on: ``"v1"`` as in the paper, ``"v1.5"`` as torchvision and timm have it;
            of no effect on basic blocks.
        bn_epsilon: Added to the variances of BatchNorm; 1e-3 in Keras, 1e-5 elsewhere.
        head_hidden: Units of a hidden layer in the head.

    Raises:
        InputError: Another depth or stride.
    """
    if depth not in IMAGENET_BLOCKS:
        raise InputError(
            f"an ImageNet ResNet has {_either(IMAGENET_BLOCKS)} layers, got {depth}"
        )
    if stride_on not in get_args(Stride):
        raise InputError(f"stride must be {_either(get_args(Stride))}, got {stride_on!r}")
    stages = [
        Stage(
            blocks=blocks,
            features=64 * 2**i,
            stride=1 if i == 0 else 2,
            bottleneck=depth >= 50,
            stride_on=stride_on,
            shortcut="project",
            epsilon=bn_epsilon,
            average=i == 3,
        )
        for i, blocks in enumerate(IMAGENET_BLOCKS[depth])
    ]
    stem = Stem(64, large=True, epsilon=bn_epsilon)
    return _chain(stem, stages, Head(classes, head_hidden))


def _chain(stem: Stem, stages: list[Stage], head: Head) -> Staged:
    named = [(f"stage{i}", stage) for i, stage in enumerate(stages, start=1)]
    return Staged((("stem", stem), *named, ("head", head)))


def _either(choices) -> str:
    *rest, last = map(str, choices)
    return f"{', '.join(rest)} or {last}"
