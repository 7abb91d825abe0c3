"""Bands around a predicted curve from other predictions of the same task."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttp_jax.dynamics.path import quantiles
from ttp_jax.types import Curve, InputError


def from_curves(curve: Curve, others: Sequence[Curve]) -> Curve:
    """The curve with the quantiles of ``others`` at every step as its bands.

    The held-out curve, where there is one, has those of their held-out curves.

    Where the others differ from it in their random head and their stream of mini-batches, the
    bands say how much of the curve is the luck of both. ``H`` curves resolve levels down to
    about ``1/H``: 95 % needs some forty of them, 70 % some ten.

    Raises:
        InputError: Fewer than two other curves, or ones read at other steps.
    """
    if len(others) < 2:
        raise InputError(f"bands need at least 2 other curves, got {len(others)}")
    for other in others:
        if not np.array_equal(other.steps, curve.steps):
            raise InputError("bands need curves that were read at the same steps")
    held_out = curve.held_out
    if held_out is not None:
        held_out = from_curves(held_out, [o.held_out for o in others if o.held_out])
    return replace(
        curve,
        held_out=held_out,
        loss_quantiles=quantiles(np.stack([other.loss for other in others])),
        accuracy_quantiles=quantiles(np.stack([other.accuracy for other in others])),
    )


def coverage(curve: Curve, runs: Sequence[Curve], level: float, *, skip: int = 0) -> float:
    """Share of the readings of ``runs`` that lie in the loss band of a level.

    Args:
        curve: With bands.
        runs: Real runs, read at the same steps.
        level: 0.7 or 0.95.
        skip: Leave out so many readings at the start, where all curves are one.

    Raises:
        InputError: No bands of that level.
    """
    low, high = ((1 - level) / 2, (1 + level) / 2)
    bands = {round(key, 4): values for key, values in (curve.loss_quantiles or {}).items()}
    if round(low, 4) not in bands or round(high, 4) not in bands:
        raise InputError(f"the curve has no band of level {level}, only {sorted(bands)}")
    losses = np.stack([run.loss for run in runs])[:, skip:]
    inside = (losses >= bands[round(low, 4)][skip:]) & (
        losses <= bands[round(high, 4)][skip:]
    )
    return float(inside.mean())
