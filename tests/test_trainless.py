"""The regression on logged runs, where the answer is known."""

import numpy as np
import pytest

from ttp_jax import ranking, trainless
from ttp_jax.trainless import Run
from ttp_jax.types import InputError

FEATURES = ("known", "noise")


def runs(families="abcd", tasks=("x", "y"), each=6, seed=0):
    """Outcomes that are a rising function of one feature, in a unit of each task's own."""
    rng = np.random.default_rng(seed)
    found = []
    for scale, task in enumerate(tasks):
        for family in families:
            for _ in range(each):
                known = float(rng.normal())
                features = {"known": known, "noise": float(rng.normal())}
                outcome = 10.0**scale * np.exp(known)
                found.append(Run(task, family, features, outcome))
    return found


def outcomes(of):
    return np.array([run.outcome for run in of])


def test_it_finds_the_feature_that_tells():
    logged, asked = runs(), runs(families="z", tasks=("new",), seed=1)
    found = trainless.rank(logged, asked, FEATURES)
    assert ranking.spearman(found, outcomes(asked)) > 0.9
    # whatever the outcomes of those asked for are
    blind = [Run(r.task, r.family, r.features) for r in asked]
    np.testing.assert_array_equal(trainless.rank(logged, blind, FEATURES), found)
    # nor does it matter in which unit a feature is
    scaled = [
        Run(
            r.task,
            r.family,
            {**r.features, "known": np.exp(r.features["known"])},
            r.outcome,
        )
        for r in logged
    ]
    np.testing.assert_allclose(trainless.rank(scaled, asked, FEATURES), found)


def test_a_family_is_ranked_without_its_own_outcomes():
    whole = runs(tasks=("x",))
    found = trainless.leave_one_family_out(whole, FEATURES)
    assert ranking.spearman(found, outcomes(whole)) > 0.9
    spoilt = [
        Run(r.task, r.family, r.features, -1.0 if r.family == "b" else r.outcome)
        for r in whole
    ]
    of_b = [r.family == "b" for r in whole]
    again = trainless.leave_one_family_out(spoilt, FEATURES)
    np.testing.assert_array_equal(again[of_b], found[of_b])
    assert not np.allclose(again, found)


def test_what_diverged_is_last_and_what_is_missing_counts_as_that():
    logged = [
        Run("x", "a", {"known": v}, o)
        for v, o in [(0.0, 1.0), (1.0, 2.0), (2.0, np.inf), (np.inf, np.nan)]
    ]
    asked = [Run("x", "b", {"known": v}) for v in (0.5, np.nan)] + [Run("x", "b", {})]
    found = trainless.rank(logged, asked, ["known"])
    assert found[0] < found[1] == found[2]


def test_what_cannot_be_fitted():
    with pytest.raises(InputError, match="needs 3 of them and a feature, got 2 and 2"):
        trainless.rank(runs()[:2], runs(), FEATURES)
    with pytest.raises(InputError, match="got 48 and 0"):
        trainless.rank(runs(), runs(), [])
    with pytest.raises(InputError, match="must have an outcome"):
        trainless.rank([Run("x", "a", {}) for _ in range(3)], [], FEATURES)
    with pytest.raises(InputError, match="at least 2 families, got 1"):
        trainless.leave_one_family_out(runs(families="a"), FEATURES)
