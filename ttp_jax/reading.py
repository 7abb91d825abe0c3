"""How a curve is read: at which steps, and which numbers."""

import numpy as np
from jaxtyping import Int

from ttp_jax import losses
from ttp_jax.types import InputError, LossName


def read_steps(steps: int, every: int) -> Int[np.ndarray, " t"]:
    """Steps at which a curve is read: ``0, every, 2 every, ...`` and the last, ``T``.

    Raises:
        InputError: Fewer than one step, or ``every`` outside ``1..T``.
    """
    if steps < 1:
        raise InputError(f"the number of steps must be at least 1, got {steps}")
    if not 1 <= every <= steps:
        raise InputError(f"every must lie in 1..{steps} (the number of steps), got {every}")
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def loss_and_accuracy(loss: LossName, f, targets):
    """Both numbers that a curve keeps, of outputs ``[n, c]``."""
    return losses.mean(loss, f, targets), losses.accuracy(f, targets)
