"""Rank correlations, regret and intervals with known answers."""

import numpy as np
import pytest
import scipy.stats

from ttp_jax import ranking
from ttp_jax.types import InputError

RISING = np.arange(6.0)


def test_the_better_ones_are_small_and_the_unknown_last():
    values = np.array([3.0, np.nan, 1.0, np.inf, -np.inf])
    assert ranking.ascending(values, False).tolist() == [3, np.inf, 1, np.inf, np.inf]
    assert ranking.ascending(values, True).tolist() == [-3, np.inf, -1, np.inf, np.inf]
    assert ranking.ascending(values[:1], None).tolist() == [3]
    assert ranking.places(np.array([0.5, np.inf, 0.1, np.inf])).tolist() == [2, 3.5, 1, 3.5]


@pytest.mark.parametrize("of", [ranking.spearman, ranking.kendall])
def test_correlations(of):
    assert of(RISING, RISING**3) == pytest.approx(1)
    assert of(RISING, -RISING) == pytest.approx(-1)
    assert np.isnan(of(RISING, np.zeros(6)))
    assert np.isnan(of(RISING[:1], RISING[:1]))
    # two that diverged are one place, and last
    diverged = np.array([0, 1, 2, 3, np.inf, np.inf])
    assert of(diverged, diverged) == pytest.approx(1)


def test_correlations_by_hand():
    """Places 1, 2, 3, 4 against 2, 1, 4, 3: of six pairs two are in the other order."""
    a, b = np.array([1.0, 2, 3, 4]), np.array([20.0, 10, 40, 30])
    assert ranking.kendall(a, b) == pytest.approx((4 - 2) / 6)
    assert ranking.spearman(a, b) == pytest.approx(1 - 6 * 4 / (4 * 15))
    # a tie on one side: five pairs untied there, of which all agree
    tied = np.array([1.0, 1, 3, 4])
    assert ranking.kendall(a, tied) == pytest.approx(5 / np.sqrt(6 * 5))


def test_correlations_as_scipy_has_them():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 30)).astype(float)
    assert ranking.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0])
    assert ranking.kendall(a, b) == pytest.approx(scipy.stats.kendalltau(a, b)[0])


def test_what_the_first_choice_costs():
    outcome = np.array([0.3, 0.1, 0.2, np.inf])
    assert ranking.regret(outcome, outcome) == 0
    assert ranking.beaten_by(outcome, outcome) == 0
    first = np.array([0.0, 1, 2, 3])
    assert ranking.regret(first, outcome) == pytest.approx(0.2)
    assert ranking.beaten_by(first, outcome) == pytest.approx(2 / 3)
    # one that diverged counts as the worst of the others; by rank it is the last
    assert ranking.regret(-first, outcome) == pytest.approx(0.2)
    assert ranking.beaten_by(-first, outcome) == 1
    # equal ones are drawn from
    equal = np.zeros(4)
    assert ranking.regret(equal, outcome) == pytest.approx((0.2 + 0 + 0.1 + 0.2) / 4)
    assert ranking.beaten_by(equal, np.arange(4.0)) == pytest.approx(0.5)
    assert np.isnan(ranking.regret(first, np.full(4, np.inf)))
    assert np.isnan(ranking.beaten_by(first[:1], outcome[:1]))


def test_intervals():
    """Of an average of many, which the bootstrap must give, and of what hangs on nothing."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    y = 0.8 * x + 0.6 * rng.normal(size=200)
    found = ranking.bootstrap("spearman", x, y)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y)[0])
    assert found.low < found.value < found.high
    # Fieller's standard error of Fisher's z of a rank correlation
    half = 1.96 * 1.03 / np.sqrt(197) * (1 - found.value**2)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.35)
    sure = ranking.bootstrap("beaten_by", x, x)
    assert (sure.value, sure.low, sure.high) == (0, 0, 0)
    none = ranking.bootstrap("kendall", x, np.zeros(200), times=5)
    assert np.isnan([none.value, none.low, none.high]).all()
    again = ranking.bootstrap("spearman", x, y)
    assert again == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"times": 0}, "1 resample"),
    ],
)
def test_what_cannot_be_resampled(options, said):
    arguments = {"measure": "kendall", "ranking": RISING, "outcome": RISING, **options}
    with pytest.raises(InputError, match=said):
        ranking.bootstrap(**arguments)
    with pytest.raises(InputError, match="at least 2 candidates"):
        ranking.bootstrap("regret", RISING[:1], RISING[:1])
