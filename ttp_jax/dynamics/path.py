"""What a solver returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ttp_jax.reading import Readings

BANDS = (0.7, 0.95)
"""Coverage of the bands around a curve."""
QUANTILES = tuple(
    sorted(round((1 + sign * band) / 2, 6) for band in BANDS for sign in (-1, 1))
)
"""Their lower and upper ends."""


class Places(NamedTuple):
    """Outputs and coefficients of the weights (:class:`Path`) after some of the steps."""

    outputs: Any
    """``[k, n + m, c]``."""
    alpha: Any
    """``[k, n c]``."""
    shrink: Any
    """``[k]``."""

    def with_one(self, slot: jax.Array, one: "Places") -> "Places":
        """The same with ``one`` in its slot; one whose slot there is not is dropped."""
        return jax.tree.map(lambda all, new: all.at[slot].set(new, mode="drop"), self, one)

    def gram(
        self,
        theta: Float[np.ndarray, "nc nc"],
        q0: Float[np.ndarray, " nc"],
        size: float,
    ) -> Float[np.ndarray, "k1 k1"]:
        """Inner products of ``w_0`` and of all ``w_i - w_0 = -s_i w_0 - J^T alpha_i``.

        Args:
            theta: Kernel ``J J^T`` of the samples that are trained on.
            q0: ``J w_0`` of these.
            size: ``|w_0|^2``.
        """
        along = np.append(1.0, -self.shrink)
        alpha = np.concatenate([np.zeros((1, len(q0))), -self.alpha])
        mixed = np.outer(along, alpha @ q0)
        return size * np.outer(along, along) + mixed + mixed.T + alpha @ theta @ alpha.T


@dataclass(frozen=True)
class Path:
    """Loss and accuracy of the linearised model at the steps that were read.

    The weights at the last step are ``(1 - shrink) w_0 - J^T alpha - coast v_0`` with
    ``alpha`` flattened sample-major and ``v_0`` the velocity at the start, if there was one;
    the outputs there are ``outputs``: what is needed to ask
    how far the true model has moved from its linearisation. For the moments of a random
    path these are the means.
    """

    steps: Int[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    outputs: Float[np.ndarray, "n c"]
    alpha: Float[np.ndarray, " nc"]
    shrink: float
    coast: float = 0.0
    loss_quantiles: Mapping[float, np.ndarray] | None = None
    """Over random paths, by level; ``None`` where there is one path."""
    accuracy_quantiles: Mapping[float, np.ndarray] | None = None
    held_out: Readings | None = None
    """On the samples that are not trained on; all else is of those that are."""
    places: Places | None = None
    """After the steps that were to be kept."""

    @property
    def trained(self) -> Readings:
        """On the samples that are trained on."""
        return Readings(
            self.loss, self.accuracy, self.loss_quantiles, self.accuracy_quantiles
        )


def quantiles(values: Float[np.ndarray, "paths t"]) -> dict[float, np.ndarray]:
    """At every step the levels :data:`QUANTILES` over the paths."""
    levels = np.quantile(values, QUANTILES, axis=0)
    return dict(zip(QUANTILES, levels, strict=True))
