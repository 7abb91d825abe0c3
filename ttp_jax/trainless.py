"""Search without training: from what is known of a candidate to how its run will end.

A ridge regression fitted on runs that were really trained ranks candidates that were not: the
"train-less" search that Zhao et al. propose (DOI 10.1109/IPDPSW55747.2022.00123; of the paper
only the idea is taken). What it reads are numbers of the architecture and of the predicted
curve, none of which takes a training step.

All numbers, features and outcomes alike, are replaced by their places within a task
(candidates of one data set and seed), scaled to ``[-1/2, 1/2]``: losses of different data sets
have no common unit, and predictions that diverge have no size.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ttp_jax.types import InputError

FEWEST = 3
"""Logged runs below which nothing is fitted."""
PENALTIES = tuple(float(v) for v in np.logspace(-2, 3, 11))
"""Of the ridge; the one with the least leave-one-out error is taken."""


@dataclass(frozen=True)
class Run:
    """A candidate as the regression sees it."""

    task: str
    """Data set and seed: places are taken within it."""
    family: str
    """Of the architecture; left out as a whole in :func:`leave_one_family_out`."""
    features: Mapping[str, float]
    """By name; what is not finite counts as larger than anything."""
    outcome: float | None = None
    """Smaller is better; what is not finite is worst. ``None`` where it was not trained."""


def rank(
    logged: Sequence[Run], asked: Sequence[Run], features: Sequence[str]
) -> Float[np.ndarray, " k"]:
    """Where the asked ones would end, fitted on the logged ones.

    ``min_b sum_i (o_i - b_0 - b^T z_i)^2 + a |b|^2`` over the logged runs with ``z`` the
    places of the features and ``o`` that of the outcome among the logged runs of its task;
    ``a`` by leave-one-out error (scikit-learn's ``RidgeCV``).

    Args:
        logged: With outcomes.
        asked: Outcomes are not looked at. Their features have their places among all
            candidates of their task, the logged ones of it included.
        features: Names to use; one that a run has not counts as not finite.

    Returns:
        Predicted places; smaller is better, only their order has a meaning.

    Raises:
        InputError: Fewer than :data:`FEWEST` logged runs, one without an outcome, or no
            feature.
    """
    from sklearn.linear_model import RidgeCV

    if len(logged) < FEWEST or not features:
        raise InputError(
            f"a regression on logged runs needs {FEWEST} of them and a feature, got "
            f"{len(logged)} and {len(features)}"
        )
    if any(run.outcome is None for run in logged):
        raise InputError("a logged run must have an outcome, got one that was not trained")
    everything = [*logged, *asked]
    values = np.array(
        [[run.features.get(name, np.inf) for name in features] for run in everything], float
    )
    tasks = [run.task for run in everything]
    z = np.stack([_within(tasks, column) for column in values.T], axis=1)
    outcomes = np.array([run.outcome for run in logged], float)
    o = _within(tasks[: len(logged)], outcomes)
    return RidgeCV(alphas=PENALTIES).fit(z[: len(logged)], o).predict(z[len(logged) :])


def leave_one_family_out(
    runs: Sequence[Run], features: Sequence[str]
) -> Float[np.ndarray, " k"]:
    """Each family ranked by what was fitted on the others alone.

    Args:
        runs: All with outcomes.
        features: Names to use.

    Returns:
        Predicted places of all runs, smaller is better. Those of different families come
        from different fits.

    Raises:
        InputError: Fewer than two families, or too few runs of the others.
    """
    families = sorted({run.family for run in runs})
    if len(families) < 2:
        raise InputError(
            f"leaving a family out needs at least 2 families, got {len(families)}"
        )
    found = np.full(len(runs), np.nan)
    for family in families:
        out = [k for k, run in enumerate(runs) if run.family == family]
        rest = [run for run in runs if run.family != family]
        found[out] = rank(rest, [runs[k] for k in out], features)
    return found


def _within(tasks: Sequence[str], values: Float[np.ndarray, " k"]):
    """Places within each task, from -1/2 to 1/2; equal ones share the mean of theirs."""
    from scipy.stats import rankdata

    values = np.where(np.isfinite(values), values, np.inf)
    found = np.zeros(len(values))
    order = sorted(range(len(tasks)), key=lambda k: tasks[k])
    for _, group in itertools.groupby(order, key=lambda k: tasks[k]):
        rows = list(group)
        found[rows] = (rankdata(values[rows]) - 0.5) / len(rows) - 0.5
    return found
