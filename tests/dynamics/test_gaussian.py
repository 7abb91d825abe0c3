"""Means over Gaussian outputs against what can be integrated, and against samples."""

import jax.numpy as jnp
import numpy as np
import pytest

from ttp_jax import losses
from ttp_jax.dynamics.gaussian import _cubature, expected


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [1, 2, 5, 10])
def test_the_rule_is_exact_to_the_fifth_degree(c):
    points, weights = map(np.asarray, _cubature(c))
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-12)
    for odd in (points, points[:, :1] ** 3, points[:, :1] ** 5):
        np.testing.assert_allclose(weights @ odd, 0, atol=1e-12)
    second = np.einsum("s,sa,sb->ab", weights, points, points)
    np.testing.assert_allclose(second, np.eye(c), atol=1e-12)
    fourth = np.einsum("s,sa,sb->ab", weights, points**2, points**2)
    np.testing.assert_allclose(fourth, 1 + 2 * np.eye(c), atol=1e-12)


def problem(c, scale, seed=0):
    rng = np.random.default_rng(seed)
    n = 6
    mean = 2 * rng.normal(size=(n, c))
    root = scale * rng.normal(size=(n, c, c)) / np.sqrt(c)
    targets = np.eye(c)[rng.integers(0, c, n)]
    return mean, root, targets


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_without_spread_it_is_the_loss_itself(loss):
    mean, _, targets = map(jnp.asarray, problem(3, 1.0))
    found = expected(loss, mean, jnp.zeros((6, 3, 3)), targets)
    g = losses.gradient(loss, mean, targets)
    np.testing.assert_allclose(found.loss, losses.mean(loss, mean, targets), rtol=1e-10)
    np.testing.assert_allclose(found.gradient, g, atol=1e-10)
    np.testing.assert_allclose(
        found.curvature, losses.curvature(loss, mean, targets), atol=1e-10
    )
    np.testing.assert_allclose(found.square, g[:, :, None] * g[:, None, :], atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize(("scale", "tolerance"), [(0.3, 1e-4), (1.0, 6e-3)])
def test_cross_entropy_against_samples(c, scale, tolerance):
    mean, root, targets = problem(c, scale)
    draws = 200_000
    z = np.random.default_rng(1).normal(size=(draws, 1, c))
    found = expected(
        "cross_entropy",
        jnp.asarray(mean),
        jnp.asarray(root @ root.transpose(0, 2, 1)),
        jnp.asarray(targets),
    )
    f = mean + np.einsum("nab,sob->sna", root, z)
    flat, y = jnp.asarray(f.reshape(-1, c)), jnp.tile(jnp.asarray(targets), (draws, 1))
    loss = np.asarray(losses.per_sample("cross_entropy", flat, y)).reshape(draws, -1)
    g = np.asarray(losses.gradient("cross_entropy", flat, y)).reshape(f.shape)

    def near(value, samples):
        error = samples.std(0) / np.sqrt(draws)
        assert (np.abs(value - samples.mean(0)) < tolerance + 4 * error).all()

    near(found.loss, loss.mean(1))
    near(found.gradient, g)
    near(found.square, g[:, :, :, None] * g[:, :, None, :])
    # Stein's lemma: Cov(g_i, f_i) = E[h_i] Cov(f_i)
    cross = np.einsum("sna,snb->nab", g, f - mean) / draws
    own = np.asarray(found.curvature) @ (root @ root.transpose(0, 2, 1))
    np.testing.assert_allclose(own, cross, atol=3 * tolerance + 0.02 * scale**2)
