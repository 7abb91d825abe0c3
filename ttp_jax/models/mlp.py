"""Multilayer perceptron with the same stages interface as the residual networks."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from ttp_jax.models.resnet import Head
from ttp_jax.models.staged import Staged
from ttp_jax.types import InputError

Activation = Literal["relu", "tanh", "gelu"]

_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}


class Layer(nn.Module):
    """Flatten, affine map, activation."""

    width: int
    activation: Activation

    @property
    def gain(self) -> float:
        """Keeps the size of activations from layer to layer: 2 where half are cut off."""
        return 2.0 if self.activation == "relu" else 1.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        """``[n, ...]`` to ``[n, width]``."""
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.width, name="dense")(x)
        return _ACTIVATIONS[self.activation](x)


def mlp(
    *,
    classes: int,
    widths: Sequence[int] = (256, 256),
    activation: Activation = "relu",
    head_hidden: int | None = None,
) -> Staged:
    """Fully connected layers of the given widths, then the head.

    Raises:
        InputError: A width below 1 or another activation.
    """
    if any(width < 1 for width in widths):
        raise InputError(f"the widths of an MLP must be at least 1, got {list(widths)}")
    if activation not in get_args(Activation):
        raise InputError(
            f"activation must be one of {', '.join(get_args(Activation))}, "
            f"got {activation!r}"
        )
    layers = [
        (f"layer{i}", Layer(width, activation)) for i, width in enumerate(widths, start=1)
    ]
    return Staged((*layers, ("head", Head(classes, head_hidden))))
