"""Sample paths against the moments, an independent integrator, and the discrete recursion."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import losses
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.sde import sde
from ttp_jax.dynamics.simulate import simulate

STEPS = 16
B = 4


def problem(loss="mse", c=2):
    task = linear.task(loss, n=10, c=c, d=4, labels=loss != "mse")
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    return task, J @ J.T, (J @ w0).reshape(f0.shape), f0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_weak_order_is_one():
    """The error of the expected loss halves with the step."""
    task, theta, _, f0 = problem()
    sgd = ttp.SGD(0.3, batch_size=B, sampling="with_replacement")
    exact, _ = moments(theta, f0, task.targets, sgd, steps=3, form="sde")
    errors, paths = [], 100_000
    for substeps in (1, 2, 4):
        path = sde(
            theta,
            f0,
            task.targets,
            sgd,
            loss="mse",
            steps=3,
            paths=paths,
            substeps=substeps,
            seed=substeps,
        )
        errors.append(path.loss[1] - exact.loss[1])
    order = np.log2(np.abs(errors[:-1]) / np.abs(errors[1:]))
    np.testing.assert_allclose(order, 1.0, atol=0.25)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_one_path_is_that_of_another_integrator(loss):
    """The same Brownian increments through diffrax's Euler method."""
    task, theta, _, f0 = problem(loss)
    n, substeps, rate = len(f0), 3, 0.2
    sgd = ttp.SGD(rate, batch_size=B, sampling="with_replacement")
    ours = sde(
        theta,
        f0,
        task.targets,
        sgd,
        loss=loss,
        steps=STEPS,
        paths=2,
        substeps=substeps,
        seed=5,
    )
    keys = jnp.stack(
        [
            each
            for key in jax.random.split(jax.random.key(5), STEPS)
            for each in jax.random.split(key, substeps)
        ]
    )
    z = jax.vmap(lambda key: jax.random.normal(key, (2, n)))(keys)
    increments = z / np.sqrt(substeps)
    y = jnp.asarray(task.targets)

    class Increments(diffrax.AbstractPath):
        which: int = 0
        t0 = 0.0
        t1 = float(STEPS)

        def evaluate(self, t0, t1=None, left=True):
            return increments[jnp.rint(t0 * substeps).astype(int), self.which]

    def drift(t, f, args):
        g = losses.gradient(loss, f, y)
        return -rate * (theta @ g.reshape(-1)).reshape(f.shape) / n

    def diffusion(t, f, args):
        g = losses.gradient(loss, f, y)
        centring = jnp.eye(n) - 1 / n
        columns = jnp.einsum("kia,ia,ij->kj", theta.reshape(-1, n, g.shape[1]), g, centring)
        return -rate / np.sqrt(B * n) * columns.reshape(*f.shape, n)

    ends = [
        diffrax.diffeqsolve(
            diffrax.MultiTerm(
                diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, Increments(which))
            ),
            diffrax.Euler(),
            0.0,
            STEPS,
            None,
            jnp.asarray(f0),
            stepsize_controller=diffrax.StepTo(jnp.arange(STEPS * substeps + 1) / substeps),
        ).ys[0]
        for which in (0, 1)
    ]
    expected = np.mean([losses.mean(loss, f, y) for f in ends])
    np.testing.assert_allclose(ours.loss[-1], expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_two_states_have_the_moments_of_the_recursion(nesterov):
    task, theta, q0, f0 = problem()
    sgd = ttp.SGD(0.05, 0.8, nesterov, 0.02, B, "with_replacement")
    exact, end = moments(theta, f0, task.targets, sgd, steps=STEPS, q0=q0)
    paths = 20_000
    found = sde(
        theta,
        f0,
        task.targets,
        sgd,
        loss="mse",
        steps=STEPS,
        q0=q0,
        paths=paths,
        momentum="two_state",
    )
    # Of the loss's scatter a quarter lies outside the 15th and 85th percentile each.
    low, high = found.loss_quantiles[0.15], found.loss_quantiles[0.85]
    error = (high - low) / 2 / np.sqrt(paths)
    assert (np.abs(found.loss - exact.loss) < 4.5 * error + 1e-12).all()
    np.testing.assert_allclose(found.shrink, exact.shrink, atol=1e-12)
    assert np.trace(end.covariance) > 0.01


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_without_noise_it_is_full_batch_descent(loss):
    task, theta, q0, f0 = problem(loss)
    noisy = ttp.SGD(0.1, 0.5, False, 0.02, B)
    options = {"loss": loss, "steps": STEPS, "q0": q0}
    ode = sde(theta, f0, task.targets, noisy, noisy=False, **options)
    full = simulate(theta, f0, task.targets, ttp.SGD(0.2, 0.0, False, 0.02), **options)
    np.testing.assert_allclose(ode.loss, full.loss, rtol=1e-10)
    np.testing.assert_allclose(ode.outputs, full.outputs, atol=1e-10)
    assert ode.loss_quantiles is None
    batchless = sde(theta, f0, task.targets, ttp.SGD(0.2, 0.0, False, 0.02), **options)
    np.testing.assert_allclose(batchless.loss, ode.loss, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": 0}, "paths must be at least 1"),
        ({"substeps": 0}, "substeps must be at least 1"),
    ],
)
def test_refuses(options, message):
    task, theta, _, f0 = problem()
    with pytest.raises(ttp.InputError, match=message):
        sde(theta, f0, task.targets, ttp.SGD(0.1), loss="mse", steps=3, **options)
