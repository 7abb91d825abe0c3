"""Learning rates as arrays over steps: the same numbers for the dynamics and for optax."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ttp_jax.types import InputError

LearningRate = Any
"""A number, an array ``[T]``, or a schedule ``step -> learning rate`` as optax has them."""


def as_array(learning_rate: LearningRate, steps: int) -> Float[np.ndarray, " T"]:
    """Learning rate of each of ``steps`` steps, ``eta[k]`` for the update from k to k+1.

    Raises:
        InputError: An array of another length, or a rate that is not positive and finite
            (zero is allowed inside a schedule, where it freezes a step).
    """
    if callable(learning_rate):
        rates = np.array([np.asarray(learning_rate(k)) for k in range(steps)], float)
    else:
        rates = np.asarray(learning_rate, dtype=np.float64)
        if rates.ndim == 0:
            if not (np.isfinite(rates) and rates > 0):
                raise InputError(f"learning rate must be positive, got {rates}")
            rates = np.full(steps, float(rates))
    if rates.shape != (steps,):
        raise InputError(
            f"a learning-rate array must have one entry a step ({steps}), "
            f"got shape {rates.shape}"
        )
    if steps and not (np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
        raise InputError(
            f"a learning-rate schedule must be finite, not negative and not all zero, "
            f"got values in {rates.min()}..{rates.max()}"
        )
    return rates


def cosine(
    peak: float, steps: int, *, warmup_steps: int = 0, final_fraction: float = 0.0
) -> Float[np.ndarray, " T"]:
    """Half a cosine from ``peak`` to ``final_fraction * peak``, after a linear warm-up.

    ``eta_k = peak (F + (1 - F) (1 + cos(pi k'/T'))/2)`` (Loshchilov and Hutter,
    arXiv 1608.03983, one cycle), with ``k'`` and ``T'`` counted from the end of the
    warm-up, in which ``eta_k = peak (k + 1)/warmup_steps``.
    """
    if not 0 <= warmup_steps < max(steps, 1):
        raise InputError(f"warm-up must be shorter than {steps} steps, got {warmup_steps}")
    k = np.arange(steps - warmup_steps)
    shape = 0.5 * (1 + np.cos(np.pi * k / max(len(k), 1)))
    decay = final_fraction + (1 - final_fraction) * shape
    warmup = (np.arange(warmup_steps) + 1) / max(warmup_steps, 1)
    return peak * np.concatenate([warmup, decay])
