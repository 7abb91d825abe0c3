"""Adam of a model linear in its parameters: where nothing adapts it is real Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import outputs
from ttp_jax.dynamics.adaptive import adapted
from ttp_jax.finetune import finetune
from ttp_jax.linearisation import calibration
from ttp_jax.linearisation.preconditioning import (
    along_the_path,
    moved_weights,
    preconditioned,
)
from ttp_jax.training.plain import optax_of

STEPS = 30


def outputs_at_the_start(task, adam):
    j, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    return f0, (j @ w0).reshape(f0.shape) if adam.decay_toward == "zero" else None


def explicit(task, adam, *, seed):
    """The same in the space of the weights, with the explicit Jacobian."""
    j, w0 = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    made = preconditioned(task, adam, [f0], np.ones(1))
    scale, _ = jax.flatten_util.ravel_pytree(made.scale)
    m, r, move = np.zeros_like(w0), 0.0, np.zeros_like(w0)
    curve = []
    stream = adam.batches(task.n, STEPS, seed)
    for t, eta in enumerate(adam.learning_rates(STEPS), 1):
        f = f0 + (j @ move).reshape(f0.shape)
        curve.append(f)
        a = np.zeros_like(f)
        soft = np.asarray(jax.nn.softmax(f)) if task.loss == "cross_entropy" else f
        for row in range(task.n) if stream is None else stream[t - 1]:
            a[row] += (soft - task.targets)[row]
        g = a.reshape(-1) @ j / (adam.batch_size or task.n)
        m = adam.beta1 * m + (1 - adam.beta1) * g
        r = adam.beta2 * r + (1 - adam.beta2) * (scale * g**2).sum() / made.energy
        s = 1 + made.adaptive * (np.sqrt(r / (1 - adam.beta2**t)) - 1)
        pulled = w0 + move if adam.decay_toward == "zero" else move
        step = scale * m / (1 - adam.beta1**t) / s + adam.weight_decay * pulled
        move = move - eta * step
    return made, np.array(curve), w0 + move


OPTIONS = [
    {},
    {"batch_size": 5},
    {"batch_size": 5, "sampling": "with_replacement", "weight_decay": 0.3},
    {"weight_decay": 0.3, "decay_toward": "initial", "beta1": 0.5, "beta2": 0.9},
]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("options", OPTIONS)
def test_where_nothing_adapts_it_is_real_adam(loss, options):
    task = linear.task(loss)
    # Of such an eps the roots of the moments are a billionth.
    eps = 1e9
    rates = [0.05 * eps, np.linspace(0.1, 0, STEPS) * eps]
    rates += [optax.cosine_decay_schedule(0.08 * eps, STEPS)]
    for rate in rates:
        decay = options.get("weight_decay", 0) / eps
        adam = ttp.Adam(rate, eps=eps, **{**options, "weight_decay": decay})
        f0, q0 = outputs_at_the_start(task, adam)
        found, made = along_the_path(task, adam, f0, q0, steps=STEPS, seed=3)
        measured = finetune(task, adam, steps=STEPS, seed=3)
        assert made.adaptive < 1e-8
        np.testing.assert_allclose(found.path.loss, measured.loss, rtol=1e-7)
        np.testing.assert_allclose(found.path.accuracy, measured.accuracy, atol=1e-10)
        assert measured.loss[-1] < 0.9 * measured.loss[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("options", OPTIONS)
def test_outputs_move_as_the_weights_do(loss, options):
    task = linear.task(loss)
    adam = ttp.Adam(0.02, eps=1e-3, **options)
    made, curve, w = explicit(task, adam, seed=2)
    f0, q0 = outputs_at_the_start(task, adam)
    found = adapted(
        made.theta,
        f0,
        task.targets,
        adam,
        loss=loss,
        steps=STEPS,
        energy=made.energy,
        adaptive=made.adaptive,
        q0=q0,
        seed=2,
        keep=(0, 3, STEPS - 1),
    )
    np.testing.assert_allclose(found.kept, curve[[0, 3, -1]], atol=1e-10)
    np.testing.assert_allclose(
        found.path.outputs.reshape(-1) - f0.reshape(-1),
        linear.jacobian(task)[0] @ (w - linear.jacobian(task)[1]),
        atol=1e-10,
    )
    moved = moved_weights(task, made, found.path.alpha, found.path.shrink)
    moved, _ = jax.flatten_util.ravel_pytree(moved)
    np.testing.assert_allclose(moved, w, atol=1e-10)
    assert 0.5 < made.adaptive < 1
    assert found.rates.std() > 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch_size", [5, None])
def test_real_adam_on_a_linear_model_is_met_nearly(batch_size):
    """The error of second moments that are fixed but for their size, and nothing else."""
    task = linear.task("cross_entropy", n=40, d=20)
    adam = ttp.Adam(0.02, batch_size=batch_size)
    f0, q0 = outputs_at_the_start(task, adam)
    found, _ = along_the_path(task, adam, f0, q0, steps=100, seed=1)
    measured = finetune(task, adam, steps=100, seed=1)
    off = np.abs(np.log(found.path.loss / measured.loss)).max()
    assert measured.loss[-1] < 0.3 * measured.loss[0]
    assert off < (0.05 if batch_size else 0.1), off


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("toward", ["zero", "initial"])
def test_a_step_that_is_timed_is_the_step_of_optax(toward):
    task = linear.task("cross_entropy")
    adam = ttp.Adam(0.1, weight_decay=0.2, decay_toward=toward)
    step = calibration.step_in_weights(task, adam)
    batch_loss = outputs.batch_loss(task)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    real = {"ours": optax_of(adam, 5, task.params)}
    if toward == "zero":
        real["theirs"] = optax.adamw(0.1, weight_decay=0.2)
    for optimizer in real.values():
        w, state = task.params, calibration.at_rest(adam, task.params)
        there, kept = task.params, optimizer.init(task.params)
        for _ in range(5):
            gradient = jax.grad(batch_loss)(there, x, y, None)
            updates, kept = optimizer.update(gradient, kept, there)
            there = optax.apply_updates(there, updates)
            w, state = step(w, state, 0.1, x, y, None)
            for a, b in zip(jax.tree.leaves(w), jax.tree.leaves(there), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12)
