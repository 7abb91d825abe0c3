"""Many linearisations: exact where one is, converging to training where none is."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax.linearisation import relinearization

STEPS = 40


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("nesterov", "weight_decay", "toward", "calibrate_steps"),
    [(True, 0.03, "zero", 5), (False, 0.03, "initial", 0)],
)
def test_a_linear_model_is_linearised_once(nesterov, weight_decay, toward, calibrate_steps):
    task = linear.task("cross_entropy")
    sgd = ttp.SGD(
        np.linspace(0.1, 0.01, STEPS), 0.9, nesterov, weight_decay, 5, "shuffle", toward
    )
    measured = ttp.finetune(task, sgd, steps=STEPS, seed=2, every=3)
    found = ttp.predict(
        task,
        sgd,
        steps=STEPS,
        seed=2,
        every=3,
        relinearize=1e-6,
        calibrate_steps=calibrate_steps,
    )
    np.testing.assert_array_equal(found.steps, measured.steps)
    np.testing.assert_allclose(found.loss, measured.loss, rtol=1e-9)
    np.testing.assert_allclose(found.accuracy, measured.accuracy, atol=1e-12)
    assert found.trust.reason.startswith("1 linearisations")
    assert found.trust.ok
    assert found.trust.error < 1e-8


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay", "toward", "batch_size"),
    [
        (0.9, True, 0.03, "zero", 5),
        (0.5, False, 0.03, "initial", 5),
        pytest.param(0.9, False, 0.0, "zero", None, marks=pytest.mark.slow),
        pytest.param(0.0, False, 0.03, "zero", None, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_between_pieces(
    monkeypatch, momentum, nesterov, weight_decay, toward, batch_size
):
    """A linear model in pieces all the same: schedule, stream, momentum and decay go on."""
    gaps = itertools.cycle([1.0, 0.25])
    monkeypatch.setattr(relinearization, "linearization_gap", lambda *_: next(gaps))
    task = linear.task("cross_entropy")
    rates = np.linspace(0.1, 0.01, STEPS)
    sgd = ttp.SGD(rates, momentum, nesterov, weight_decay, batch_size, "shuffle", toward)
    measured = ttp.finetune(task, sgd, steps=STEPS, seed=2)
    found = ttp.predict(task, sgd, steps=STEPS, seed=2, relinearize=0.3)
    assert int(found.trust.reason.split()[0]) > 3
    np.testing.assert_allclose(found.loss, measured.loss, rtol=1e-9)
    np.testing.assert_allclose(found.accuracy, measured.accuracy, atol=1e-12)


def off(measured, task, sgd, steps, **options):
    """Largest error of ``log L``, and the prediction."""
    found = ttp.predict(task, sgd, steps=steps, mend=0, **options)
    return np.abs(np.log(found.loss / measured.loss)).max(), found


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("momentum", "batch_size"), [(0.0, None), (0.9, 5)])
def test_the_error_falls_with_the_tolerance(momentum, batch_size):
    task = bent()
    sgd = ttp.SGD(0.3 * (1 - momentum), momentum, batch_size=batch_size)
    measured = ttp.finetune(task, sgd, steps=150)
    errors = [
        off(measured, task, sgd, 150, relinearize=tolerance)[0]
        for tolerance in (None, 0.2, 0.04)
    ]
    assert errors[0] > 0.4
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.4 * errors[1]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_kernel_a_step_is_training():
    task = bent()
    sgd = ttp.SGD(0.3, 0.9, batch_size=5)
    measured = ttp.finetune(task, sgd, steps=12)
    error, found = off(measured, task, sgd, 12, relinearize=1e-9)
    assert error < 1e-9
    assert found.trust.reason.startswith("12 linearisations")
    assert off(measured, task, sgd, 12)[0] > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_estimate_is_of_the_size_of_the_error():
    task = bent()
    sgd = ttp.SGD(0.3)
    measured = ttp.finetune(task, sgd, steps=150)
    for tolerance in (0.2, 0.05):
        found = ttp.predict(task, sgd, steps=150, relinearize=tolerance)
        error = np.abs(np.log(found.loss / measured.loss)).max()
        assert error / 4 < found.trust.error < 4 * error


@pytest.mark.usefixtures("x64")
def test_a_catapult_is_followed_down():
    """Past the stability limit the linear loss grows for ever; the real one jumps and falls.

    ``f = x v.u/sqrt(m)``, Lewkowycz et al., arXiv 2003.02218.
    """
    rng = np.random.default_rng(1)
    params = {
        "u": jnp.asarray(rng.normal(size=200)),
        "v": jnp.asarray(rng.normal(size=200)),
    }
    task = ttp.Task(
        apply_fn=lambda p, x: x * (p["u"] @ p["v"]) / 200**0.5,
        params=params,
        x=jnp.ones((1, 1)),
        y=jnp.zeros((1, 1)),
        loss="mse",
    )
    curvature = float((params["u"] @ params["u"] + params["v"] @ params["v"]) / 200)
    sgd = ttp.SGD(2.5 / curvature)
    measured = ttp.finetune(task, sgd, steps=60)
    assert measured.loss.max() > 2 * measured.loss[0] > 1e3 * measured.loss[-1]
    one = ttp.predict(task, sgd, steps=60, mend=0)
    assert one.loss[-1] > 1e3 * one.loss[0]
    assert "UNSTABLE" in one.trust.reason
    many, finer = (
        ttp.predict(task, sgd, steps=60, relinearize=tolerance)
        for tolerance in (0.02, 1e-4)
    )
    assert many.loss.argmax() == measured.loss.argmax()
    np.testing.assert_allclose(many.loss.max(), measured.loss.max(), rtol=1.0)
    assert many.loss[-1] < 1e-3 * many.loss[0]
    np.testing.assert_allclose(finer.loss[:12], measured.loss[:12], rtol=0.1)


@pytest.mark.usefixtures("x64")
def test_a_path_that_diverges_ends_in_a_warning():
    task = bent("mse")
    found = ttp.predict(task, ttp.SGD(1e6), steps=30, relinearize=0.3)
    assert not found.trust.ok
    assert "grows" in found.trust.reason


@pytest.mark.usefixtures("x64")
def test_the_first_kernel_can_be_given():
    task = bent()
    sgd = ttp.SGD(0.2, 0.5, batch_size=5)
    kernel = ttp.kernel.choice.Kernel("exact").of(task)
    both = [
        ttp.predict(task, sgd, steps=STEPS, relinearize=0.2, kernel=k)
        for k in (kernel, "exact")
    ]
    np.testing.assert_allclose(both[0].loss, both[1].loss, rtol=1e-10)
    assert both[0].flops == both[1].flops


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"relinearize": 0.0},
            "relinearize must be a tolerance above 0, such as 0.5, got 0",
        ),
        ({"relinearize": float("nan")}, "relinearize must be a tolerance above 0"),
        ({"relinearize": 0.3, "solver": "ode"}, "relinearize needs solver 'simulate'"),
        ({"relinearize": 0.3, "paths": 3}, "without paths and kernel_samples"),
        ({"relinearize": 0.3, "kernel_samples": 8}, "without paths and kernel_samples"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ttp.InputError, match=message):
        ttp.predict(bent(), ttp.SGD(0.1, batch_size=4), steps=5, **options)
