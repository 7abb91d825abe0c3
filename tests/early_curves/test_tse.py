import numpy as np
import pytest

from tests.early_curves import curve
from ttp_jax.early_curves.tse import (
    tse,
    tse_e,
    tse_ema_discounted,
    tse_ema_last,
    tse_ema_summed,
)
from ttp_jax.types import InputError

STEPS = curve([9.0, 7.0, 5.0, 3.0, 2.0, 0.0])  # epochs of two steps: 8, 4, 1
ALL = (tse, tse_e, tse_ema_last, tse_ema_summed, tse_ema_discounted)


@pytest.mark.parametrize(
    ("score", "options", "value"),
    [
        (tse, {}, 13),
        (tse_e, {}, 1),
        (tse_e, {"epochs": 2}, 5),
        (tse_e, {"epochs": 3}, 13),
        (tse_ema_last, {"mu": 0.75}, 0.0625 * 8 + 0.1875 * 4 + 0.75),
        (tse_ema_summed, {"mu": 0.75}, 8 + 5 + 2),
        (tse_ema_discounted, {"gamma": 0.5}, 2 + 2 + 1),
    ],
)
def test_by_hand(score, options, value):
    found = score(STEPS, steps_per_epoch=2, **options)
    assert found.value == value
    assert found.larger_is_better is False


def test_the_three_averages_differ_and_say_which():
    found = [score(STEPS, steps_per_epoch=2) for score in ALL]
    assert len({score.name for score in found}) == len({score.value for score in found})
    assert len(found) == 5
    assert found[1].name == "TSE-E (E=1)"
    assert found[2].name == "TSE-EMA, last (mu=0.9)"
    # Each with its own constant: close to the last epoch, and twice to the sum.
    assert found[2].value == pytest.approx(0.01 * 8 + 0.09 * 4 + 0.9)
    assert found[3].value == pytest.approx(8 + 4.04 + 1.0304)
    assert found[4].value == pytest.approx(8 * 0.999**2 + 4 * 0.999 + 1)


@pytest.mark.parametrize("score", ALL)
def test_limits_and_scaling(score):
    value = score(STEPS, steps_per_epoch=2).value
    doubled = curve(2 * STEPS.loss)
    assert score(doubled, steps_per_epoch=2).value == pytest.approx(2 * value)
    constant = score(curve(np.full(8, 3.0)), steps_per_epoch=2).value
    assert constant in (3.0, 12.0) or score is tse_ema_discounted


@pytest.mark.parametrize("score", ALL)
def test_a_run_that_diverged_is_the_worst(score):
    diverged = curve([9.0, 7.0, 5.0, 3.0, np.inf, np.nan])
    assert score(diverged, steps_per_epoch=2).value == np.inf
    # The reading after the last whole epoch is not part of it.
    assert np.isfinite(score(curve([3.0, 2.0, np.nan]), steps_per_epoch=2).value)


@pytest.mark.parametrize(
    ("score", "options"),
    [
        (tse_e, {"epochs": 4}),
        (tse_e, {"epochs": 0}),
        (tse_ema_last, {"mu": 0.0}),
        (tse_ema_summed, {"mu": 1.1}),
        (tse_ema_discounted, {"gamma": np.nan}),
        (tse, {"steps_per_epoch": 0}),
    ],
)
def test_refuses(score, options):
    with pytest.raises(InputError):
        score(STEPS, **{"steps_per_epoch": 2, **options})
