"""Cyclic learning rates, against formulas written out step by step."""

import math

import numpy as np
import optax
import pytest

from ttp_jax import schedules
from ttp_jax.types import InputError


@pytest.mark.parametrize(
    ("steps", "cycles", "ends"),
    [
        (40, 4, [10, 20, 30, 40]),
        (41, 4, [11, 22, 33, 41]),
        (43, 4, [11, 22, 33, 43]),
        (10, 1, [10]),
        (6, 6, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_cosine_cycles_are_the_papers_formula(steps, cycles, ends):
    rates = schedules.cyclic_cosine(0.2, steps, cycles)
    length = math.ceil(steps / cycles)
    for t in range(1, steps + 1):
        formula = 0.2 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1)
        assert rates[t - 1] == pytest.approx(formula, rel=1e-14)
    np.testing.assert_array_equal(schedules.cycle_ends(steps, cycles), ends)
    # The first step of a cycle is at the peak, the one before it at the lowest rate.
    for end in ends[:-1]:
        assert rates[end] == 0.2
        assert rates[end - 1] == rates[:end].min()


def test_cosine_cycles_are_those_of_optax():
    cycle = {
        "init_value": 0.3, "peak_value": 0.3, "decay_steps": 8, "warmup_steps": 0,
        "end_value": 0.0,
    }  # fmt: skip
    theirs = optax.sgdr_schedule([cycle] * 3)
    np.testing.assert_allclose(
        schedules.cyclic_cosine(0.3, 24, 3), [theirs(k) for k in range(24)], atol=1e-7
    )


def test_one_cycle_moves_half_as_far_as_a_constant_rate():
    for cycles in (1, 2, 4):
        total = schedules.cyclic_cosine(0.1, 400, cycles).sum()
        assert total == pytest.approx(0.1 * (400 + cycles) / 2)


@pytest.mark.parametrize(
    ("alpha0", "steps", "cycles", "says"),
    [
        (0.1, 10, 11, "cycles must lie in 1..10 (the number of steps), got 11"),
        (0.1, 10, 0, "cycles must lie in 1..10"),
        (0.1, 9, 6, "take 5 cycles"),
        (0.0, 10, 2, "must be positive, got 0.0"),
        (-1.0, 10, 2, "must be positive"),
        (np.nan, 10, 2, "must be positive"),
    ],
)
def test_cycles_that_cannot_be(alpha0, steps, cycles, says):
    with pytest.raises(InputError) as refused:
        schedules.cyclic_cosine(alpha0, steps, cycles)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_triangles_are_the_papers_formula():
    high, low, period = 0.05, 0.0005, 6
    rates = schedules.triangular(high, low, 20, period)
    for t in range(1, 21):
        share = ((t - 1) % period + 1) / period
        if share <= 0.5:
            formula = (1 - 2 * share) * high + 2 * share * low
        else:
            formula = (2 - 2 * share) * low + (2 * share - 1) * high
        assert rates[t - 1] == pytest.approx(formula, rel=1e-12)
    assert rates[2] == rates[8] == low
    assert rates[5] == high


@pytest.mark.parametrize(
    ("high", "low", "period"), [(0.1, 0.2, 4), (0.1, 0.0, 4), (0.1, 0.01, 3), (0.1, 0.1, 0)]
)
def test_triangles_that_cannot_be(high, low, period):
    with pytest.raises(InputError):
        schedules.triangular(high, low, 20, period)
