"""Time to threshold on curves whose answer is known."""

import numpy as np
import pytest

from ttp_jax.thresholds import causal_mean, time_to_threshold
from ttp_jax.types import Curve, InputError


def curve(loss, every=2):
    loss = np.asarray(loss, dtype=float)
    steps = np.arange(len(loss)) * every
    return Curve(steps=steps, loss=loss, accuracy=np.zeros(len(loss)), seconds=steps * 0.5)


FALLING = curve([2.0, 1.0, 0.5, 0.25, 0.2])


@pytest.mark.parametrize(
    ("rule", "epsilon", "steps"),
    [
        ("loss", 2.0, 0),
        ("loss", 0.5, 4),
        ("loss", 0.49, 6),
        ("fraction_of_initial", 0.5, 2),
        ("fraction_of_initial", 0.1, 8),
        ("within_of_final", 0.4, 2),  # |1.0 - 0.2| <= 0.4 * 2.0
        ("within_of_final", 0.03, 6),
    ],
)
def test_first_step_that_was_read(rule, epsilon, steps):
    found = time_to_threshold(FALLING, epsilon, rule)
    assert (found.steps, found.seconds) == (steps, steps * 0.5)
    assert not found.censored
    assert found.budget_steps == 8


@pytest.mark.parametrize(
    ("losses", "rule", "epsilon"),
    [
        ([2.0, 1.0, 0.5], "loss", 0.4),
        ([2.0, 1.0, 0.5], "fraction_of_initial", 0.2),
        ([2.0, 1.0, 0.5], "within_of_final", 0.1),  # only the end itself
        ([2.0, 3.0, np.nan], "within_of_final", 0.4),
        ([2.0, np.inf, np.nan], "loss", 1.0),
    ],
)
def test_never_reached_is_censored_with_the_budget(losses, rule, epsilon):
    found = time_to_threshold(curve(losses), epsilon, rule)
    assert found.censored
    assert found.steps is None
    assert found.seconds is None
    assert found.budget_steps == 4


def test_smoothing_is_causal():
    np.testing.assert_allclose(
        causal_mean(np.array([4.0, 2.0, 0.0, 2.0]), 3), [4, 3, 2, 4 / 3]
    )
    spike = curve([2.0, 0.1, 2.0, 2.0, 0.1, 0.1])
    assert time_to_threshold(spike, 0.2, "loss").steps == 2
    assert time_to_threshold(spike, 0.2, "loss", smoothing=2).steps == 10


@pytest.mark.parametrize(
    ("epsilon", "rule", "smoothing"),
    [
        (0.0, "loss", 1),
        (-1.0, "loss", 1),
        (1.0, "fraction_of_initial", 1),
        (np.nan, "within_of_final", 1),
        (np.inf, "loss", 1),
        (0.1, "loss", 0),
    ],
)
def test_refuses(epsilon, rule, smoothing):
    with pytest.raises(InputError):
        time_to_threshold(FALLING, epsilon, rule, smoothing=smoothing)
