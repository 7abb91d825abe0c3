"""The optimiser's description, its schedules and its stream of batches."""

import numpy as np
import optax
import pytest

from ttp_jax import sampling, schedules
from ttp_jax.optimizers import SGD, Adam
from ttp_jax.types import InputError


def test_a_rate_is_an_array_whatever_it_came_as():
    np.testing.assert_array_equal(schedules.as_array(0.1, 3), [0.1, 0.1, 0.1])
    np.testing.assert_array_equal(schedules.as_array([0.3, 0.2, 0.0], 3), [0.3, 0.2, 0.0])
    cosine = optax.cosine_decay_schedule(0.1, 10)
    np.testing.assert_allclose(
        schedules.as_array(cosine, 10), schedules.cosine(0.1, 10), rtol=1e-6
    )


def test_cosine_with_warmup():
    rates = schedules.cosine(1.0, 6, warmup_steps=2, final_fraction=0.1)
    np.testing.assert_allclose(rates[:3], [0.5, 1.0, 1.0])
    np.testing.assert_allclose(rates[4], 0.1 + 0.9 * 0.5)
    with pytest.raises(InputError, match="warm-up"):
        schedules.cosine(1.0, 6, warmup_steps=6)


@pytest.mark.parametrize(
    "rate", [0.0, -1.0, np.nan, [0.1, 0.1], [0.1, -0.1, 0.1], [0.0] * 3]
)
def test_refuses_rates(rate):
    with pytest.raises(InputError):
        schedules.as_array(rate, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"nesterov": True},
        {"weight_decay": -1.0},
        {"weight_decay": np.nan},
        {"batch_size": 0},
    ],
)
def test_refuses_descriptions(options):
    with pytest.raises(InputError):
        SGD(**{"learning_rate": 0.1, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"eps": 0.0},
        {"eps": np.inf},
        {"weight_decay": -1.0},
        {"batch_size": 0},
    ],
)
def test_refuses_descriptions_of_adam(options):
    with pytest.raises(InputError):
        Adam(**{"learning_rate": 0.1, **options})


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("eta_wd", [0.0, 0.3])
def test_stability_of_adam_is_where_a_mode_starts_to_grow(beta1, eta_wd):
    adam = Adam(0.1, beta1, weight_decay=eta_wd)

    def growth(x):  # spectral radius of (r, u) under eta lam = x, eta = 1
        rest = 1 - eta_wd
        return np.abs(
            np.linalg.eigvals([[rest - (1 - beta1) * x, -beta1], [(1 - beta1) * x, beta1]])
        ).max()

    limit = (1 - adam.stability(0.0, 1.0)) * adam.stability_limit()
    assert growth(limit * 0.999) < 1 < growth(limit * 1.001)
    np.testing.assert_allclose(adam.stability(limit, 1.0), 1.0)


def test_refuses_a_batch_larger_than_the_set():
    with pytest.raises(InputError, match=r"number of samples \(10\), got 11"):
        SGD(0.1, batch_size=11).batches(10, 5, 0)


@pytest.mark.parametrize("kind", ["shuffle", "without_replacement", "with_replacement"])
def test_streams(kind):
    stream = sampling.batches(10, 4, 7, kind, seed=1)
    assert stream.shape == (7, 4)
    assert stream.min() >= 0
    assert stream.max() < 10
    np.testing.assert_array_equal(stream[:3], sampling.batches(10, 4, 3, kind, seed=1))
    assert (stream != sampling.batches(10, 4, 7, kind, seed=2)).any()
    if kind != "with_replacement":
        assert all(len(set(batch)) == 4 for batch in stream)
    if kind == "shuffle":
        assert all(len(set(stream[k : k + 2].ravel())) == 8 for k in (0, 2, 4))


def test_streams_are_uniform():
    for kind in ("shuffle", "without_replacement", "with_replacement"):
        counts = np.bincount(sampling.batches(10, 3, 20_000, kind, 0).ravel(), minlength=10)
        assert np.abs(counts / 6000 - 1).max() < 0.06  # over four standard deviations


def test_streams_do_not_depend_on_versions():
    stream = sampling.batches(5, 2, 3, "shuffle", 0)
    np.testing.assert_array_equal(stream, [[0, 3], [4, 2], [0, 2]])


@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)],
)
def test_stability_limit_is_where_a_mode_starts_to_grow(momentum, nesterov):
    sgd = SGD(0.1, momentum, nesterov)

    def growth(x):  # spectral radius of (r, u) under eta lam = x, eta = 1
        a, b = (1 + momentum, momentum**2) if nesterov else (1.0, momentum)
        return np.abs(np.linalg.eigvals([[1 - a * x, -b], [x, momentum]])).max()

    limit = sgd.stability_limit()
    assert growth(limit * 0.999) < 1 < growth(limit * 1.001)


def test_batches_have_the_classes_evenly_and_an_epoch_all_samples():
    y = np.repeat(np.arange(5), 12)
    batches = sampling.evenly_mixed(y, 5, 24, seed=3)
    for epoch in (batches[:12], batches[12:]):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(60))
    counts = np.array([np.bincount(y[batch], minlength=5) for batch in batches])
    assert counts.min() >= 0
    assert counts.max() <= 2
    assert np.abs(np.cumsum(counts[:12], axis=0) - np.arange(1, 13)[:, None]).max() <= 1
    assert not np.array_equal(batches, sampling.evenly_mixed(y, 5, 24, seed=4))
