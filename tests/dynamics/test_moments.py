"""Moments against the Monte Carlo of real SGD in weight space, and an independent solver."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.simulate import simulate

STEPS = 25
B = 4


def problem(c=2):
    task = linear.task("mse", n=10, c=c, d=4, labels=False)
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    return task, J, w0, f0


def weight_space_runs(J, w0, y, sgd, *, runs, seed):
    """Outputs after STEPS of ``runs`` independent runs of mini-batch SGD on weights."""
    rng = np.random.default_rng(seed)
    n, c = y.shape
    per_sample = J.reshape(n, c, -1)
    w = np.tile(w0, (runs, 1))
    v = np.zeros_like(w)
    for eta in sgd.learning_rates(STEPS):
        if sgd.sampling == "with_replacement":
            batch = rng.integers(0, n, size=(runs, B))
        else:
            batch = np.argsort(rng.random((runs, n)), axis=1)[:, :B]
        residual = (w @ J.T).reshape(runs, n, c) - y
        picked = np.take_along_axis(residual, batch[:, :, None], axis=1)
        g = np.einsum("rbc,rbcp->rp", picked, per_sample[batch]) / B + sgd.weight_decay * w
        v = sgd.momentum * v + g
        w = w - eta * (g + sgd.momentum * v if sgd.nesterov else v)
    return w @ J.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay", "rate"),
    [
        (0.0, False, 0.0, 0.4),
        (0.8, False, 0.05, 0.1),
        (0.8, True, 0.05, np.linspace(0.15, 0.02, STEPS)),
    ],
)
def test_against_monte_carlo(sampling, momentum, nesterov, weight_decay, rate):
    task, J, w0, f0 = problem()
    sgd = ttp.SGD(rate, momentum, nesterov, weight_decay, B, sampling)
    path, found = moments(
        J @ J.T, f0, task.targets, sgd, steps=STEPS, q0=(J @ w0).reshape(f0.shape)
    )
    runs = 40_000
    r = weight_space_runs(
        J, w0, task.targets, sgd, runs=runs, seed=5
    ) - task.targets.reshape(-1)
    assert np.abs(r.mean(0) - found.mean).max() > 0  # a sample, not the formula again

    def within_four_standard_errors(samples, expected):
        error = samples.std(0) / np.sqrt(runs)
        np.testing.assert_array_less(np.abs(samples.mean(0) - expected), 4 * error + 1e-14)

    within_four_standard_errors(r, found.mean)
    centred = r - r.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    within_four_standard_errors(products.reshape(runs, -1), found.covariance.reshape(-1))
    within_four_standard_errors((r**2).sum(1) / (2 * len(f0)), path.loss[-1])
    # the noise is not a formality: a tenth of the loss at least
    assert np.trace(found.covariance) > 0.05 * found.mean @ found.mean


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_full_batch_is_simulate(nesterov):
    task, J, w0, f0 = problem()
    sgd = ttp.SGD(0.1, 0.9, nesterov, 0.02)
    q0 = (J @ w0).reshape(f0.shape)
    path, found = moments(J @ J.T, f0, task.targets, sgd, steps=STEPS, q0=q0, every=4)
    one = simulate(J @ J.T, f0, task.targets, sgd, loss="mse", steps=STEPS, q0=q0, every=4)
    np.testing.assert_allclose(path.loss, one.loss, rtol=1e-10)
    np.testing.assert_allclose(path.outputs, one.outputs, atol=1e-10)
    np.testing.assert_allclose(path.alpha, one.alpha, atol=1e-10)
    np.testing.assert_allclose(path.shrink, one.shrink, atol=1e-12)
    np.testing.assert_array_equal(found.covariance, 0)


@pytest.mark.usefixtures("x64")
def test_sde_against_diffrax():
    task, J, _, f0 = problem(c=1)
    rate, n = 0.2, len(f0)
    sgd = ttp.SGD(rate, batch_size=B, sampling="with_replacement")
    theta = J @ J.T
    path, found = moments(theta, f0, task.targets, sgd, steps=STEPS, form="sde")

    def field(t, state, args):
        mean, C = state
        Q = C + jnp.outer(mean, mean)
        noise = theta @ (jnp.diag(jnp.diag(Q)) / n - Q / n**2) @ theta / B
        K = theta / n
        return -rate * K @ mean, -rate * (K @ C + C @ K) + rate**2 * noise

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        STEPS,
        0.1,
        ((f0 - task.targets).reshape(-1), jnp.zeros_like(theta)),
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-14),
    )
    mean, C = solution.ys[0][0], solution.ys[1][0]
    # Runge-Kutta of order 4 with eta lam/n up to 0.5 a step leaves errors of this size.
    np.testing.assert_allclose(found.mean, mean, atol=1e-4)
    np.testing.assert_allclose(found.covariance, C, atol=1e-5)
    assert np.trace(found.covariance) > 1e-3
    expected = (jnp.trace(C) + mean @ mean) / (2 * n)
    np.testing.assert_allclose(path.loss[-1], expected, rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_sde_meets_the_discrete_recursion_at_first_order():
    """Halving the rate and doubling the steps halves the distance of the two forms."""
    task, J, _, f0 = problem()
    theta = J @ J.T
    distance = []
    for halvings in (3, 4, 5):
        steps = 10 * 2**halvings
        sgd = ttp.SGD(2.0 / steps, batch_size=B, sampling="with_replacement")
        ends = [
            moments(theta, f0, task.targets, sgd, steps=steps, form=form)[0].loss[-1]
            for form in ("discrete", "sde")
        ]
        distance.append(abs(ends[0] - ends[1]))
    slopes = np.log2(np.array(distance[:-1]) / distance[1:])
    np.testing.assert_allclose(slopes, 1.0, atol=0.15)


def test_refuses_what_it_does_not_solve():
    task, J, _, f0 = problem()
    with pytest.raises(ttp.InputError, match="loss='mse'"):
        moments(J @ J.T, f0, task.targets, ttp.SGD(0.1), loss="cross_entropy", steps=3)
    with pytest.raises(ttp.InputError, match="sampling='shuffle'"):
        moments(J @ J.T, f0, task.targets, ttp.SGD(0.1, batch_size=4), steps=3)
