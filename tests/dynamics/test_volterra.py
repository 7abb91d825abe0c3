"""The spectrum alone against the full moment equations, and without noise against the flow."""

import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax.dynamics.flow import flow
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.volterra import volterra
from ttp_jax.spectrum import of_gram

STEPS = 40


def problem(n=120, c=1, features=200, seed=0):
    """Gaussian features: modes spread over all samples."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, features + 1) ** -0.6
    phi = rng.normal(size=(n, features)) * scale
    y = phi @ (rng.normal(size=(features, c)) * scale[:, None])
    return np.kron(phi @ phi.T, np.eye(c)), np.zeros((n, c)), y


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [1, 2])
def test_without_noise_it_is_the_flow(c):
    theta, f0, y = problem(40, c)
    spectrum = of_gram(theta)
    energies = (spectrum.train_modes.T @ (f0 - y).reshape(-1)) ** 2
    sgd = ttp.SGD(np.linspace(0.3, 0.01, STEPS))
    exact = flow(spectrum, f0, y, sgd, steps=STEPS)
    found = volterra(spectrum.eigvals, energies, sgd, n=40, c=c, steps=STEPS)
    np.testing.assert_allclose(found, exact.loss, rtol=1e-10)
    half = volterra(
        spectrum.eigvals[:10],
        energies[:10],
        sgd,
        n=40,
        c=c,
        steps=STEPS,
        outside=energies[10:].sum(),
    )
    assert half[-1] > exact.loss[-1]
    np.testing.assert_allclose(half[0], exact.loss[0], rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("momentum", "nesterov", "rate"),
    [(0.0, False, 0.25), (0.8, False, 0.05), (0.8, True, 0.05)],
)
@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
def test_spread_modes_have_the_moments(momentum, nesterov, rate, sampling):
    theta, f0, y = problem()
    spectrum = of_gram(theta)
    energies = (spectrum.train_modes.T @ (f0 - y).reshape(-1)) ** 2
    sgd = ttp.SGD(rate, momentum, nesterov, 0.0, 6, sampling)
    exact, _ = moments(theta, f0, y, sgd, steps=STEPS)
    found = volterra(spectrum.eigvals, energies, sgd, n=120, c=1, steps=STEPS)
    quiet = volterra(
        spectrum.eigvals,
        energies,
        ttp.SGD(rate, momentum, nesterov),
        n=120,
        c=1,
        steps=STEPS,
    )
    missed = np.abs(found / exact.loss - 1).max()
    assert missed < 0.05
    # The noise is half of what is left at the end, or more: not a formality.
    assert np.abs(quiet / exact.loss - 1).max() > 4 * missed


def test_refuses_weight_decay():
    with pytest.raises(ttp.InputError, match="weight decay 0"):
        volterra(np.ones(2), np.ones(2), ttp.SGD(0.1, weight_decay=0.1), n=2, c=1, steps=3)
