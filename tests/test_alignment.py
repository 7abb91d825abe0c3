"""Numbers of alignment where they are known, and against scikit-learn on the features."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from ttp_jax import alignment
from ttp_jax.kernel.classes import over_samples
from ttp_jax.spectrum import of_gram
from ttp_jax.types import InputError

LABELS = np.repeat(np.arange(3), 4)


def test_over_samples_is_the_mean_of_the_outputs_kernels():
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(5, 2, 7))
    theta = jacobian.reshape(10, 7) @ jacobian.reshape(10, 7).T
    expected = np.einsum("iap,jap->ij", jacobian, jacobian) / 2
    np.testing.assert_allclose(over_samples(theta, 2), expected, atol=1e-12)


def test_shares_of_the_residual():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    spectrum = of_gram(root @ root.T)
    f0 = rng.normal(size=(6, 2))
    along = f0 + 3 * spectrum.train_modes[:, 2].reshape(6, 2)
    shares = alignment.residual_in_modes(spectrum, f0, along)
    np.testing.assert_allclose(shares, np.eye(12)[2], atol=1e-12)
    any_target = rng.normal(size=(6, 2))
    shares = alignment.residual_in_modes(spectrum, f0, any_target)
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-12)


def test_label_correlation_at_its_ends():
    same = (LABELS[:, None] == LABELS[None, :]).astype(float)
    assert alignment.label_correlation(5 * same + 2, LABELS) == pytest.approx(1)
    assert alignment.label_correlation(-same, LABELS) == pytest.approx(-1)
    # Samples that are all orthogonal: eigenvalues of the labels' centred kernel are 4 and 4.
    none = alignment.label_correlation(np.eye(12), LABELS)
    assert none == pytest.approx(8 / np.sqrt(11 * 32))
    with pytest.raises(InputError, match="at least 2 classes"):
        alignment.label_correlation(same, np.zeros(12, int))
    with pytest.raises(InputError, match="tells samples apart"):
        alignment.label_correlation(np.ones((12, 12)), LABELS)


def test_separation_is_the_silhouette_of_the_features():
    rng = np.random.default_rng(1)
    phi = rng.normal(size=(12, 5)) + 2 * np.eye(3)[LABELS] @ rng.normal(size=(3, 5))
    found = alignment.class_separation(phi @ phi.T, LABELS, normalized=False)
    assert found == pytest.approx(silhouette_score(phi, LABELS), abs=1e-7)
    unit = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    found = alignment.class_separation(phi @ phi.T, LABELS)
    assert found == pytest.approx(silhouette_score(unit, LABELS), abs=1e-7)
    with pytest.raises(InputError, match="2 to 11 classes"):
        alignment.class_separation(phi @ phi.T, np.arange(12))
