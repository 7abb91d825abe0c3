"""For a model linear in its parameters, prediction and real optax steps are one curve."""

import itertools

import numpy as np
import optax
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax.dynamics.simulate import OTHER_SEEDS, simulate
from ttp_jax.finetune import finetune

STEPS = 40
SCHEDULES = {
    "constant": 0.05,
    "array": np.linspace(0.1, 0.0, STEPS),
    "optax": optax.cosine_decay_schedule(0.08, STEPS),
}
BATCHES = [
    (None, "shuffle"),
    (5, "shuffle"),
    (5, "without_replacement"),
    (5, "with_replacement"),
]


def predicted_path(task, sgd, *, seed, every=1, paths=1):
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    q0 = (J @ w0).reshape(f0.shape) if sgd.decay_toward == "zero" else None
    return simulate(
        J @ J.T,
        f0,
        task.targets,
        sgd,
        loss=task.loss,
        steps=STEPS,
        q0=q0,
        seed=seed,
        every=every,
        paths=paths,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "loss", [pytest.param("mse", marks=pytest.mark.slow), "cross_entropy"]
)
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)]
)
@pytest.mark.parametrize(
    ("weight_decay", "toward"), [(0.0, "zero"), (0.03, "zero"), (0.03, "initial")]
)
def test_equals_optax_on_a_linear_model(loss, momentum, nesterov, weight_decay, toward):
    task = linear.task(loss)
    for rate, (batch_size, sampling) in itertools.product(SCHEDULES.values(), BATCHES):
        sgd = ttp.SGD(rate, momentum, nesterov, weight_decay, batch_size, sampling, toward)
        path = predicted_path(task, sgd, seed=3)
        measured = finetune(task, sgd, steps=STEPS, seed=3)
        np.testing.assert_array_equal(path.steps, measured.steps)
        np.testing.assert_allclose(path.loss, measured.loss, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(path.accuracy, measured.accuracy, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("sampling", "toward"), [("shuffle", "zero"), ("with_replacement", "initial")]
)
def test_coefficients_give_the_weights_of_the_path(sampling, toward):
    task = linear.task("cross_entropy")
    sgd = ttp.SGD(0.05, 0.9, True, 0.02, 5, sampling, toward)
    path = predicted_path(task, sgd, seed=1)
    J, w0 = linear.jacobian(task)
    w = (1 - path.shrink) * w0 - J.T @ path.alpha
    np.testing.assert_allclose(
        (J @ w).reshape(path.outputs.shape), path.outputs, atol=1e-10
    )
    assert path.shrink > 0.01 if toward == "zero" else path.shrink == 0


@pytest.mark.usefixtures("x64")
def test_another_seed_is_another_stream():
    task = linear.task("mse")
    sgd = ttp.SGD(0.05, batch_size=5)
    one, two = (predicted_path(task, sgd, seed=seed).loss for seed in (0, 1))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_reading_rarely_is_reading_a_part():
    task = linear.task("mse")
    sgd = ttp.SGD(0.05, 0.9, batch_size=5)
    often = predicted_path(task, sgd, seed=0)
    rarely = predicted_path(task, sgd, seed=0, every=7)
    np.testing.assert_array_equal(rarely.steps, [0, 7, 14, 21, 28, 35, 40])
    np.testing.assert_array_equal(rarely.loss, often.loss[rarely.steps])
    measured = finetune(task, sgd, steps=STEPS, seed=0, every=7)
    np.testing.assert_allclose(measured.loss, rarely.loss, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_bands_are_quantiles_of_other_streams(loss):
    task = linear.task(loss)
    sgd = ttp.SGD(0.05, 0.9, True, 0.02, 5, "with_replacement")
    banded = predicted_path(task, sgd, seed=2, paths=3, every=10)
    alone = predicted_path(task, sgd, seed=2, every=10)
    np.testing.assert_array_equal(banded.loss, alone.loss)
    others = [
        predicted_path(task, sgd, seed=2 + OTHER_SEEDS + k, every=10) for k in range(3)
    ]
    for name in ("loss", "accuracy"):
        values = np.stack([getattr(path, name) for path in others])
        for level, found in getattr(banded, f"{name}_quantiles").items():
            np.testing.assert_allclose(found, np.quantile(values, level, 0), atol=1e-10)
    assert sorted(banded.loss_quantiles) == [0.025, 0.15, 0.85, 0.975]
