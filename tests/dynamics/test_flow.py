"""The closed form against the recursion that it solves."""

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import spectrum
from ttp_jax.dynamics.flow import flow
from ttp_jax.dynamics.simulate import simulate

STEPS = 60


def problem(**options):
    task = linear.task("mse", **options)
    J, _ = linear.jacobian(task)
    return J @ J.T, np.asarray(task.apply_fn(task.params, task.x)), task.targets


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "rate", [0.2, np.linspace(0.3, 0.0, STEPS)], ids=["constant", "array"]
)
def test_equals_simulate(rate):
    # n = 12 samples of 7 + 1 features: the kernel is singular, part of the residual stays
    theta, f0, targets = problem(labels=False)
    sgd = ttp.SGD(rate)
    closed = flow(spectrum.of_gram(theta), f0, targets, sgd, steps=STEPS, every=7)
    scan = simulate(theta, f0, targets, sgd, loss="mse", steps=STEPS, every=7)
    np.testing.assert_allclose(closed.loss, scan.loss, rtol=1e-10)
    np.testing.assert_allclose(closed.accuracy, scan.accuracy, atol=1e-10)
    np.testing.assert_allclose(closed.outputs, scan.outputs, atol=1e-10)
    np.testing.assert_allclose(theta @ closed.alpha, theta @ scan.alpha, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_constant_rate_is_a_power():
    theta, f0, targets = problem()
    found = flow(spectrum.of_gram(theta), f0, targets, ttp.SGD(0.1), steps=STEPS)
    decay = np.linalg.matrix_power(np.eye(len(theta)) - 0.1 * theta / len(f0), STEPS)
    residual = decay @ (f0 - targets).reshape(-1)
    np.testing.assert_allclose(
        found.loss[-1], residual @ residual / (2 * len(f0)), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("sgd", "loss", "says"),
    [
        (ttp.SGD(0.1), "cross_entropy", "loss='mse'"),
        (ttp.SGD(0.1, momentum=0.9), "mse", "momentum 0"),
        (ttp.SGD(0.1, batch_size=4), "mse", "full batch"),
        (ttp.SGD(0.1, weight_decay=0.1), "mse", "weight decay 0"),
    ],
)
def test_refuses_what_it_does_not_solve(sgd, loss, says):
    theta, f0, targets = problem()
    with pytest.raises(ttp.InputError, match=says):
        flow(spectrum.of_gram(theta), f0, targets, sgd, loss=loss, steps=5)
