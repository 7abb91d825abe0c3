"""Proxies of the literature against explicit Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax import proxies
from ttp_jax.kernel.choice import Kernel


def per_sample_gradients(task):
    """``dl_i/dw [n, p]`` one after the other, and ``w [p]``."""
    flat, unravel = jax.flatten_util.ravel_pytree(task.params)

    def loss(w, x, y):
        f = task.apply_fn(unravel(w), x[None])[0]
        if task.loss == "mse":
            return 0.5 * jnp.sum((f - y) ** 2)
        return -jnp.sum(y * jax.nn.log_softmax(f))

    rows = [
        jax.grad(loss)(flat, x, y)
        for x, y in zip(task.x, jnp.asarray(task.targets), strict=True)
    ]
    return np.array(rows), np.asarray(flat)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_of_gradients(loss):
    task = bent(loss)
    rows, w = per_sample_gradients(task)
    mean = rows.mean(axis=0)
    slope = proxies.gradient(task)
    unravel = jax.flatten_util.ravel_pytree(task.params)[1]
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(slope)[0], mean, rtol=1e-10)
    parts = unravel(jnp.asarray(mean))
    lengths = sum(np.linalg.norm(parts[name]) for name in parts)
    assert proxies.gradient_norm(task, slope).value == pytest.approx(lengths, rel=1e-10)
    assert proxies.snip(task, slope).value == pytest.approx(
        np.abs(w * mean).sum(), rel=1e-10
    )
    signs = np.abs(np.sign(rows).sum(axis=0)).sum()
    assert proxies.grad_sign(task).value == signs
    # The length of the whole gradient is also what the kernel says it is.
    theta = Kernel().of(task).theta
    f = np.asarray(task.apply_fn(task.params, task.x))
    g = f - task.targets if loss == "mse" else np.asarray(jax.nn.softmax(f)) - task.targets
    g = g.reshape(-1) / task.n
    assert np.linalg.norm(mean) ** 2 == pytest.approx(g @ theta @ g, rel=1e-10)


@pytest.mark.usefixtures("x64")
def test_of_the_kernel():
    task = linear.task("mse", n=5, d=7)
    j, _ = linear.jacobian(task)
    theta = j @ j.T
    summed = j.reshape(5, 3, -1).sum(axis=1)
    singular = np.linalg.svd(summed, compute_uv=False)
    found = proxies.condition_number(theta, 3)
    assert found.value == pytest.approx((singular[0] / singular[-1]) ** 2, rel=1e-8)
    assert not found.larger_is_better
    trace = proxies.mean_eigenvalue(theta, 3)
    assert trace.value == pytest.approx(np.mean(np.sum(j**2, axis=1)), rel=1e-12)
    # more samples than weights an output: nothing to divide by
    many = linear.task("mse", n=12, d=7)
    j, _ = linear.jacobian(many)
    assert proxies.condition_number(j @ j.T, 3).value == np.inf


def test_all_say_their_side_and_cost():
    task = linear.task("cross_entropy")
    slope, theta = proxies.gradient(task), np.eye(task.n * task.c)
    found = [
        proxies.gradient_norm(task, slope),
        proxies.snip(task, slope),
        proxies.grad_sign(task),
        proxies.condition_number(theta, task.c),
        proxies.mean_eigenvalue(theta, task.c),
    ]
    assert len({proxy.name for proxy in found}) == 5
    assert [p.forward_passes for p in found] == [36, 36, 36, 36, 12 * 7]
    assert found[3].value == found[4].value == 1
    assert isinstance(task, ttp.Task)
