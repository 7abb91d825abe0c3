"""Between which steps a real time lies, against the distribution that it is derived from."""

import numpy as np
import pytest
from scipy.stats import logistic

from experiments import trust
from ttp_jax import chances
from ttp_jax.types import InputError


@pytest.mark.parametrize("score", [0.02, 0.5, 0.9, 0.999])
def test_the_score_is_the_chance_of_its_own_error(score):
    found = chances.interval(100, score, level=score)
    assert found == pytest.approx((100 / 1.2, 120.0), rel=1e-10)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_it_is_the_quantiles_of_a_logistic_distribution(level):
    score = 0.8
    # The scale for which log 1.2 is exceeded in absolute value with a chance of 1 - score.
    scale = np.log(1.2) / logistic.ppf((1 + score) / 2)
    wanted = 250 * np.exp(logistic.ppf([(1 - level) / 2, (1 + level) / 2], scale=scale))
    np.testing.assert_allclose(chances.interval(250, score, level), wanted, rtol=1e-10)


def test_less_trust_and_more_certainty_widen_it():
    ends = [
        chances.interval(100, score, level)[1]
        for score, level in ((1.0, 0.95), (0.99, 0.95), (0.9, 0.95), (0.9, 0.99))
    ]
    assert 100 < ends[0] < ends[1] < ends[2] < ends[3]
    assert chances.interval(100, 0.9, 0.0) == pytest.approx((100, 100))
    assert chances.interval(100, 0.0) == (0.0, np.inf)
    assert np.isfinite(chances.interval(100, 1e-12)).all()
    assert chances.interval(0, 0.9) == (0.0, 0.0)
    for level in (1.0, 95.0, -0.1):
        with pytest.raises(
            InputError, match=r"level must be a probability in \[0, 1\), got"
        ):
            chances.interval(100, 0.9, level)


def test_times_that_are_as_wrong_as_their_chance_lie_in_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    count = 4000
    x = rng.normal(size=(count, 1))
    chance = 1 / (1 + np.exp(1.5 - x[:, 0]))
    off = np.abs(rng.logistic(scale=np.log(1.2) / np.log(2 / chance - 1)))
    groups = rng.integers(0, 3, count).astype(str)
    table = trust.Table(
        x=x,
        wrong=off > np.log(1.2),
        clear=np.ones(count, bool),
        network=groups,
        pictures=groups,
        gaps=np.zeros(count),
        off=off,
    )
    rows = [
        line
        for line in trust.held(table, trust.both_left_out(table)).splitlines()
        if "| all |" in line
    ]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[3] == str(count)
        for at, level in ((4, 0.7), (5, 0.95)):
            # In whole per cent; the law is fitted to two thirds of the times.
            error = 4 * np.sqrt(level * (1 - level) / count) + 0.005
            assert float(cells[at].rstrip("%")) / 100 == pytest.approx(level, abs=error)
