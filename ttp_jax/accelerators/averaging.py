"""Averages along the tail of a plain run: of weights (SWA), and of outputs (FGE)."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from ttp_jax import schedules
from ttp_jax.accelerators.plan import Plan
from ttp_jax.types import InputError, Params


def stochastic_weight_averaging(
    learning_rates: Float[np.ndarray, " T"], *, start: int, rate: float, every: int
) -> Plan:
    """A plain run, from some step on at a constant rate, its weights averaged.

    Izmailov et al. (arXiv 1803.05407, alg. 1): from the weights at ``start`` on, every
    ``every`` steps ``w_SWA <- (k w_SWA + w)/(k + 1)``, the model being that of
    :func:`mean_weights` of all that is kept. Here BatchNorm is in inference mode: its
    statistics need no further pass.

    Args:
        learning_rates: Of the plain run.
        start: Step from which on the rate is constant; kept itself.
        rate: That rate.
        every: Steps between weights that are averaged, an epoch by custom.

    Raises:
        InputError: A tail without steps, or a rate or spacing out of range.
    """
    _require_tail(len(learning_rates), start, every)
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"the rate of the tail must be positive, got {rate}")
    rates = np.array(learning_rates, float)
    rates[start:] = rate
    return Plan(rates, np.arange(start, len(rates) + 1, every))


def fast_geometric(
    learning_rates: Float[np.ndarray, " T"],
    *,
    start: int,
    high: float,
    low: float,
    period: int,
) -> Plan:
    """A plain run, from some step on in short triangular cycles, kept at their lowest rate.

    Garipov et al. (arXiv 1802.10026, sec. 4): the softmax outputs of what is kept are
    averaged. The schedule is :func:`ttp_jax.schedules.triangular`.

    Args:
        learning_rates: Of the plain run.
        start: Step from which on the rate cycles.
        high: Rate at the ends of a cycle.
        low: Rate in its middle.
        period: Steps a cycle, even.

    Raises:
        InputError: A tail too short for one model, or rates or period out of range.
    """
    rates = np.array(learning_rates, float)
    _require_tail(len(rates), start, period // 2)
    rates[start:] = schedules.triangular(high, low, len(rates) - start, period)
    # The step at the lowest rate is the one that leads to the model kept.
    return Plan(rates, np.arange(start + period // 2, len(rates) + 1, period))


def mean_weights(weights: Sequence[Params]) -> Params:
    """The mean of several models' weights."""
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *weights)


def _require_tail(steps: int, start: int, first: int) -> None:
    if not (0 < start < steps and 0 < first <= steps - start):
        raise InputError(
            f"the tail must start in 1..{steps - 1} and reach its first model in time, got "
            f"start {start} and {first} steps to the first model"
        )
