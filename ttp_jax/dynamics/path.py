"""What a solver returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.reading import Readings

BANDS = (0.7, 0.95)
"""Coverage of the bands around a curve."""
QUANTILES = tuple(
    sorted(round((1 + sign * band) / 2, 6) for band in BANDS for sign in (-1, 1))
)
"""Their lower and upper ends."""


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
