"""Averages of predictions and what they are worth."""

import numpy as np
import pytest
import scipy.special

from ttp_jax.accelerators import ensemble
from ttp_jax.types import InputError


@pytest.fixture
def outputs():
    return np.random.default_rng(0).normal(size=(4, 60, 3)) * 2


def test_the_softmax_of_an_ensemble_is_the_mean_of_its_last_members(outputs):
    found = ensemble.combined("cross_entropy", outputs[-2:])
    mean = (
        scipy.special.softmax(outputs[2], axis=1)
        + scipy.special.softmax(outputs[3], axis=1)
    ) / 2
    np.testing.assert_allclose(np.exp(found), mean, rtol=1e-12)
    np.testing.assert_allclose(
        ensemble.combined("mse", outputs[-2:]), outputs[-2:].mean(axis=0)
    )
    # one member is itself
    np.testing.assert_allclose(
        scipy.special.softmax(ensemble.combined("cross_entropy", outputs[:1]), axis=1),
        scipy.special.softmax(outputs[0], axis=1),
    )


def test_quality_is_that_of_the_mean(outputs):
    y = np.eye(3)[np.arange(60) % 3]
    found = ensemble.quality(
        "cross_entropy", ensemble.combined("cross_entropy", outputs), y
    )
    p = scipy.special.softmax(outputs, axis=2).mean(axis=0)
    assert found.loss == pytest.approx(-np.log((p * y).sum(axis=1)).mean())
    assert found.accuracy == (p.argmax(axis=1) == np.arange(60) % 3).mean()
    assert ensemble.quality("mse", outputs[0], y).calibrated is None


def test_calibration_forgets_the_temperature_alone():
    rng = np.random.default_rng(1)
    f = rng.normal(size=(4000, 3)) * 2
    p = scipy.special.softmax(f, axis=1)
    labels = (p.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    y = np.eye(3)[np.minimum(labels, 2)]
    true = ensemble.calibrated_log_likelihood(f, y)
    # labels were drawn from these very probabilities: nothing is to be gained
    own = (y * scipy.special.log_softmax(f, axis=1)).sum(axis=1).mean()
    assert true == pytest.approx(own, abs=2e-3)
    for scale in (0.2, 5.0):
        found = ensemble.calibrated_log_likelihood(scale * f, y)
        assert found == pytest.approx(true, abs=1e-5)
        raw = (y * scipy.special.log_softmax(scale * f, axis=1)).sum(axis=1).mean()
        assert raw < true - 0.05
    noisy = ensemble.calibrated_log_likelihood(f + rng.normal(size=f.shape) * 3, y)
    assert noisy < true - 0.05


def test_calibration_survives_a_half_that_is_all_right():
    f = np.eye(3)[np.arange(20) % 3] * 4.0
    y = np.eye(3)[np.arange(20) % 3]
    y[0] = y[1]  # one of twenty is wrong
    found = ensemble.calibrated_log_likelihood(f, y)
    assert -1.0 < found < 0
    with pytest.raises(InputError, match="at least 2 samples"):
        ensemble.calibrated_log_likelihood(f[:1], y[:1])
