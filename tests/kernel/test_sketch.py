"""Projections are unbiased, fall as they should, and are the same for every sample."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.kernel import oracle
from ttp_jax.kernel.sketch import Projection, Sketch, gram, operations, sketched_jacobian
from ttp_jax.spectrum import of_factor, of_gram

PROJECTIONS = get_args(Projection)


def estimates(model, projection, dimension, seeds):
    apply_fn, params, x, _ = oracle.reference(model)
    for seed in seeds:
        z = sketched_jacobian(apply_fn, params, x, Sketch(projection, dimension, seed))
        yield z @ z.T


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_unbiased_over_seeds(projection):
    """The mean of the trace and of the whole against their scatter."""
    theta = oracle.reference(oracle.mlp)[3]
    runs = 600
    found = np.stack(list(estimates(oracle.mlp, projection, 20, range(runs))))
    error = found.std(0) / np.sqrt(runs)
    deviation = (found.mean(0) - theta) / error
    # 406 entries: their greatest deviation, and their mean square, which is one.
    assert np.abs(deviation).max() < 4.5
    assert 0.4 < np.mean(deviation**2) < 2.5
    assert (found.std(0) > 1e-3 * np.abs(theta).max()).any()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("projection", "power", "dimensions"),
    [
        ("coordinates", 1.0, (16, 64, 256)),
        ("very_sparse", 1.0, (16, 64, 256)),
        # Primes, which these two make full use of; by transforms up to 64.
        ("count_sketch", 1.0, (17, 61, 251)),
        ("tensor_sketch", 1.0, (8, 23, 64)),
        ("kronecker", 0.9, (16, 64, 256)),
    ],
)
def test_error_falls_with_the_dimension(projection, power, dimensions):
    """Squared, as ``1/d``."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(40, 64)))
    w, out = jnp.asarray(rng.normal(size=(64, 48)) / 8), rng.normal(size=(48, 2))

    def apply_fn(w, x):
        return jnp.tanh(x @ w) @ out

    theta = oracle.explicit(apply_fn, w, x)
    errors = [
        np.mean(
            [
                np.linalg.norm(z @ z.T - theta) ** 2
                for z in (
                    sketched_jacobian(apply_fn, w, x, Sketch(projection, d, seed))
                    for seed in range(40)
                )
            ]
        )
        for d in dimensions
    ]
    slope = -np.polyfit(np.log(dimensions), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, power, atol=0.15)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_dimension_that_holds_everything_is_exact(model, projection):
    apply_fn, params, x, theta = oracle.reference(model)
    z = sketched_jacobian(apply_fn, params, x, Sketch(projection, 1000))
    np.testing.assert_allclose(z @ z.T, theta, rtol=1e-10, atol=1e-10 * theta.max())
    exact, found = of_gram(theta), of_factor(z)
    kept = exact.eigvals > 1e-8 * exact.eigvals[0]
    np.testing.assert_allclose(found.eigvals[: kept.sum()], exact.eigvals[kept], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_one_projection_for_all_samples(projection, monkeypatch):
    """A sample's row does not depend on which others share its chunk."""
    apply_fn, params, x, _ = oracle.reference(oracle.resnet)
    of = params, x, Sketch(projection, 16)
    together = sketched_jacobian(apply_fn, *of)
    monkeypatch.setattr("ttp_jax.kernel.sketch.LARGEST_CHUNK", 2)
    in_twos = sketched_jacobian(apply_fn, *of)
    np.testing.assert_allclose(together, in_twos, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("projection", "dimension", "side", "groups"),
    [
        ("coordinates", 40, 1, 1),
        ("coordinates", 40, 4, 1),
        ("coordinates", 40, 4, 2),
        ("tensor_sketch", 8, 1, 2),
        ("tensor_sketch", 8, 4, 1),
    ],
)
def test_unbiased_of_a_convolution(projection, dimension, side, groups):
    """Coordinates: one position, by products of columns, and sixteen, by the whole gradient.

    Tensor sketch: by transforms, small enough a dimension for that.
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, side, side, 6)))
    w = jnp.asarray(rng.normal(size=(3, 3, 6 // groups, 8)) / 8)
    mix = jnp.asarray(rng.normal(size=(8, 2)))

    def apply_fn(w, x):
        f = lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.tanh(f).mean(axis=(1, 2)) @ mix

    theta = oracle.explicit(apply_fn, w, x)
    found = []
    for seed in range(300):
        z = sketched_jacobian(apply_fn, w, x, Sketch(projection, dimension, seed))
        assert z.shape == (6, dimension)
        found.append(gram(z))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.abs((np.mean(found, axis=0) - theta) / error).max() < 4.5


def test_operations_of_a_layer():
    """Two operations a weight, output and sample; by transforms far fewer."""
    w, x = jnp.ones((300, 200)), jnp.ones((2, 300))
    of = (lambda w, x: jnp.tanh(x @ w)[:, :3]), w, x
    assert operations(*of, Sketch("count_sketch", 64)) == 2 * 3 * 300 * 200
    transforms = 2.5 * (1 + 3) * 64 * 6 + 4 * 3 * 64
    assert operations(*of, Sketch("tensor_sketch", 64)) == transforms
    assert operations(*of, Sketch("count_sketch", 300 * 200)) == 2 * 3 * 300 * 200


def test_gram_in_single_precision():
    """Over several panels, next to the product in double."""
    z = np.random.default_rng(0).normal(size=(30, 10_000)).astype(np.float32)
    exact = z.astype(np.float64) @ z.T.astype(np.float64)
    assert gram(z).dtype == np.float64
    np.testing.assert_allclose(gram(z), exact, rtol=1e-5, atol=1e-5 * exact.max())
    np.testing.assert_allclose(gram(z.astype(np.float64)), exact, rtol=1e-12, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_leading_directions_leave_less_to_chance():
    """Patches that lie in few directions: no error where the projection keeps them."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 64))
    w, out = jnp.asarray(rng.normal(size=(64, 3)) / 8), rng.normal(size=(3, 2))
    x = jnp.asarray(rng.normal(size=(20, 4)) @ basis)

    def apply_fn(w, x):
        return jnp.tanh(x @ w) @ out

    theta = oracle.explicit(apply_fn, w, x)
    z = sketched_jacobian(apply_fn, w, x, Sketch("kronecker", 24))
    np.testing.assert_allclose(z @ z.T, theta, rtol=1e-5, atol=1e-5 * theta.max())
