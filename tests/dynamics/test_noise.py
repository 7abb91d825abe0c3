"""The drawn noise has the covariance that the moment equations use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttp_jax.dynamics import noise

N, C, STRENGTH = 5, 2, 0.3


def exact_covariance(theta, g):
    """``(phi/B) Theta [sum_i g_i g_i^T/n - g g^T/n^2] Theta`` with explicit rows."""
    rows = np.zeros((N, N * C))
    for i in range(N):
        rows[i, i * C : (i + 1) * C] = g[i]
    spread = rows.T @ rows / N - np.outer(g, g) / N**2
    return STRENGTH * theta @ spread @ theta


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["exact", "isotropic", "diagonal", "frozen"])
def test_covariance_of_the_draws(kind):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(N * C, 4))
    theta = root @ root.T
    g, g0 = rng.normal(size=(2, N, C))
    draw = noise.sampler(kind, jnp.asarray(theta), STRENGTH, jnp.asarray(g0))
    draws = 200_000
    xi = draw(jax.random.key(1), jnp.broadcast_to(jnp.asarray(g), (draws, N, C)))
    xi = np.asarray(xi).reshape(draws, -1)
    exact = exact_covariance(theta, g)
    expected = noise.approximate(
        kind,
        jnp.asarray(theta),
        jnp.asarray(exact),
        jnp.asarray(exact_covariance(theta, g0)),
    )
    products = xi[:, :, None] * xi[:, None, :]
    error = products.std(0) / np.sqrt(draws)
    assert (np.abs(products.mean(0) - expected) < 4.5 * error + 1e-12).all()
    assert (np.abs(xi.mean(0)) < 4.5 * xi.std(0) / np.sqrt(draws) + 1e-12).all()
    if kind in ("isotropic", "diagonal"):
        np.testing.assert_allclose(np.trace(expected), np.trace(exact), rtol=1e-10)
