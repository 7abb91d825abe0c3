"""The schedules of SWA and FGE, and what they keep."""

import numpy as np
import pytest

from ttp_jax.accelerators import averaging
from ttp_jax.accelerators.averaging import fast_geometric, stochastic_weight_averaging
from ttp_jax.types import InputError

PLAIN = np.linspace(0.1, 0.01, 40)


def test_weights_are_averaged_from_the_start_of_the_tail_on():
    plan = stochastic_weight_averaging(PLAIN, start=30, rate=0.05, every=4)
    np.testing.assert_array_equal(plan.learning_rates[:30], PLAIN[:30])
    assert (plan.learning_rates[30:] == 0.05).all()
    np.testing.assert_array_equal(plan.keep, [30, 34, 38])
    assert PLAIN[-1] == 0.01  # the plain run's own rates are left alone


def test_the_mean_of_weights_is_the_running_one():
    rng = np.random.default_rng(0)
    weights = [{"a": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(5)]
    running = weights[0]
    for k, w in enumerate(weights[1:], start=1):
        running = {name: (k * running[name] + w[name]) / (k + 1) for name in w}
    mean = averaging.mean_weights(weights)
    for name in running:
        np.testing.assert_allclose(mean[name], running[name], atol=1e-14)


def test_cycles_are_kept_at_their_lowest_rate():
    plan = fast_geometric(PLAIN, start=30, high=0.05, low=0.001, period=4)
    np.testing.assert_array_equal(plan.learning_rates[:30], PLAIN[:30])
    np.testing.assert_array_equal(plan.keep, [32, 36, 40])
    # the step that leads to a model is the one before it is kept
    for step in plan.keep:
        assert plan.learning_rates[step - 1] == pytest.approx(0.001)
    assert plan.learning_rates[33] == pytest.approx(0.05)


@pytest.mark.parametrize("start", [0, 40, 39, -3])
def test_tails_that_cannot_be(start):
    with pytest.raises(InputError, match="the tail must start"):
        stochastic_weight_averaging(PLAIN, start=start, rate=0.1, every=4)
    with pytest.raises(InputError, match="the tail must start"):
        fast_geometric(PLAIN, start=start, high=0.1, low=0.01, period=8)
    with pytest.raises(InputError, match="must be positive"):
        stochastic_weight_averaging(PLAIN, start=20, rate=0.0, every=4)
