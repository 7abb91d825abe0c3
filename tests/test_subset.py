"""Power laws where they are known, and a subset's curve against that of all samples."""

import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax.dynamics.volterra import volterra
from ttp_jax.spectrum import of_gram
from ttp_jax.subset import fit_power_law, from_subset
from ttp_jax.types import InputError


def test_a_power_law_is_found_again():
    k = np.arange(1, 200)
    law = fit_power_law(3 * k**-1.7, first=5, last=150)
    assert law.exponent == pytest.approx(1.7)
    assert np.exp(law.intercept) == pytest.approx(3)
    np.testing.assert_allclose(law.at(k), 3 * k**-1.7, rtol=1e-9)
    noise = np.exp(0.2 * np.random.default_rng(0).normal(size=(300, len(k))))
    fits = [fit_power_law(3 * k**-1.7 * row, first=5, last=150) for row in noise]
    scatter = np.std([fit.exponent for fit in fits])
    claimed = np.mean([np.sqrt(fit.covariance[1, 1]) for fit in fits])
    # Of 300 fits the scatter itself is known to 4 %.
    assert claimed == pytest.approx(scatter, rel=0.16)
    drawn = [
        law_.exponent
        for law_ in (fits[0].drawn(np.random.default_rng(s)) for s in range(300))
    ]
    assert np.std(drawn) == pytest.approx(np.sqrt(fits[0].covariance[1, 1]), rel=0.16)


def problem(n, seed, decay=1.5, features=3000):
    """Gaussian features with a power-law spectrum and two outliers: kernel and residual."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, features + 1) ** (-decay / 2)
    scale[:2] *= 2
    target = np.random.default_rng(99).normal(size=features) * scale**0.5
    phi = rng.normal(size=(n, features)) * scale
    return phi @ phi.T, phi @ target


def known(theta, residual):
    spectrum = of_gram(theta)
    return spectrum.eigvals, (spectrum.train_modes.T @ residual) ** 2


@pytest.mark.slow
@pytest.mark.parametrize(("decay", "limit", "better"), [(1.5, 0.25, 1.2), (1.2, 0.4, 0.8)])
def test_a_quarter_of_the_samples_gives_the_curve_of_all(decay, limit, better):
    """Time to 3 % of the loss, and how much nearer it is than the subset's own."""
    n, n0, steps = 1000, 250, 3000
    sgd = ttp.SGD(0.2)
    errors = []
    for seed in range(4):
        everything = volterra(*known(*problem(n, seed, decay)), sgd, n=n, c=1, steps=steps)
        few = problem(n0, seed + 10, decay)
        found = volterra(*from_subset(*few).extended(n), sgd, n=n, c=1, steps=steps)
        naive = volterra(*known(*few), sgd, n=n0, c=1, steps=steps)
        # The loss at the start is that of other samples: 1/sqrt(250) of scatter.
        times = [
            np.argmax(curve / curve[0] <= 0.03) for curve in (everything, found, naive)
        ]
        assert min(times) > 10
        errors.append([t / times[0] - 1 for t in times[1:]])
    extended, as_it_is = np.abs(errors).mean(axis=0)
    assert extended < limit
    assert extended < better * as_it_is


@pytest.mark.slow
def test_leading_eigenvalues_lose_their_bias():
    n, n0, modes = 1000, 250, slice(15, 40)
    of_all = np.mean([known(*problem(n, s, 1.2))[0][modes] / n for s in range(4)], axis=0)
    subsets = [from_subset(*problem(n0, s + 50, 1.2)) for s in range(10)]
    # Means over subsets and modes: the scatter of one mode must not decide.
    biased = np.mean([s.eigvals[modes] for s in subsets], axis=0) / of_all - 1
    corrected = np.mean([s.leading(n)[modes] for s in subsets], axis=0) / of_all - 1
    assert biased.mean() > 0.12
    assert abs(corrected.mean()) < 0.04


def test_extension_keeps_what_is_known():
    theta, residual = problem(200, 0)
    subset = from_subset(theta, residual)
    eigvals, energies = known(theta, residual)
    lam, energy = subset.extended(1000)
    assert len(lam) == len(energy) == 1000
    np.testing.assert_allclose(energy.sum() / 1000, energies.sum() / 200)
    np.testing.assert_allclose(subset.leading(200), eigvals[: subset.kept] / 200)
    assert (np.diff(lam) <= 1e-12 * lam[0]).all()
    drawn, _ = subset.extended(1000, np.random.default_rng(0))
    assert np.abs(drawn[500] / lam[500] - 1) > 1e-4


def test_refuses():
    theta, residual = problem(60, 0)
    with pytest.raises(InputError, match="at least 3 modes"):
        from_subset(theta, residual, first=19, kept=20)
    with pytest.raises(InputError, match="positive values"):
        fit_power_law(np.zeros(9), first=1, last=5)
    with pytest.raises(InputError, match="n must be at least 60"):
        from_subset(theta, residual).extended(59)
