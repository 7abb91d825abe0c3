"""Moments against the Monte Carlo of real SGD in weight space, and an independent solver."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

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


def weight_space_runs(J, w0, y, sgd, *, runs, seed, loss="mse"):
    """Outputs after STEPS of ``runs`` independent runs of mini-batch SGD on weights."""
    rng = np.random.default_rng(seed)
    n, c = y.shape
    per_sample = J.reshape(n, c, -1)
    w = np.tile(w0, (runs, 1))
    v = np.zeros_like(w)
    order = np.zeros((runs, n), int)
    for k, eta in enumerate(sgd.learning_rates(STEPS)):
        if sgd.sampling == "with_replacement":
            batch = rng.integers(0, n, size=(runs, B))
        else:
            place = k % (n // B) if sgd.sampling == "shuffle" else 0
            if place == 0:
                order = np.argsort(rng.random((runs, n)), axis=1)
            batch = order[:, place * B : (place + 1) * B]
        f = (w @ J.T).reshape(runs, n, c)
        residual = f - y if loss == "mse" else scipy.special.softmax(f, axis=2) - y
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


@pytest.mark.slow
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


def mean_loss(f, y, loss):
    """Mean over runs of the loss of outputs ``[runs, nc]``, and its standard error."""
    f = f.reshape(len(f), *y.shape)
    if loss == "mse":
        each = 0.5 * ((f - y) ** 2).sum(2).mean(1)
    else:
        each = -(scipy.special.log_softmax(f, axis=2) * y).sum(2).mean(1)
    return each.mean(), each.std() / np.sqrt(len(each))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "rate"),
    [(0.0, False, 0.25), (0.8, False, 0.05), (0.8, True, 0.05)],
)
def test_shuffled_epochs_against_monte_carlo(loss, momentum, nesterov, rate):
    """Within 1 % of the runs, where independent batches would be off by far more."""
    task = linear.task(loss, n=13, c=2, d=6, labels=loss != "mse")
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    shuffled, independent = (
        ttp.SGD(rate, momentum, nesterov, 0.0, B, sampling)
        for sampling in ("shuffle", "without_replacement")
    )
    f = weight_space_runs(J, w0, task.targets, shuffled, runs=20_000, seed=3, loss=loss)
    drawn, error = mean_loss(f, task.targets, loss)
    found, other = (
        moments(J @ J.T, f0, task.targets, sgd, loss=loss, steps=STEPS)
        for sgd in (shuffled, independent)
    )
    missed = abs(found[0].loss[-1] - drawn)
    assert missed < 0.01 * drawn + 4 * error
    assert abs(other[0].loss[-1] - drawn) > 4 * missed
    # Less noise by far than independent batches, and about as much as the runs have.
    spread = np.trace(found[1].covariance) / np.cov(f.T).trace()
    assert 0.7 < spread < 1.1
    assert np.trace(other[1].covariance) > 2 * np.trace(found[1].covariance)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("momentum", "weight_decay", "rate"), [(0.0, 0.0, 0.5), (0.9, 0.02, 0.1)]
)
def test_gaussian_closure_of_cross_entropy(momentum, weight_decay, rate):
    """Within 0.5 % of the expected loss; the noise-free path is off by several times that."""
    task = linear.task("cross_entropy", n=20, c=3, d=8)
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    q0 = (J @ w0).reshape(f0.shape)
    sgd = ttp.SGD(rate, momentum, False, weight_decay, B, "with_replacement")
    f = weight_space_runs(
        J, w0, task.targets, sgd, runs=20_000, seed=4, loss="cross_entropy"
    )
    drawn, error = mean_loss(f, task.targets, "cross_entropy")
    options = {"loss": "cross_entropy", "steps": STEPS, "q0": q0}
    path, found = moments(J @ J.T, f0, task.targets, sgd, **options)
    missed = abs(path.loss[-1] - drawn)
    assert missed < 0.005 * drawn + 4 * error
    full = ttp.SGD(rate, momentum, False, weight_decay)
    quiet = simulate(J @ J.T, f0, task.targets, full, **options)
    assert abs(quiet.loss[-1] - drawn) > 4 * missed
    np.testing.assert_allclose(np.trace(found.covariance), np.cov(f.T).trace(), rtol=0.08)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("noise", ["isotropic", "diagonal", "frozen"])
def test_approximated_noise_is_another_noise(noise):
    task, J, _, f0 = problem()
    sgd = ttp.SGD(0.3, batch_size=B, sampling="with_replacement")
    exact, other = (
        moments(J @ J.T, f0, task.targets, sgd, steps=STEPS, noise=kind)
        for kind in ("exact", noise)
    )
    # The mean does not see it; the loss does, by more than rounding.
    np.testing.assert_allclose(exact[1].mean, other[1].mean, atol=1e-12)
    assert abs(other[0].loss[-1] / exact[0].loss[-1] - 1) > 0.01


def test_refuses_what_it_does_not_solve():
    task, J, _, f0 = problem()
    sgd = ttp.SGD(0.1, batch_size=4)
    with pytest.raises(ttp.InputError, match="sampling='shuffle'"):
        moments(J @ J.T, f0, task.targets, sgd, steps=3, noise="diagonal")
