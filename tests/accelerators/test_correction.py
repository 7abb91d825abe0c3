"""Corrected gradients: unbiased, less noisy, and their moments against many streams."""

import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax.accelerators import correction as corrections
from ttp_jax.accelerators.corrected_moments import corrected_moments
from ttp_jax.accelerators.corrected_path import corrected_segment
from ttp_jax.accelerators.correction import Agent, AlphaSvrg, Svrg
from ttp_jax.dynamics.moments import moments
from ttp_jax.training.corrected import optimal_coefficient
from ttp_jax.types import InputError


def problem(**options):
    task = linear.task("mse", n=10, c=2, d=4, labels=False, **options)
    J, _ = linear.jacobian(task)
    return task, J, J @ J.T, np.asarray(task.apply_fn(task.params, task.x))


@pytest.mark.usefixtures("x64")
def test_the_corrected_gradient_is_unbiased_and_less_noisy():
    """All batches of a quadratic, drawn once each: the mean is exact, the variance smaller."""
    task, J, theta, f0 = problem()
    rng = np.random.default_rng(0)
    r_s = f0 - task.targets
    r = r_s - 0.3 * (theta @ r_s.ravel() / task.n).reshape(r_s.shape)
    r = r + 0.05 * rng.normal(size=r.shape)
    each, old = (
        np.einsum("ncp,nc->np", J.reshape(10, 2, -1), values) for values in (r, r_s)
    )
    mean = {"w": jnp.asarray(old.mean(axis=0))}
    variances = {}
    for c in (0.0, 0.1, 0.5, 1.0):
        found = np.stack(
            [
                corrections.corrected(
                    {"w": jnp.asarray(g)}, {"w": jnp.asarray(s)}, mean, c
                )["w"]
                for g, s in zip(each, old, strict=True)
            ]
        )
        np.testing.assert_allclose(found.mean(axis=0), each.mean(axis=0), atol=1e-12)
        variances[c] = found.var(axis=0).sum()
        if c == 0:
            np.testing.assert_array_equal(found, each)
    assert variances[1.0] < variances[0.5] < variances[0.1] < variances[0.0]
    best = corrections.optimal_coefficient(jnp.asarray(each), jnp.asarray(old))
    at_best = (each - best * (old - old.mean(axis=0))).var(axis=0).sum()
    for nearby in (best - 0.01, best + 0.01):
        assert at_best < (each - nearby * (old - old.mean(axis=0))).var(axis=0).sum()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("momentum", "nesterov", "sampling", "schedule"),
    [
        (0.0, False, "with_replacement", 0.5),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0.0, False, "without_replacement", 1.0),
                (0.8, False, "with_replacement", 1.0),
                (0.8, True, "without_replacement", 0.7),
            )
        ),
    ],
)
def test_expected_loss_against_many_streams(momentum, nesterov, sampling, schedule):
    task, _, theta, f0 = problem()
    steps, runs = 14, 500
    sgd = ttp.SGD(0.5 * (1 - momentum), momentum, nesterov, 0.0, 2, sampling)
    correction = AlphaSvrg(schedule)
    c = corrections.coefficients(correction, 3)
    found = corrected_moments(theta, f0, task.targets, sgd, c, steps=steps)
    drawn = np.stack(
        [
            corrected_segment(
                theta, f0, task.targets, sgd, correction, loss="mse", steps=steps, seed=s
            )
            .segment.curves[0]
            .loss
            for s in range(runs)
        ]
    )
    standard = drawn.std(axis=0)[1:] / np.sqrt(runs)
    error = np.abs(drawn.mean(axis=0) - found.loss)[1:]
    assert (error <= 3.8 * standard + 1e-12).all(), (error / standard).max()
    plain = corrected_moments(theta, f0, task.targets, sgd, 0 * c, steps=steps)
    # the standard error is small enough to tell both apart
    assert (plain.loss[-1] - found.loss[-1]) > 8 * standard[-1]
    known, _ = moments(theta, f0, task.targets, sgd, steps=steps)
    np.testing.assert_allclose(plain.loss, known.loss, rtol=1e-10)
    np.testing.assert_allclose(plain.variance_left, 1, rtol=1e-12)
    begins = np.arange(steps) % 5 == 0
    np.testing.assert_allclose(found.optimum[begins], 1, rtol=1e-10)
    np.testing.assert_allclose(
        found.variance_left[begins], (1 - np.repeat(c, 5)[:steps][begins]) ** 2, atol=1e-10
    )
    assert (found.optimum[~begins] < 1.001).all()


@pytest.mark.usefixtures("x64")
def test_what_an_epoch_sees_is_what_its_gradients_are():
    """Optimum and variance left, from all samples' gradients in weights."""
    task, J, theta, f0 = problem()
    sgd = ttp.SGD(0.1, 0.5, batch_size=2)
    way = corrected_segment(
        theta, f0, task.targets, sgd, Svrg(0.6), loss="mse", steps=5, seed=1
    )
    assert np.isnan(way.epochs.optimum[0])
    again = corrected_segment(
        theta, f0, task.targets, sgd, Svrg(0.6), loss="mse", steps=6, seed=1
    )
    r, r_s = (f - task.targets for f in (way.segment.outputs, f0))
    each, old = (
        np.einsum("ncp,nc->np", J.reshape(10, 2, -1), values) for values in (r, r_s)
    )
    best = corrections.optimal_coefficient(jnp.asarray(each), jnp.asarray(old))
    assert again.epochs.optimum[1] == pytest.approx(best, rel=1e-10)
    left = (each - 0.6 * old).var(axis=0).sum() / each.var(axis=0).sum()
    assert again.epochs.variance_left[1] == pytest.approx(left, rel=1e-10)
    # and as it is measured from weights, with batches of one sample
    w = ttp.finetune(
        task, sgd, steps=5, seed=1, correction=Svrg(0.6), keep=[5]
    ).kept.weights[0]
    measured = optimal_coefficient(task, w, task.params, np.arange(10)[:, None])
    assert measured == pytest.approx(best, rel=1e-8)


@pytest.mark.usefixtures("x64")
def test_pieces_of_a_path_are_the_path():
    task, _, theta, f0 = problem()
    sgd = ttp.SGD(0.1, batch_size=3)
    asked = {"loss": "mse", "steps": 11, "seed": 2}
    whole = corrected_segment(theta, f0, task.targets, sgd, Agent(gamma=3.0), **asked)
    first = corrected_segment(
        theta, f0, task.targets, sgd, Agent(gamma=3.0), last=5, **asked
    )
    rest = corrected_segment(
        theta,
        first.segment.outputs,
        task.targets,
        sgd,
        Agent(gamma=3.0),
        first=5,
        snapshot=first.snapshot,
        **asked,
    )
    joined = np.append(first.segment.curves[0].loss[:-1], rest.segment.curves[0].loss)
    np.testing.assert_allclose(joined, whole.segment.curves[0].loss, rtol=1e-12)
    np.testing.assert_allclose(rest.epochs.coefficient[2:], whole.epochs.coefficient[2:])


def test_a_regression_where_nothing_varies():
    same = jnp.ones(4)
    assert float(corrections.regression(same, same)) == 0
    rising = jnp.arange(4.0)
    assert float(corrections.regression(0.7 * rising, rising)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    "sgd",
    [
        ttp.SGD(0.1, batch_size=2),
        ttp.SGD(0.1),
        ttp.SGD(0.1, weight_decay=0.1, batch_size=2, sampling="with_replacement"),
    ],
)
def test_moments_that_are_not_exact_are_refused(sgd):
    task, _, theta, f0 = problem()
    with pytest.raises(InputError, match="independent mini-batches and no weight decay"):
        corrected_moments(theta, f0, task.targets, sgd, np.ones(9), steps=5)
