"""When layers freeze, at which rates, what that costs, and what it leaves out of reach."""

import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax.accelerators.freezeout import (
    FreezeOut,
    autofreeze,
    floor,
    freezing_steps,
    frozen_at,
    share_of_cost,
    stages_of,
)


def test_times_of_the_paper():
    """Section 3: t_0 = 0.8, cubed, freezes the first layer at 0.512."""
    times = FreezeOut(0.8, "cubic").times(5)
    np.testing.assert_allclose(times, np.array([0.8, 0.85, 0.9, 0.95, 1.0]) ** 3)
    assert times[0] == pytest.approx(0.512)
    np.testing.assert_allclose(FreezeOut(0.5, "linear").times(3), [0.5, 0.75, 1.0])
    np.testing.assert_allclose(FreezeOut(0.5, "squared").times(2), [0.25, 1.0])
    np.testing.assert_array_equal(FreezeOut(0.5).times(1), [1.0])
    np.testing.assert_array_equal(FreezeOut(1.0).times(4), np.ones(4))


@pytest.mark.parametrize("how", ["linear", "squared", "cubic"])
@pytest.mark.parametrize("scaled", [False, True])
def test_rates_are_the_cosines_of_the_paper(how, scaled):
    freeze, steps, alpha = FreezeOut(0.5, how, scaled), 1000, 0.1
    times, rates = freeze.times(4), freeze.rates(alpha, steps, 4)
    assert rates.shape == (steps, 4)
    for i, t in enumerate(times):
        peak = alpha / t if scaled else alpha
        for k in (0, 17, 60, 124, 126, 400, 999):
            expected = 0.5 * peak * (1 + np.cos(np.pi * k / (t * steps)))
            assert rates[k, i] == pytest.approx(expected if k < t * steps else 0.0)
        end = freezing_steps(times, steps)[i]
        assert (rates[end:, i] == 0).all()
        assert (rates[:end, i] > 0).all()
        # The area under the rates, to the half step of a sum that starts at zero.
        area = peak * t * steps / 2
        assert rates[:, i].sum() == pytest.approx(area + peak / 2, abs=0.3 * peak)
    assert frozen_at(rates)[-1] == 3


def test_a_step_that_should_be_whole_is():
    assert freezing_steps(np.array([0.8**3, 0.9**3]), 1000).tolist() == [512, 729]


def test_stages():
    rates = FreezeOut(0.5, "linear").rates(1.0, 8, 3)
    assert stages_of(rates) == [(0, 0), (4, 1), (6, 2)]
    assert stages_of(FreezeOut(1.0).rates(1.0, 8, 3)) == [(0, 0)]
    # A group that rests and goes on is not frozen, one behind a group that learns neither.
    resting = np.array([[1, 1], [0, 1], [1, 1], [0, 0]], float)
    assert frozen_at(resting).tolist() == [0, 0, 0, 1]
    assert frozen_at(np.array([[1, 1, 1], [1, 0, 1]], float)).tolist() == [0, 0]


def test_cost_of_layers():
    forward = np.array([1.0, 2.0, 3.0])
    assert share_of_cost(forward, np.ones(3)) == 1
    # 1 (1 + .5) + 2 (1 + .75 + .5) + 3 (1 + 1 + .75) over 3 * 6 - 1
    times = np.array([0.5, 0.75, 1.0])
    assert share_of_cost(forward, times) == pytest.approx(14.25 / 17)
    # 1 (1) + 2 (1.5 + .5) + 3 (2 + .75)
    assert share_of_cost(forward, times, cached=True) == pytest.approx(13.25 / 17)


def test_the_floor_is_what_least_squares_leaves():
    rng = np.random.default_rng(0)
    J = rng.normal(size=(12, 5))
    r = rng.normal(size=(6, 2))
    left = r.reshape(-1) - J @ np.linalg.lstsq(J, r.reshape(-1))[0]
    assert floor(J @ J.T, r) == pytest.approx(left @ left / 12, rel=1e-10)
    full = rng.normal(size=(12, 40))
    assert floor(full @ full.T, r) == pytest.approx(0, abs=1e-12)


def test_autofreeze():
    """Changes .5, .1, .4, .2: half of them are at least .3, of which the first is group 0."""
    before = np.array([1.0, 1.0, 1.0, 1.0])
    assert autofreeze(before[None], 0) == 0
    assert autofreeze(np.stack([before, [0.5, 0.9, 0.6, 1.2]]), 0) == 0
    # Changes .1, .2, .4, .5.
    assert autofreeze(np.stack([before, [0.9, 0.8, 0.6, 0.5]]), 0) == 2
    # Of those active alone: .4 and .5, median .45.
    assert autofreeze(np.stack([before, [9.0, 9.0, 0.6, 0.5]]), 2) == 3
    assert autofreeze(np.stack([before, [9.0, 9.0, 0.6, 0.5]]), 3) == 3


@pytest.mark.parametrize("t0", [0.0, -0.1, 1.5, float("nan")])
def test_refuses_times(t0):
    with pytest.raises(ttp.InputError, match=r"t0 must lie in \(0, 1\]"):
        FreezeOut(t0)


def test_refuses_the_rest():
    with pytest.raises(ttp.InputError, match="learning rate must be positive, got 0"):
        FreezeOut(0.5).rates(0.0, 10, 2)
    with pytest.raises(ttp.InputError, match="groups must be at least 1, got 0"):
        FreezeOut(0.5).times(0)
