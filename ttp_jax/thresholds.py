"""Time to a threshold, read off any curve by one of three rules, and when to stop."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Float

from ttp_jax.types import Curve, InputError, ThresholdRule


@dataclass(frozen=True)
class TimeToThreshold:
    """First step at which the rule holds, or that it never does within the budget."""

    steps: int | None
    seconds: float | None
    censored: bool
    budget_steps: int


def time_to_threshold(
    curve: Curve,
    epsilon: float,
    rule: ThresholdRule = "within_of_final",
    *,
    smoothing: int = 1,
) -> TimeToThreshold:
    """First step that was read at which the loss meets the threshold.

    - ``"loss"``: ``L_t <= epsilon``;
    - ``"fraction_of_initial"``: ``L_t <= epsilon L_0``;
    - ``"within_of_final"``: ``|L_t - L_T| <= epsilon L_0`` with T the last step, the rule
      of Zancato et al. (arXiv 2008.12478) with the initial loss as the unit.

    Args:
        curve: Predicted or measured.
        epsilon: The threshold: a loss, or a fraction of the initial loss.
        rule: How to read it.
        smoothing: Mean of so many readings up to each one (causal; fewer at the start).

    Returns:
        ``censored`` with neither steps nor seconds where the budget ends first. Under
        ``within_of_final`` the last step meets its own loss by definition, so reaching it
        only there is censored too, as is a run that ended without a finite loss.

    Raises:
        InputError: An epsilon, rule or smoothing out of range.
    """
    if rule not in get_args(ThresholdRule):
        raise InputError(
            f"rule must be one of {', '.join(get_args(ThresholdRule))}, got {rule!r}"
        )
    if not epsilon > 0 or (rule != "loss" and not epsilon < 1) or not np.isfinite(epsilon):
        bound = "above 0" if rule == "loss" else "between 0 and 1"
        raise InputError(f"epsilon must lie {bound} for rule {rule!r}, got {epsilon}")
    loss = causal_mean(np.asarray(curve.loss), smoothing)
    if rule == "loss":
        reached = loss <= epsilon
    elif rule == "fraction_of_initial":
        reached = loss <= epsilon * loss[0]
    else:
        reached = np.abs(loss - loss[-1]) <= epsilon * loss[0]
        reached[-1] = False
    if not reached.any():
        return TimeToThreshold(None, None, True, curve.budget_steps)
    first = int(np.argmax(reached))
    return TimeToThreshold(
        int(curve.steps[first]), float(curve.seconds[first]), False, curve.budget_steps
    )


@dataclass(frozen=True)
class BestStep:
    """Where the held-out loss is lowest, or that it still falls at the end of the budget."""

    steps: int | None
    seconds: float | None
    loss: float
    """The lowest that was read."""
    censored: bool
    budget_steps: int


def best_step(curve: Curve, *, smoothing: int = 1) -> BestStep:
    """The step, of those read, at which to stop: that of the lowest held-out loss.

    ``argmin_t L_t`` on the samples that are not trained on; the first of several. A loss that
    is lowest before the first step is no exception: the step is 0.

    Args:
        curve: Predicted or measured, with its held-out curve.
        smoothing: Mean of so many readings up to each one (causal; fewer at the start).

    Returns:
        ``censored`` with neither steps nor seconds where the loss is lowest at the last step:
        it might fall further. What is not finite is never lowest.

    Raises:
        InputError: No held-out curve, a smoothing out of range.

    Breaks when: the loss is flat around its minimum; then far-off steps are as good, and
    their losses say more than their distance.
    """
    held_out = curve.held_out
    if held_out is None:
        raise InputError(
            "the best step needs a curve on held-out samples, got one without; "
            "give the task held_out=(x, y)"
        )
    loss = causal_mean(np.asarray(held_out.loss), smoothing)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    at = int(np.argmin(loss))
    if at == len(loss) - 1:
        return BestStep(None, None, float(loss[at]), True, curve.budget_steps)
    return BestStep(
        int(held_out.steps[at]),
        float(held_out.seconds[at]),
        float(loss[at]),
        False,
        curve.budget_steps,
    )


def causal_mean(values: Float[np.ndarray, " t"], window: int) -> Float[np.ndarray, " t"]:
    """Mean of the last ``window`` values up to each one; of fewer where the series starts."""
    if window < 1:
        raise InputError(f"smoothing must be at least 1 reading, got {window}")
    if window == 1:
        return values
    return np.array(
        [values[max(0, k + 1 - window) : k + 1].mean() for k in range(len(values))]
    )
