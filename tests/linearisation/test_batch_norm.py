"""BatchNorm in training mode: what is predicted of it, where that is exact and where not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import normalised
from ttp_jax import prediction
from ttp_jax.linearisation import batch_norm_prediction as predicted
from ttp_jax.reading import Readings
from ttp_jax.types import BatchNorm, InputError

pytestmark = pytest.mark.usefixtures("x64")


def centring(*, n=12, m=0, seed=0):
    """A linear model whose first part is trained with the mean of the batch taken out."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    params = {"first": {"a": draw(5, 3)}, "second": {"b": draw(5, 3)}}
    x, y = draw(n + m, 5), rng.integers(0, 3, n + m)

    def infer(w, mean, x):
        return x @ w["first"]["a"] - mean + jnp.tanh(x) @ w["second"]["b"]

    def train(w, mean, x):
        own = (x @ w["first"]["a"]).mean(axis=0)
        return infer(w, own, x), 0.5 * mean + 0.5 * own

    stats = (x[:n] @ params["first"]["a"]).mean(axis=0)
    return ttp.Task(
        apply_fn=lambda w, x: infer(w, stats, x),
        params=params,
        x=x[:n],
        y=y[:n],
        batch_norm=BatchNorm(stats, train, infer, 0.5),
        held_out=(x[n:], y[n:]) if m else None,
    )


@pytest.mark.parametrize(
    "sgd",
    [
        ttp.SGD(0.1, 0.8, True),
        pytest.param(ttp.SGD(0.1, 0.5, weight_decay=0.05), marks=pytest.mark.slow),
    ],
)
def test_a_linear_model_that_takes_out_the_mean_is_predicted_exactly(sgd):
    task = centring(m=4)
    real = ttp.finetune(task, sgd, steps=20)
    found = ttp.predict(task, sgd, steps=20)
    # The loss in training mode; what is read lags behind by the running mean.
    np.testing.assert_allclose(found.loss[:-1], real.batch_loss, rtol=1e-10)
    assert found.held_out is not None
    assert found.trust is not None
    assert found.trust.gap < 1e-10
    assert "cosine of 1.00" in found.trust.reason
    assert found.trust.score == pytest.approx(1, abs=1e-6)


def test_the_centred_kernel_is_that_of_centred_outputs():
    rng = np.random.default_rng(1)
    n, m, c = 4, 2, 3
    J = rng.normal(size=(2, (n + m) * c, 50))
    mean = np.kron(np.vstack([np.eye(n), np.zeros((m, n))]), np.eye(c))
    take_out = np.eye((n + m) * c) - np.kron(np.ones((n + m, n)) / n, np.eye(c)) @ mean.T
    H = take_out @ J[0]
    expected = (0.7 * H @ H.T + J[1] @ J[1].T)[: n * c]
    shares = np.stack([j @ j.T for j in J])
    np.testing.assert_allclose(predicted.centred(shares, n, c, 0.7), expected, atol=1e-12)


def test_statistics_are_the_mean_of_those_of_the_batches():
    task, sgd = normalised.task(), ttp.SGD(0.1, batch_size=4)
    found = predicted.statistics(task, task.params, sgd, seed=2)
    z = np.asarray(task.x @ task.params["a"])[sgd.batches(task.n, 4, 2)]
    np.testing.assert_allclose(found["mean"], z.mean(1).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["var"], z.var(1).mean(0), rtol=1e-12)


@pytest.mark.slow
def test_a_curve_begins_where_it_is_read_by_the_statistics_of_the_start():
    task, sgd = normalised.task(m=3), ttp.SGD(0.01, batch_size=4)
    like = predicted.settled(task, sgd, seed=0)
    flat = Readings(np.ones(3), np.full(3, 0.5))
    read = np.array([0, 1, 200])
    first, second = predicted.settling(task, like, (flat, flat), read)
    real = ttp.finetune(task, sgd, steps=1)
    settled = ttp.finetune(like.task, sgd, steps=1)
    assert first.loss[0] == pytest.approx(real.loss[0] / settled.loss[0])
    assert second.loss[0] == pytest.approx(real.held_out.loss[0] / settled.held_out.loss[0])
    assert first.loss[-1] == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_the_verdict_knows_that_it_is_an_approximation():
    task, sgd = normalised.task(), ttp.SGD(0.05, 0.5, batch_size=4)
    found = ttp.predict(task, sgd, steps=20)
    like = predicted.settled(task, sgd, seed=0)
    assert found.trust is not None
    assert f"cosine of {like.cosine:.2f}" in found.trust.reason
    assert like.cosine < 0.999
    assert found.trust.score <= like.cosine**2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "flow"}, "got solver 'flow'"),
        ({"kernel": "count_sketch"}, "got a kernel"),
        ({"relinearize": 0.5}, "got relinearize"),
    ],
)
def test_what_does_not_go_with_it(options, said):
    task = centring()
    with pytest.raises(InputError, match=said):
        prediction.cost_ahead(task, ttp.SGD(0.1), steps=4, **options)
    viewed = dataclasses.replace(task, views=lambda epoch: task.x)
    with pytest.raises(InputError, match="got views"):
        prediction.cost_ahead(viewed, ttp.SGD(0.1), steps=4)
