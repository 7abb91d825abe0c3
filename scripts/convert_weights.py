"""Write weights of another framework as a file of this package.

    python scripts/convert_weights.py resnet50 resnet50.pth resnet50.safetensors --half

The new file carries architecture, preprocessing and checksum: it is read without options.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from ttp_jax import models
from ttp_jax.types import InputError


@dataclass(frozen=True)
class Config:
    """What to read and write."""

    model: tyro.conf.Positional[str]
    """Name of the network in the file."""
    source: tyro.conf.Positional[Path]
    """safetensors, npz or PyTorch checkpoint."""
    target: tyro.conf.Positional[Path]
    """safetensors file to write."""
    half: bool = False
    """Store float16."""
    stride: Literal["v1", "v1.5"] | None = None
    """Where bottlenecks halve the picture, if not where the layout usually does."""
    bn_epsilon: float | None = None
    """Epsilon of BatchNorm, if not the usual one of the layout."""


def main(config: Config) -> int:
    try:
        network = models.load(
            config.model,
            weights=config.source,
            stride_on=config.stride,
            bn_epsilon=config.bn_epsilon,
        )
        dtype = np.float16 if config.half else np.float32
        models.save(network, config.target, dtype=dtype)
        written = models.load(config.model, weights=config.target)
    except InputError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(written.weights_sha256, config.target)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
