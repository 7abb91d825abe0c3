import numpy as np
import pytest

from tests.early_curves import curve
from ttp_jax.early_curves.fits import EXPONENTIAL, HYPERBOLA, LAWS, POWER_LAW, fit
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import InputError

K = np.arange(200)
KNOWN = {
    HYPERBOLA: (0.3 + 1 / (0.5 + 0.02 * K), (0.3, 2.0, 0.04)),
    POWER_LAW: (0.1 + 2 * (1.0 + K) ** -0.6, (0.1, 2.0, 0.6)),
    EXPONENTIAL: (0.2 + 1.5 * np.exp(-0.02 * K), (0.2, 1.5, 0.02)),
}
of_each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)


@of_each_law
@pytest.mark.parametrize("asymptote", [None, 0.0])
def test_an_exact_curve_is_found_again(law, asymptote):
    loss, (a, c, r) = KNOWN[law]
    if asymptote is not None:
        loss, a = loss - a + asymptote, asymptote
    found = fit(curve(loss[:60]), law)
    np.testing.assert_allclose(
        [found.asymptote, found.amplitude, found.rate], [a, c, r], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(found.at(K), loss, rtol=1e-8)
    later = K[20:]
    np.testing.assert_allclose(
        found.slope(later)[1:-1], np.gradient(found.at(later))[1:-1], rtol=0.01
    )


@of_each_law
def test_three_readings_are_enough_but_exclude_nothing(law):
    loss, _ = KNOWN[law]
    found = fit(curve(loss[[0, 30, 90]], K[[0, 30, 90]]), law)
    np.testing.assert_allclose(found.at(K), loss, rtol=1e-7)
    crossing = found.crossing(loss[150])
    assert crossing.steps == pytest.approx(150, rel=1e-6)
    assert crossing.earliest_steps == 0
    assert crossing.latest_steps is None


@of_each_law
def test_inversion(law):
    loss, (a, c, _) = KNOWN[law]
    found = fit(curve(loss[:80]), law)
    for step in (1, 50, 199):
        crossing = found.crossing(loss[step])
        assert not crossing.never
        assert crossing.steps == pytest.approx(step, rel=1e-7)
        assert crossing.earliest_steps == pytest.approx(step, rel=1e-3)
        assert crossing.latest_steps == pytest.approx(step, rel=1e-3)
    at_once = found.crossing(a + c + 0.1)
    assert at_once.steps == at_once.earliest_steps == at_once.latest_steps == 0
    never = found.crossing(0.9 * a)
    assert never.never
    assert never.steps is never.earliest_steps is never.latest_steps is None


def test_the_hyperbola_by_its_own_formula():
    b1, b2, b3 = 0.5, 0.02, 0.3
    found = fit(curve(1 / (b1 + b2 * K[:50]) + b3), HYPERBOLA)
    assert found.crossing(0.4).steps == pytest.approx((1 / (0.4 - b3) - b1) / b2)


@of_each_law
def test_a_curve_that_starts_late(law):
    """Its law is in the steps themselves, and its amplitude that at its first reading."""
    loss, (a, _, r) = KNOWN[law]
    found = fit(curve(loss[40:90], K[40:90]), law)
    assert found.rate == pytest.approx(r, rel=1e-6)
    assert found.amplitude == pytest.approx(loss[40] - a, rel=1e-6)
    assert found.crossing(loss[150]).steps == pytest.approx(150, rel=1e-6)
    assert found.crossing(loss[10]).steps == 40


@of_each_law
@pytest.mark.parametrize(
    "loss",
    [np.full(40, 1.5), 1.5 + K[:40] / 100, np.zeros(40)],
    ids=["constant", "rising", "zero"],
)
def test_what_does_not_fall_is_never_lower(law, loss):
    found = fit(curve(loss), law)
    assert found.amplitude == pytest.approx(0, abs=1e-12)
    assert found.asymptote == pytest.approx(loss.mean())
    if loss.any():
        assert found.crossing(0.9 * loss[0]).never
    assert found.crossing(1.1 * loss.mean() + 0.1).steps == 0


@of_each_law
def test_a_plateau_is_an_asymptote(law):
    """Of a hyperbola and a power law, whose tails are long, roughly."""
    loss = 0.7 + np.exp(-K / 3)
    found = fit(curve(loss), law)
    assert found.asymptote == pytest.approx(0.7, abs=0.02)
    assert found.crossing(0.6).never


@of_each_law
def test_units_do_not_matter(law):
    rng = np.random.default_rng(0)
    loss = KNOWN[law][0] * np.exp(0.05 * rng.normal(size=len(K)))
    found, scaled = fit(curve(loss), law), fit(curve(1e6 * loss), law)
    assert scaled.rate == pytest.approx(found.rate, rel=1e-6)
    assert scaled.asymptote == pytest.approx(1e6 * found.asymptote, rel=1e-6)
    one, other = found.crossing(0.6), scaled.crossing(0.6e6)
    assert other.steps == pytest.approx(one.steps, rel=1e-5)
    assert other.latest_steps == pytest.approx(one.latest_steps, rel=2e-3)
    if law is not POWER_LAW:  # which counts from the step before the first
        slower = fit(curve(loss, 100 * K), law)
        assert slower.rate == pytest.approx(found.rate / 100, rel=1e-6)


@pytest.mark.parametrize(
    ("law", "ahead"),
    [(HYPERBOLA, 1.5), (POWER_LAW, 4), (EXPONENTIAL, 1.5)],
    ids=lambda value: getattr(value, "name", value),
)
def test_intervals_hold_as_often_as_they_say(law, ahead):
    """100 noisy curves: the share at 90 % has a standard error of 3 points, three allowed."""
    runs, n, level = 100, 60, 0.9
    rng = np.random.default_rng(7)
    _, (a, c, r) = KNOWN[law]
    k = np.arange(n)
    truth = ahead * n
    loss = a + c * law.phi(k, 0, r)
    threshold = float(a + c * law.phi(truth, 0, r))
    hits = nevers = 0
    for _ in range(runs):
        noisy = curve(loss + 0.04 * rng.normal(size=n))
        found = fit(noisy, law).crossing(threshold, level=level)
        nevers += found.never
        earliest, latest = found.earliest_steps, found.latest_steps
        hits += (earliest is not None and earliest <= truth) and (
            latest is None or truth <= latest
        )
    error = np.sqrt(level * (1 - level) / runs)
    assert abs(hits / runs - level) < 3 * error
    assert nevers < runs / 2


def test_a_wider_level_is_a_wider_interval():
    rng = np.random.default_rng(1)
    noisy = curve(KNOWN[HYPERBOLA][0] + 0.02 * rng.normal(size=len(K)))
    found = fit(noisy, HYPERBOLA)
    narrow, wide = (found.crossing(0.45, level=level) for level in (0.5, 0.99))
    assert wide.earliest_steps < narrow.earliest_steps < narrow.steps
    assert narrow.steps < narrow.latest_steps < wide.latest_steps


@of_each_law
def test_a_fitted_curve_is_read_by_the_rules_for_all(law):
    loss, (a, *_) = KNOWN[law]
    found = fit(curve(loss[:50], step_s=0.25), law)
    steps = np.arange(0, 400, 10)
    extended = found.curve(steps)
    np.testing.assert_allclose(extended.seconds, 0.25 * steps)
    read = time_to_threshold(extended, a + 0.3, "loss")
    assert read.steps == 10 * np.ceil(found.crossing(a + 0.3).steps / 10)


@pytest.mark.parametrize("law", LAWS[:1])
def test_refuses(law):
    with pytest.raises(InputError, match="at least 3 readings, got 2"):
        fit(curve([2.0, 1.0]), law)
    with pytest.raises(InputError, match="finite losses, got nan at step 2"):
        fit(curve([2.0, 1.0, np.nan, np.nan]), law)
    found = fit(curve([3.0, 2.0, 1.5, 1.2]), law)
    for loss in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="above 0"):
            found.crossing(loss)
    with pytest.raises(InputError, match="between 0 and 1"):
        found.crossing(1.0, level=95.0)
