"""Real training in its variants, against loops written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear, normalised
from ttp_jax import losses
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.types import InputError

pytestmark = pytest.mark.usefixtures("x64")


def loss_of(f, task):
    return float(losses.mean(task.loss, f, jnp.asarray(task.targets)))


def test_an_epoch_is_trained_on_its_own_views():
    task = linear.task("cross_entropy", m=3)
    x = np.asarray(task.x)
    views = lambda e: x + 0.5 * np.random.default_rng(e).normal(size=x.shape)  # noqa: E731
    sgd = ttp.SGD(0.1, batch_size=5)
    found = ttp.finetune(dataclasses.replace(task, views=views), sgd, steps=7, seed=2)
    w = task.params
    stream, y = sgd.batches(task.n, 7, 2), jnp.asarray(task.targets)
    for k in range(7):
        # Two batches of 5 out of 12 make an epoch.
        batch = jnp.asarray(views(k // 2)[stream[k]])
        loss = lambda w, batch=batch, k=k: losses.mean(  # noqa: E731
            task.loss, task.apply_fn(w, batch), y[stream[k]]
        )
        w = jax.tree.map(lambda a, g: a - 0.1 * g, w, jax.grad(loss)(w))
        read = loss_of(task.apply_fn(w, task.x), task)
        assert found.loss[k + 1] == pytest.approx(read, rel=1e-12)
    held_out = task.parts[1]
    end = loss_of(task.apply_fn(w, held_out.x), held_out)
    assert found.held_out is not None
    assert found.held_out.loss[-1] == pytest.approx(end, rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_batch_norm_trains_by_its_batches_and_is_read_by_running_statistics(batch_size):
    task = normalised.task(m=3)
    sgd = ttp.SGD(0.1, 0.5, batch_size=batch_size)
    found = ttp.finetune(task, sgd, steps=5, seed=1)
    w, stats = task.params, task.batch_norm.stats
    v = jax.tree.map(jnp.zeros_like, w)
    stream, y = sgd.batches(task.n, 5, 1), jnp.asarray(task.targets)
    assert found.loss[0] == pytest.approx(loss_of(task.apply_fn(w, task.x), task))
    for k in range(5):
        rows = np.arange(task.n) if stream is None else stream[k]

        def loss(w, stats=stats, rows=rows):
            f, stats = normalised.train(w, stats, task.x[rows])
            return losses.mean(task.loss, f, y[rows]), stats

        (value, stats), g = jax.value_and_grad(loss, has_aux=True)(w)
        v = jax.tree.map(lambda v, g: 0.5 * v + g, v, g)
        w = jax.tree.map(lambda w, v: w - 0.1 * v, w, v)
        read = loss_of(normalised.infer(w, stats, task.x), task)
        assert found.batch_loss[k] == pytest.approx(float(value), rel=1e-12)
        assert found.loss[k + 1] == pytest.approx(read, rel=1e-12)
    assert found.held_out is not None


def test_neither_goes_with_masks():
    views = dataclasses.replace(linear.task("mse"), views=lambda epoch: None)
    for task in (views, normalised.task()):
        with pytest.raises(InputError, match="take plain steps, got sparsity"):
            ttp.finetune(task, ttp.SGD(0.1), steps=2, sparsity=Sparsity(0.5))


def test_views_must_fit():
    task = linear.task("mse")
    sgd = ttp.SGD(0.1)
    shorter = dataclasses.replace(task, views=lambda epoch: task.x[1:])
    with pytest.raises(
        InputError, match=r"shape of x, \[12, 7\], got \[11, 7\] in epoch 0"
    ):
        ttp.finetune(shorter, sgd, steps=2)
    broken = dataclasses.replace(task, views=lambda epoch: np.asarray(task.x) * np.nan)
    with pytest.raises(InputError, match="the views of epoch 0 must be finite"):
        ttp.finetune(broken, sgd, steps=2)
