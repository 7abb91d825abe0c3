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
    return _once(_spearman, ranking, outcome)


def kendall(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """``tau_b``: pairs in the same order less those in the other, over the pairs untied.

    ``(P - Q)/sqrt((P + Q + T)(P + Q + U))`` with ``T`` and ``U`` the pairs tied on one side
    alone (Kendall 1945). NaN where all candidates are equal on a side, or there is one.
    """
    return _once(_kendall, ranking, outcome)


def regret(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """``outcome`` of the first choice less the best there is, in the outcome's unit.

    Where several are first, the mean over them: one is taken at random. A run that diverged
    counts as the worst of those that did not. NaN where all did.
    """
    return _once(_regret, ranking, outcome)


def beaten_by(ranking: Float[np.ndarray, " k"], outcome: Float[np.ndarray, " k"]) -> float:
    """Share of the other candidates that really are better than the first choice, in [0, 1].

    Top-1 regret without a unit: 0 for the best, 1/2 for a choice at random. Where several
    are first, the mean over them. NaN for a single candidate.
    """
    return _once(_beaten_by, ranking, outcome)


def _once(measure, ranking, outcome) -> float:
    rows = (np.asarray(values, float)[None] for values in (ranking, outcome))
    return float(measure(*rows)[0])


# The same of many sets of candidates at once, ``[times, k]`` to ``[times]``.


def _spearman(ranking, outcome):
    a, b = (scipy.stats.rankdata(v, axis=1) for v in (ranking, outcome))
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    return _over((a * b).sum(axis=1), (a * a).sum(axis=1), (b * b).sum(axis=1))


def _kendall(ranking, outcome):
    # Of places: two that are infinite are tied, and their difference is no number.
    a, b = (scipy.stats.rankdata(v, axis=1) for v in (ranking, outcome))
    a, b = (np.sign(v[:, :, None] - v[:, None, :]).astype(np.int8) for v in (a, b))
    sums = (np.sum(u * v, axis=(1, 2), dtype=float) for u, v in ((a, b), (a, a), (b, b)))
    return _over(*sums)


def _over(product, square_a, square_b):
    size = np.sqrt(square_a * square_b)
    return np.divide(product, size, out=np.full(len(size), np.nan), where=size > 0)


def _regret(ranking, outcome):
    finite = np.isfinite(outcome)
    some = finite.any(axis=1)
    worst = np.max(outcome, axis=1, initial=-np.inf, where=finite)
    counted = np.where(finite, outcome, worst[:, None])
    counted[~some] = 0.0
    found = _mean_of_first(ranking, counted) - counted.min(axis=1)
    return np.where(some, found, np.nan)


def _beaten_by(ranking, outcome):
    k = outcome.shape[1]
    if k < 2:
        return np.full(len(outcome), np.nan)
    better = scipy.stats.rankdata(outcome, method="min", axis=1) - 1
    return _mean_of_first(ranking, better) / (k - 1)


def _mean_of_first(ranking, values):
    first = ranking == ranking.min(axis=1, keepdims=True)
    return (first * values).sum(axis=1) / first.sum(axis=1)


MEASURES: dict[Measure, Callable[..., np.ndarray]] = {
    "spearman": _spearman,
    "kendall": _kendall,
    "regret": _regret,
    "beaten_by": _beaten_by,
}


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


def resampled(
    measure: Measure,
    ranking: Float[np.ndarray, " k"],
    outcome: Float[np.ndarray, " k"],
    *,
    times: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " times"]:
    """A measure of every resample; NaN where it does not exist.

    Args:
        measure: What to measure.
        ranking: Smaller is better.
        outcome: Smaller is better.
        times: Resamples.
        seed: Of these: the same for two rankings of the same candidates pairs them, so that
            the difference of two results has an interval of its own.

    Raises:
        InputError: Fewer than two candidates, or no resample.
    """
    rows = resamples(len(ranking), times=times, seed=seed)
    return MEASURES[measure](np.asarray(ranking)[rows], np.asarray(outcome)[rows])


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

    Arguments and errors as for :func:`resampled` and :func:`interval`.

    Breaks when: candidates are few (with ten the interval is a rough one), or are no sample
    of anything: it then says how much the number hangs on single ones.
    """
    value = _once(MEASURES[measure], ranking, outcome)
    many = resampled(measure, ranking, outcome, times=times, seed=seed)
    return interval(value, many, level=level)


def interval(
    value: float, resampled: Float[np.ndarray, " times"], *, level: float = 0.95
) -> Interval:
    """Percentiles of a number over resamples, those that are NaN left out.

    Raises:
        InputError: A level out of range.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
