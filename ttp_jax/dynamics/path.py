"""What a solver returns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Path:
    """Loss and accuracy of the linearised model at the steps that were read.

    The weights at the last step are ``(1 - shrink) w_0 - J^T alpha`` with ``alpha``
    flattened sample-major, and the outputs there are ``outputs``: what is needed to ask
    how far the true model has moved from its linearisation. For the moments of a random
    path these are the means.
    """

    steps: Int[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    outputs: Float[np.ndarray, "n c"]
    alpha: Float[np.ndarray, " nc"]
    shrink: float
