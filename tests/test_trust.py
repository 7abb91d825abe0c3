"""Stability and gap against explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import chunks, losses, outputs, trust


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_largest_curvature_is_that_of_the_weight_space_hessian(loss):
    task = linear.task(loss)
    J, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    y = jnp.asarray(task.targets)

    def weight_loss(w):  # linear model: its Hessian is exactly the Gauss-Newton matrix
        return losses.mean(loss, (f0.reshape(-1) + J @ (w - w0)).reshape(f0.shape), y)

    expected = np.linalg.eigvalsh(jax.hessian(weight_loss)(w0)).max()
    found = trust.largest_curvature(J @ J.T, f0, task.targets, loss=loss, iterations=400)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_moved_weights_are_explicit_ones():
    task = linear.task("mse")
    J, w0 = linear.jacobian(task)
    alpha = np.random.default_rng(0).normal(size=(task.n, task.c))
    w = outputs.moved_weights(
        task.apply_fn, task.params, task.x, alpha, [(0.25, task.params)]
    )
    flat = jax.flatten_util.ravel_pytree(w)[0]
    np.testing.assert_allclose(flat, 0.75 * w0 - J.T @ alpha.reshape(-1), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_chunks_do_not_show(monkeypatch):
    task = linear.task("mse", n=11)
    alpha = np.arange(33.0).reshape(task.n, task.c)

    def all_of_it():
        w = outputs.moved_weights(
            task.apply_fn, task.params, task.x, alpha, [(0.1, task.params)]
        )
        q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
        return [q0, *jax.tree.leaves(w)]

    whole = all_of_it()
    even = chunks.even
    monkeypatch.setattr(chunks, "even", lambda n, largest: even(n, 5))  # 4 + 4 + 3
    for a, b in zip(whole, all_of_it(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_linear_model_has_no_gap():
    curve = ttp.predict(linear.task("mse"), ttp.SGD(0.1, 0.9, weight_decay=0.1), steps=50)
    assert curve.trust.gap < 1e-10
    assert curve.trust.ok
    assert curve.trust.score > 0.95


@pytest.mark.usefixtures("x64")
def test_above_the_limit_it_warns_and_the_dynamics_grow():
    task = linear.task("mse")
    J, _ = linear.jacobian(task)
    limit = 2 / (np.linalg.eigvalsh(J @ J.T).max() / task.n)
    below, above = (ttp.predict(task, ttp.SGD(limit * k), steps=400) for k in (0.98, 1.02))
    assert below.trust.ok
    assert not above.trust.ok
    assert "UNSTABLE" in above.trust.reason
    assert above.trust.stability == pytest.approx(1.02, rel=1e-3)
    assert above.loss[-1] > above.loss[0]
    assert above.trust.score <= 0.5


@pytest.mark.usefixtures("x64")
def test_a_model_that_leaves_its_linearisation_is_not_trusted():
    """f = w^5 fits y = 32 from w = 1: the linear model steps far beyond."""
    task = ttp.Task(
        apply_fn=lambda w, x: x * w**5,
        params=jnp.ones((1, 1)),
        x=jnp.ones((1, 1)),
        y=np.full((1, 1), 32.0),
        loss="mse",
    )
    curve = ttp.predict(task, ttp.SGD(0.01), steps=200, mend=0)
    assert curve.trust.gap > 1
    assert not curve.trust.ok
    assert "the loss is 1.5e+03 times the predicted one" in curve.trust.reason
    assert not ttp.predict(task, ttp.SGD(0.01), steps=200).trust.ok
