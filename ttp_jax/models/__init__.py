"""Pre-trained networks behind ``ApplyFn``: layers, weights, heads, frozen prefixes."""

from ttp_jax.models.mlp import mlp
from ttp_jax.models.native import save
from ttp_jax.models.network import HeadInit, Network, Preprocessing, Split
from ttp_jax.models.pretrained import NAMES, load
from ttp_jax.models.resnet import cifar, imagenet
from ttp_jax.models.staged import Staged

__all__ = [
    "NAMES",
    "HeadInit",
    "Network",
    "Preprocessing",
    "Split",
    "Staged",
    "cifar",
    "imagenet",
    "load",
    "mlp",
    "save",
]
