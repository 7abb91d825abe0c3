import dataclasses

import numpy as np
import pytest

from tests import linear
from tests.early_curves import curve
from ttp_jax.early_curves.elasticity import (
    ElasticityRule,
    elasticity,
    marginal_gain,
    stopping_step,
)
from ttp_jax.early_curves.fits import LAWS, fit
from ttp_jax.early_curves.prefix import prefix
from ttp_jax.finetune import finetune
from ttp_jax.optimizers import SGD
from ttp_jax.prediction import predict
from ttp_jax.types import InputError

K = np.arange(200)
RATE = 0.05
EXPONENTIAL = curve(3 * np.exp(-RATE * K))
"""``E(k) = -RATE k``: elastic from step 20 on."""


@pytest.mark.parametrize("window", [2, 3, 7])
@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.5])
def test_of_a_power_law_it_is_the_exponent(window, exponent):
    steps = np.array([0, 1, 2, 5, 6, 40, 41, 300, 1000])
    loss = np.append(9.0, 4 * steps[1:] ** -exponent)
    found = elasticity(curve(loss, steps), window=window)
    np.testing.assert_allclose(found[window:], -exponent, rtol=1e-10)
    # Neither step 0, which has no logarithm, nor what is before the curve.
    assert np.isnan(found[:window]).all()


def test_of_an_exponential_within_the_discretisation():
    """A secant is right in the middle of its ends, here to ``E/24 k^2`` of them."""
    found = elasticity(EXPONENTIAL)
    middle = K - 0.5
    error = np.abs(found[2:] / (-RATE * middle[2:]) - 1)
    assert (error <= 1 / (11 * middle[2:] ** 2)).all()


def test_of_the_error():
    wrong = 0.5 * (1.0 + K) ** -0.7
    both = curve(np.ones(len(K)), K + 1, accuracy=1 - wrong)
    found = elasticity(both, quantity="error")
    np.testing.assert_allclose(found[1:], -0.7, rtol=1e-8)  # 1 - accuracy has lost digits
    np.testing.assert_allclose(elasticity(both)[1:], 0, atol=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_of_a_fit_it_is_analytic(law):
    loss = 0.3 + 2 * law.phi(K, 0, 0.05)
    found = fit(curve(loss), law).elasticity(K[50:] - 0.5)
    np.testing.assert_allclose(elasticity(curve(loss))[50:], found, rtol=1e-3)


def test_what_has_no_logarithm_is_not_known():
    found = elasticity(curve([4.0, 3.0, 2.0, np.nan, 1.0, 0.5, 0.0, np.inf, 1.0]))
    assert np.isfinite(found).nonzero()[0].tolist() == [2, 5]
    assert np.isnan(elasticity(curve([1.0, 0.5]), window=3)).all()
    rising = elasticity(curve(1 + K / 10))
    assert (rising[2:] > 0).all()


def test_gain_of_a_second():
    line = curve(5 - 0.02 * K, step_s=0.25)
    np.testing.assert_allclose(marginal_gain(line, window=4)[3:], 0.02 / 0.25)
    assert (marginal_gain(curve(1 + K / 10))[1:] < 0).all()
    at_once = dataclasses.replace(line, seconds=np.zeros(len(K)))
    assert np.isnan(marginal_gain(at_once)).all()
    diverged = marginal_gain(curve([4.0, 3.0, 2.0, np.inf, np.nan]))
    np.testing.assert_allclose(diverged, [np.nan, 10, 10, np.nan, np.nan])


def test_gain_of_a_kilojoule():
    line = curve(5 - 0.02 * K, step_s=0.25)
    # 0.08 a second at 400 J a second
    np.testing.assert_allclose(marginal_gain(line, window=4, watts=400)[3:], 0.08 / 0.4)
    for watts in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="watts must be a positive number"):
            marginal_gain(line, watts=watts)


def plateau(scale=2.0, floor=0.1):
    """Elastic in the middle: small steps at first, nothing left at the end."""
    return curve(floor + scale * np.exp(-RATE * K))


@pytest.mark.parametrize("window", [2, 5])
@pytest.mark.parametrize("patience", [1, 4])
def test_it_stops_where_the_elasticity_falls_below(window, patience):
    found = elasticity(plateau(), window=window)
    top = np.nanargmin(found)
    below = K[top:][-found[top:] < 0.6][0]
    rule = ElasticityRule(level=0.6, window=window, patience=patience)
    assert stopping_step(plateau(), rule) == below + patience - 1


def test_it_looks_at_nothing_later():
    rng = np.random.default_rng(0)
    noisy = curve(plateau().loss * np.exp(0.02 * rng.normal(size=len(K))))
    rule = ElasticityRule(level=0.6)
    stop = stopping_step(noisy, rule)
    assert stop is not None
    asked = [rule(prefix(noisy, int(step))) for step in K]
    assert asked.index(True) == stop


@pytest.mark.parametrize(
    ("loss", "options", "step"),
    [
        (3 * np.exp(-RATE * K), {}, None),  # elastic to the end
        (np.ones(200), {}, None),  # never was
        (1 + K / 10, {}, None),
        (np.ones(200), {"after_steps": 50}, 50),
        (1 + K / 10, {"after_steps": 50, "patience": 3}, 52),
        (4 * (1.0 + K) ** -0.5, {}, None),
        (4 * (1.0 + K) ** -0.5, {"after_steps": 10}, 10),
        ([2.0, 1.0, 0.0, 0.0], {}, 2),  # nothing left
        ([2.0, 1.0, np.nan, np.nan], {}, None),
        ([2.0, 1.0], {"after_steps": 0}, None),  # too few to tell
    ],
)
def test_when_there_is_nothing_to_stop(loss, options, step):
    assert stopping_step(curve(loss), ElasticityRule(level=1.0, **options)) == step


@pytest.mark.parametrize("name", ["level", "window", "patience"])
def test_refuses(name):
    bad = {"level": -1.0, "window": 1, "patience": 0}[name]
    with pytest.raises(InputError, match=f"{name} must be"):
        ElasticityRule(**{"level": 1.0, name: bad})
    for function in (elasticity, marginal_gain):
        with pytest.raises(InputError, match="window"):
            function(EXPONENTIAL, window=1)


SGD_HERE = SGD(learning_rate=0.3, momentum=0.5, batch_size=4)
RULE = ElasticityRule(level=0.8, window=3)


def test_a_real_run_stops_where_its_full_curve_says():
    task = linear.task("mse", labels=False)
    common = {"steps": 120, "seed": 1, "every": 4}
    full = finetune(task, SGD_HERE, **common)
    stopped = finetune(task, SGD_HERE, **common, stop=RULE)
    step = stopping_step(full, RULE)
    assert 0 < step < 120
    assert stopped.budget_steps == step
    np.testing.assert_array_equal(stopped.loss, full.loss[: len(stopped.loss)])
    np.testing.assert_array_equal(stopped.accuracy, full.accuracy[: len(stopped.loss)])
    assert len(stopped.seconds) == len(stopped.steps) == len(stopped.loss)
    assert (stopped.planned_steps, stopped.saved_steps) == (120, 120 - step)
    assert stopped.flops == pytest.approx(full.flops * step / 120)
    assert (full.planned_steps, full.saved_steps) == (None, 0)
    # On a model that is linear the prediction stops there too, before anything is trained.
    predicted = predict(task, SGD_HERE, **common)
    assert stopping_step(predicted, RULE) == step


def test_a_rule_that_never_holds_changes_nothing():
    task = linear.task("mse", labels=False)
    asked = []

    def never(curve):
        asked.append(curve.budget_steps)
        return False

    whole = finetune(task, SGD_HERE, steps=10, every=4, stop=never)
    assert asked == [0, 4, 8]  # at the end there is nothing left to save
    assert whole.steps.tolist() == [0, 4, 8, 10]
    assert whole.saved_steps == 0
    at_once = finetune(task, SGD_HERE, steps=10, every=4, stop=lambda curve: True)
    assert at_once.steps.tolist() == [0]
    assert at_once.saved_steps == 10
    assert at_once.flops == 0
