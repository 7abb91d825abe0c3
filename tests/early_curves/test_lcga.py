import numpy as np
import pytest

from tests.early_curves import curve
from ttp_jax.early_curves.lcga import lcga
from ttp_jax.types import InputError

K = np.arange(100)
B1, B2, B3 = 0.5, 0.02, 0.3
HYPERBOLA = curve(1 / (B1 + B2 * K) + B3)
TENTHS = {"steps_per_epoch": 10}


def test_scores_are_means_of_the_analytic_gradients_after_the_burn_in():
    found = lcga(HYPERBOLA, **TENTHS, burn_in_epochs=3)
    np.testing.assert_allclose(found.coefficients, (B1, B2, B3), rtol=1e-8)
    k = K[30:]
    g1 = -B2 / (B1 + B2 * k) ** 2
    g2 = 2 * B2**2 / (B1 + B2 * k) ** 3
    assert found.slope.value == pytest.approx(g1.mean(), rel=1e-8)
    ratio = found.slope_over_root_curvature
    assert ratio.value == pytest.approx((g1 / np.sqrt(g2)).mean(), rel=1e-8)
    assert ratio.larger_is_better is True
    assert found.slope.larger_is_better is None
    assert found.fit.crossing(0.35).steps == pytest.approx((1 / 0.05 - B1) / B2)


def test_later_epochs_are_not_looked_at():
    bent = curve(np.append(HYPERBOLA.loss, np.full(50, 9.0)))
    assert lcga(bent, **TENTHS).slope == lcga(HYPERBOLA, **TENTHS).slope
    early = lcga(bent, **TENTHS, epochs=5)
    assert early.slope.value < lcga(bent, **TENTHS).slope.value
    np.testing.assert_allclose(early.coefficients, (B1, B2, B3), rtol=1e-7)


def test_a_normalised_score_has_no_unit():
    scaled = curve(50 * HYPERBOLA.loss)
    one, other = (lcga(c, **TENTHS, normalise=True) for c in (HYPERBOLA, scaled))
    assert other.slope.value == pytest.approx(one.slope.value)
    assert other.slope_over_root_curvature.value == pytest.approx(
        one.slope_over_root_curvature.value
    )
    one, other = (lcga(c, **TENTHS) for c in (HYPERBOLA, scaled))
    assert other.slope.value == pytest.approx(50 * one.slope.value)
    assert other.slope_over_root_curvature.value == pytest.approx(
        np.sqrt(50) * one.slope_over_root_curvature.value
    )


def test_the_run_with_less_left_to_fall_scores_better():
    slow, fast = (curve(1 / (B1 + b2 * K) + B3) for b2 in (0.01, 0.1))
    scores = [lcga(c, **TENTHS).slope_over_root_curvature.value for c in (slow, fast)]
    assert scores[0] < scores[1] < 0


@pytest.mark.parametrize("smoothing", [10, "epoch"])
def test_smoothing_takes_noise_out_and_leaves_the_score(smoothing):
    rng = np.random.default_rng(0)
    noisy = curve(HYPERBOLA.loss + 0.1 * rng.normal(size=len(K)))
    found = lcga(noisy, **TENTHS, smoothing=smoothing)
    exact = lcga(HYPERBOLA, **TENTHS)
    # A causal mean of ten comes half as many steps late: the slope is that of before.
    late = 0.2 if smoothing == 10 else 0.1
    assert found.slope.value == pytest.approx(exact.slope.value, rel=late)
    if smoothing == "epoch":
        assert found.fit.readings.steps.tolist() == [4, 14, 24, 34, 44, 54, 64, 74, 84, 94]


@pytest.mark.parametrize("loss", [np.full(100, 2.0), 1 + K / 50], ids=["flat", "rising"])
def test_what_does_not_fall_scores_zero(loss):
    found = lcga(curve(loss), **TENTHS)
    assert found.slope.value == pytest.approx(0, abs=1e-12)
    assert found.slope_over_root_curvature.value == pytest.approx(0, abs=1e-6)
    assert found.fit.crossing(0.5 * loss[0]).never


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (HYPERBOLA.loss, {"burn_in_epochs": 10}, r"burn_in_epochs must lie in 0\.\.9"),
        (HYPERBOLA.loss, {"burn_in_epochs": -1}, "burn_in_epochs"),
        (HYPERBOLA.loss[:20], {}, "after the burn-in of 2 epochs, got 19 steps"),
        (HYPERBOLA.loss[:2], {"burn_in_epochs": 0}, "at least 3 readings"),
        (
            [3.0, 2.0, np.nan, 1.0],
            {"burn_in_epochs": 0},
            "finite losses, got nan at step 2",
        ),
        (HYPERBOLA.loss, {"steps_per_epoch": 0}, "steps_per_epoch"),
        (HYPERBOLA.loss, {"smoothing": 0}, "smoothing"),
    ],
)
def test_refuses(loss, options, message):
    with pytest.raises(InputError, match=message):
        lcga(curve(loss), **{**TENTHS, **options})
