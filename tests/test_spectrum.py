"""Spectra of matrices whose eigenvalues are prescribed."""

import numpy as np
import pytest

from ttp_jax import spectrum
from ttp_jax.types import InputError


def matrix(eigvals, seed=0):
    rng = np.random.default_rng(seed)
    modes = np.linalg.qr(rng.normal(size=(len(eigvals), len(eigvals))))[0]
    theta = (modes * eigvals) @ modes.T
    return 0.5 * (theta + theta.T)


def test_prescribed_eigenvalues_come_back_largest_first():
    eigvals = np.logspace(-6, 2, 30)
    found = spectrum.of_gram(matrix(eigvals))
    np.testing.assert_allclose(found.eigvals, eigvals[::-1], rtol=1e-6)
    rebuilt = (found.train_modes * found.eigvals) @ found.train_modes.T
    np.testing.assert_allclose(rebuilt, matrix(eigvals), atol=1e-10)
    assert found.clipped_mass < 1e-12


def test_what_rounding_pushed_below_zero_is_clipped_and_told():
    found = spectrum.of_gram(matrix(np.array([1.0, 1e-3, -1e-5])))
    assert found.eigvals.min() == 0.0
    np.testing.assert_allclose(found.clipped_mass, 1e-5 / 1.00099, rtol=1e-3)


def test_refuses_what_is_no_gram_matrix():
    with pytest.raises(InputError, match="positive semi-definite"):
        spectrum.of_gram(matrix(np.array([1.0, -0.5])))
    with pytest.raises(InputError, match="finite"):
        spectrum.of_gram(np.full((2, 2), np.nan))
