"""Learning rates as arrays over steps: the same numbers for the dynamics and for optax."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.types import InputError

LearningRate = Any
"""A number, an array ``[T]``, or a schedule ``step -> learning rate`` as optax has them; or an
array ``[T, G]``, one rate for each group of weights."""


def as_array(learning_rate: LearningRate, steps: int) -> Float[np.ndarray, "T *G"]:
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
    if rates.shape[:1] != (steps,) or rates.ndim > 2:
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


def cycle_ends(steps: int, cycles: int) -> Int[np.ndarray, " M"]:
    """Steps after which each of ``M`` cycles of a run of ``T`` steps is over.

    ``T_c, 2 T_c, ..., T`` with ``T_c = ceil(T/M)`` (Huang et al., arXiv 1704.00109, eq. 2):
    where ``M`` does not divide ``T`` the last cycle is the shorter one and breaks off before
    its rate is near zero. (The authors' Torch code rounds down instead, gives the last cycle
    the remainder and counts a step further, so that the last rate of a cycle is zero; its
    phase in that longer last cycle is off. Whole cycles are the same but for that step.)

    Raises:
        InputError: Fewer than one cycle, more than steps, or so many that cycles of
            ``T_c`` steps are over before the last begins.
    """
    if not 1 <= cycles <= steps:
        raise InputError(
            f"cycles must lie in 1..{steps} (the number of steps), got {cycles}"
        )
    length = -(-steps // cycles)
    if length * (cycles - 1) >= steps:
        raise InputError(
            f"cycles of {length} steps (steps over cycles, rounded up) leave none of {steps} "
            f"to the last of {cycles}; take {-(-steps // length)} cycles"
        )
    return np.minimum(length * np.arange(1, cycles + 1), steps)


def cyclic_cosine(peak: float, steps: int, cycles: int) -> Float[np.ndarray, " T"]:
    """Cosine annealing from ``peak``, restarted at the end of each cycle.

    ``alpha(t) = (alpha_0/2) (cos(pi mod(t - 1, T_c)/T_c) + 1)`` at steps ``t = 1..T``, with
    ``T_c = ceil(T/M)`` (Huang et al., arXiv 1704.00109, eq. 2).

    Raises:
        InputError: A peak that is not positive, or as :func:`cycle_ends`.
    """
    if not (np.isfinite(peak) and peak > 0):
        raise InputError(f"peak learning rate (alpha0) must be positive, got {peak}")
    length = cycle_ends(steps, cycles)[0]
    return peak / 2 * (np.cos(np.pi * (np.arange(steps) % length) / length) + 1)


def triangular(high: float, low: float, steps: int, period: int) -> Float[np.ndarray, " T"]:
    """Down from ``high`` to ``low`` and up again in every ``period`` steps, linearly.

    With ``s = (mod(t - 1, c) + 1)/c`` at ``t = 1..T``: ``(1 - 2 s) high + 2 s low`` up to
    ``s = 1/2``, ``(2 - 2 s) low + (2 s - 1) high`` after it (Garipov et al., arXiv
    1802.10026, sec. 4). The rate is ``low`` at steps ``c/2, 3c/2, ...``.

    Raises:
        InputError: A period that is not even and positive, or rates out of order.
    """
    if period < 2 or period % 2:
        raise InputError(f"the period must be even and at least 2 steps, got {period}")
    if not (np.isfinite(high) and 0 < low <= high):
        raise InputError(f"rates must be 0 < low <= high, got {low} and {high}")
    share = (np.arange(steps) % period + 1) / period
    return low + (high - low) * np.abs(2 * share - 1)
