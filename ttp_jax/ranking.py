"""How good a ranking is: rank correlations, what its first choice costs, and their intervals.

A ranking and an outcome are arrays over the same candidates of which the *smaller* is the
better (:func:`ascending` turns what is better when larger). What is not finite is worse than
anything finite: a run that diverged is the worst, not a missing one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from ttp_jax.types import InputError

Measure = Literal["spearman", "kendall", "regret", "beaten_by"]
"""See the functions of these names."""


def ascending(
    values: Float[np.ndarray, " k"], larger_is_better: bool | None
) -> Float[np.ndarray, " k"]:
    """The same order with the better ones small; what is not known to be finite last.

    Args:
        values: Of each candidate.
        larger_is_better: ``None``, of a score whose side is not settled, counts as
            ``False``.
    """
    values = np.asarray(values, float)
    turned = -values if larger_is_better else values
    return np.where(np.isfinite(turned), turned, np.inf)


def places(ranking: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """From 1, the best; equal ones share the mean of theirs."""
    return scipy.stats.rankdata(ranking)


def spearman(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """Pearson correlation of the places (Spearman 1904), in ``[-1, 1]``; ties share theirs.

    NaN where all candidates are equal on a side, or there is one.
    """
    a, b = places(ranking), places(outcome)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else np.nan


def kendall(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """``tau_b``: pairs in the same order less those in the other, over the pairs untied.

    ``(P - Q)/sqrt((P + Q + T)(P + Q + U))`` with ``T`` and ``U`` the pairs tied on one side
    alone (Kendall 1945). NaN where all candidates are equal on a side, or there is one.
    """
    a, b = (scipy.stats.rankdata(v, method="dense") for v in (ranking, outcome))
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return np.nan
    found = scipy.stats.kendalltau(a, b)
    return float(np.asarray(found)[0])


def regret(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """``outcome`` of the first choice less the best there is, in the outcome's unit.

    Where several are first, the mean over them: one is taken at random. A run that diverged
    counts as the worst of those that did not. NaN where all did.
    """
    outcome = np.asarray(outcome, float)
    finite = np.isfinite(outcome)
    if not finite.any():
        return np.nan
    outcome = np.where(finite, outcome, outcome[finite].max())
    return float(outcome[_first(ranking)].mean() - outcome.min())


def beaten_by(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """Share of the other candidates that really are better than the first choice, in [0, 1].

    Top-1 regret without a unit: 0 for the best, 1/2 for a choice at random. Where several
    are first, the mean over them. NaN for a single candidate.
    """
    outcome = np.asarray(outcome, float)
    if len(outcome) < 2:
        return np.nan
    chosen = np.flatnonzero(_first(ranking))
    better = [(outcome < outcome[k]).sum() for k in chosen]
    return float(np.mean(better) / (len(outcome) - 1))


MEASURES: dict[Measure, Callable[..., float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "regret": regret,
    "beaten_by": beaten_by,
}


def _first(ranking: Float[np.ndarray, " k"]):
    ranking = np.asarray(ranking, float)
    return ranking == ranking.min()


@dataclass(frozen=True)
class Interval:
    """A number and where it may lie; NaN where there is none."""

    value: float
    low: float
    high: float


def resamples(k: int, *, times: int = 1000, seed: int = 0) -> Int[np.ndarray, "times k"]:
    """Candidates drawn with replacement (Efron 1979), ``times`` sets of ``k`` indices.

    Raises:
        InputError: Fewer than two candidates, or no resample.
    """
    if k < 2 or times < 1:
        raise InputError(
            f"a bootstrap needs at least 2 candidates and 1 resample, got {k} and {times}"
        )
    return np.random.Generator(np.random.Philox(seed)).integers(0, k, size=(times, k))


def bootstrap(
    measure: Measure,
    ranking: Float[np.ndarray, " k"],
    outcome: Float[np.ndarray, " k"],
    *,
    times: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A measure and its percentile interval over resampled candidates.

    Args:
        measure: A name of :data:`MEASURES`.
        ranking: Smaller is better.
        outcome: Smaller is better.
        times: Resamples; those in which the measure does not exist are left out.
        seed: Of these: the same for two rankings pairs them.
        level: Of the interval.

    Raises:
        InputError: A level out of range, fewer than two candidates.

    Breaks when: candidates are few (with ten the interval is a rough one), or are no sample
    of anything: it then says how much the number hangs on single ones.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    of = MEASURES[measure]
    values = [
        of(ranking[rows], outcome[rows])
        for rows in resamples(len(ranking), times=times, seed=seed)
    ]
    return interval(of(ranking, outcome), np.array(values), level=level)


def interval(
    value: float, resampled: Float[np.ndarray, " times"], *, level: float = 0.95
) -> Interval:
    """Percentiles of a number over resamples, those that are NaN left out."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
