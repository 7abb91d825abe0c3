"""Loss-curve gradient approximation: the slope of a hyperbola fitted to the first epochs.

Zhao, Frey, Gadepally, Samsi, "Loss Curve Approximations for Fast Neural Architecture Ranking &
Training Elasticity Estimation" (IPDPS Workshops 2022, DOI 10.1109/IPDPSW55747.2022.00123), from
the equations of the group's green-computing toolbox.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ttp_jax.early_curves.fits import HYPERBOLA, Fit, fit
from ttp_jax.early_curves.prefix import (
    Score,
    epoch_means,
    epoch_of,
    select,
    whole_epochs,
)
from ttp_jax.thresholds import causal_mean
from ttp_jax.types import Curve, InputError


@dataclass(frozen=True)
class LCGA:
    """The fitted hyperbola ``1/(b_1 + b_2 k) + b_3`` and the two scores of its gradients.

    ``fit.crossing(loss)`` is the time to a threshold by inversion.
    """

    fit: Fit
    slope: Score
    """Mean of ``g_1``: the toolbox's ``d1_sum``."""
    slope_over_root_curvature: Score
    """Mean of ``g_1/sqrt(g_2)``: its ``d1/sqrt(d2)_sum``, the one it shows as LCGA."""

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """``(b_1, b_2, b_3)``; the first two infinite where the curve does not fall."""
        first = float(self.fit.readings.steps[0])
        at_zero = self.fit.amplitude * (1 + self.fit.rate * first)
        if at_zero == 0:
            return np.inf, np.inf, self.fit.asymptote
        return 1 / at_zero, self.fit.rate / at_zero, self.fit.asymptote


def lcga(
    curve: Curve,
    *,
    steps_per_epoch: int,
    epochs: int = 10,
    burn_in_epochs: int = 2,
    smoothing: int | Literal["epoch"] = 1,
    normalise: bool = False,
) -> LCGA:
    """Both scores of a run's first epochs.

    ``Lhat(k) = 1/(b_1 + b_2 k) + b_3`` with all ``b >= 0`` by least squares over the readings
    of the first epochs, and over those after the burn-in the means of ``g_1`` and of
    ``g_1/sqrt(g_2)``, where ``g_1 = Lhat'(k) = -b_2/(b_1 + b_2 k)^2`` and ``g_2 = Lhat''(k) =
    2 b_2^2/(b_1 + b_2 k)^3``.

    As ``g_1/sqrt(g_2) = -sqrt((Lhat - b_3)/2)``, the second is minus the mean root of what
    the fitted loss has left to fall: the nearer to zero, the further the run has come, and
    on that side it is taken to be better. The first is the mean slope, to which a slow run and
    one that has already arrived give the same small number; the authors name no better
    side, and neither does it here.

    Args:
        curve: Its first epochs, or all of it: later readings are not used. The paper's is the
            mini-batch loss of every step.
        steps_per_epoch: Updates in an epoch.
        epochs: So many are fitted, or as many as the curve has.
        burn_in_epochs: So many count in the fit and not in the scores.
        smoothing: Mean of so many readings up to each one before the fit, or ``"epoch"``:
            one mean for each whole epoch. The default leaves the readings as they are; the
            interval of a crossing holds only then.
        normalise: Scores of the curve over its largest loss: they are then the same
            whatever the unit of the loss. Otherwise the slope is in losses per step, and
            the other in roots of losses, as in the toolbox.

    Raises:
        InputError: Options out of range, no reading after the burn-in, too few readings for
            the fit, or some that are not finite.

    Breaks when: the burn-in does not cover a rise at the start, or the loss falls
    exponentially, which a hyperbola takes for a lower asymptote.
    """
    if not 0 <= burn_in_epochs < epochs:
        raise InputError(
            f"burn_in_epochs must lie in 0..{epochs - 1} (fewer than the epochs fitted), got "
            f"{burn_in_epochs}"
        )
    seen = select(curve, np.flatnonzero(epoch_of(curve, steps_per_epoch) < epochs))
    if smoothing == "epoch":
        fitted = _by_epoch(seen, steps_per_epoch)
    else:
        fitted = replace(seen, loss=causal_mean(np.asarray(seen.loss), smoothing))
    found = fit(fitted, HYPERBOLA)
    k = fitted.steps[epoch_of(fitted, steps_per_epoch) >= burn_in_epochs]
    if not len(k):
        raise InputError(
            f"the curve must go on after the burn-in of {burn_in_epochs} epochs, got "
            f"{curve.budget_steps} steps of {steps_per_epoch} an epoch; read more of it or "
            "burn in less"
        )
    unit = float(np.max(fitted.loss)) or 1.0
    unit = unit if normalise else 1.0
    excess = found.at(k) - found.asymptote
    return LCGA(
        found,
        Score("LCGA, slope", float(np.mean(found.slope(k))) / unit, None),
        Score(
            "LCGA, slope over root curvature",
            -float(np.mean(np.sqrt(excess / 2 / unit))),
            True,
        ),
    )


def _by_epoch(curve: Curve, steps_per_epoch: int) -> Curve:
    """One reading an epoch: its mean loss, at its middle."""
    means = epoch_means(curve, steps_per_epoch)
    whole = whole_epochs(curve, steps_per_epoch)
    epoch = epoch_of(whole, steps_per_epoch)
    _, rows, counts = np.unique(epoch, return_index=True, return_counts=True)
    middle = np.bincount(epoch, weights=whole.steps) / counts
    return replace(select(whole, rows), steps=middle.round().astype(int), loss=means)
