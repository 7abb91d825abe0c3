"""The kernel that Adam sees, against the explicit Jacobian."""

import jax
import numpy as np
import pytest

import ttp_jax as ttp
from tests.kernel import oracle
from tests.kernel.test_empirical import UNUSUAL, _unusual
from ttp_jax import sampling
from ttp_jax.preconditioning import preconditioned


def _jacobian(apply_fn, params, x):
    j = jax.jacrev(lambda p: apply_fn(p, x))(params)
    n, c = apply_fn(params, x).shape
    return np.concatenate(
        [np.asarray(v).reshape(n, c, -1) for v in jax.tree.leaves(j)], axis=2
    )


def _flat(tree):
    return np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])


def _task(apply_fn, params, x):
    c = apply_fn(params, x).shape[1]
    y = np.random.default_rng(0).normal(size=(len(x), c))
    return ttp.Task(apply_fn, params, x, y, "mse")


MODELS = {
    "resnet": lambda: oracle.resnet(7),
    "mlp": lambda: oracle.mlp(7),
    **{name: lambda name=name: _unusual(name) for name in UNUSUAL if name != "cond"},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_equals_the_explicit_jacobian(name, batch_size):
    task = _task(*MODELS[name]())
    adam = ttp.Adam(1e-3, eps=1e-3, batch_size=batch_size)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    places, shares = [f0, f0 + 0.3], np.array([0.25, 0.75])
    made = preconditioned(task, adam, places, shares)
    j = _jacobian(task.apply_fn, task.params, task.x)
    v = 0.0
    for f, share in zip(places, shares, strict=True):
        g = np.einsum("nc,ncp->np", f - task.targets, j)
        spread = 0.0
        if batch_size:
            phi = sampling.variance_factor(task.n, batch_size, adam.sampling)
            spread = phi / batch_size * g.var(0)
        v = v + share * (g.mean(0) ** 2 + spread)
    scale = 1 / (np.sqrt(v) + adam.eps)
    used = np.abs(j).sum((0, 1)) > 0
    np.testing.assert_allclose(_flat(made.scale)[used], scale[used], rtol=1e-10)
    j = j.reshape(task.n * task.c, -1)
    np.testing.assert_allclose(made.theta, (j * scale) @ j.T, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(made.energy, (scale * v).sum(), rtol=1e-10)
