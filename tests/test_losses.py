"""Gradients and curvatures of the losses against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttp_jax import losses


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("total", [1.0, 0.7])
def test_derivatives(loss, total):
    rng = np.random.default_rng(0)
    f, v = (jnp.asarray(rng.normal(size=(5, 4))) for _ in range(2))
    y = jnp.asarray(total * rng.dirichlet(np.ones(4), size=5))
    value = lambda f: losses.per_sample(loss, f, y).sum()  # noqa: E731
    np.testing.assert_allclose(losses.gradient(loss, f, y), jax.grad(value)(f), atol=1e-12)
    product = jax.jvp(jax.grad(value), (f,), (v,))[1]
    np.testing.assert_allclose(losses.curvature_product(loss, f, y, v), product, atol=1e-12)
    np.testing.assert_allclose(losses.mean(loss, f, y), value(f) / 5, rtol=1e-12)


def test_values_by_hand():
    f, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(losses.per_sample("mse", f, y), [1.0])
    np.testing.assert_allclose(
        losses.per_sample("cross_entropy", f, y), [np.log(1 + np.e)], rtol=1e-6
    )


def test_accuracy():
    f = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    np.testing.assert_allclose(losses.accuracy(f, jnp.eye(2)[jnp.array([0, 1, 1])]), 2 / 3)
    signs = jnp.array([[0.3], [-0.2]])
    np.testing.assert_allclose(losses.accuracy(signs, jnp.array([[1.0], [1.0]])), 0.5)
