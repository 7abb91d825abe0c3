"""Real steps before the linearisation: those of optax, and nothing lost at the seam."""

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent

STEPS = 30


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("nesterov", "weight_decay", "toward"),
    [(False, 0.0, "zero"), (True, 0.03, "zero"), (False, 0.03, "initial")],
)
def test_a_linear_model_does_not_see_the_seam(loss, nesterov, weight_decay, toward):
    """Momentum, decay, schedule and stream go on: the curve is that of the whole run."""
    task = linear.task(loss)
    rates = np.linspace(0.1, 0.01, STEPS)
    sgd = ttp.SGD(rates, 0.9, nesterov, weight_decay, 5, "shuffle", toward)
    measured = ttp.finetune(task, sgd, steps=STEPS, seed=2, every=4)
    found = ttp.predict(task, sgd, steps=STEPS, seed=2, every=4, calibrate_steps=7, paths=3)
    np.testing.assert_array_equal(found.steps, measured.steps)
    np.testing.assert_allclose(found.loss, measured.loss, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.accuracy, measured.accuracy, atol=1e-12)
    assert found.trust.gap < 1e-8
    assert all(len(v) == len(found.steps) for v in found.loss_quantiles.values())
    assert found.timings["calibrate_s"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_bent_model_is_predicted_better_from_later_on():
    task = bent()
    sgd = ttp.SGD(0.3, 0.5, batch_size=5)
    measured = ttp.finetune(task, sgd, steps=STEPS)
    errors = [
        np.abs(ttp.predict(task, sgd, steps=STEPS, calibrate_steps=k).loss - measured.loss)
        for k in (0, 10)
    ]
    np.testing.assert_allclose(errors[1][:11], 0, atol=1e-10)
    assert errors[1][-1] < 0.5 * errors[0][-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrate_steps": 5}, "calibrate_steps must lie in 0..4"),
        ({"calibrate_steps": -1}, "calibrate_steps must lie in 0..4"),
        ({"calibrate_steps": 2, "solver": "ode"}, "needs solver 'simulate'"),
        ({"paths": -1}, "paths must not be negative"),
        ({"paths": 3, "solver": "ode"}, "bands .paths. need solver"),
        ({"noise": "diagonal"}, "noise 'diagonal' is for solvers"),
    ],
)
def test_refuses(options, message):
    task = linear.task("mse")
    with pytest.raises(ttp.InputError, match=message):
        ttp.predict(task, ttp.SGD(0.1, batch_size=4), steps=5, **options)
