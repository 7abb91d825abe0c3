"""Curves of many samples from the kernel of few, against the kernel of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax.linearisation import extrapolation
from ttp_jax.types import InputError


def apply_fn(params, x):
    return x @ params


def task(n, *, loss="cross_entropy", d=300, c=3, seed=0):
    """Features whose variances fall as a power law, labels of a teacher in them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7
    teacher = rng.normal(size=(d, c))
    y = np.argmax(x @ teacher + 0.3 * rng.normal(size=(n, c)), axis=1)
    params = rng.normal(size=(d, c)) / 2
    return ttp.Task(apply_fn, jnp.asarray(params), jnp.asarray(x), y, loss=loss)


def test_balanced_order():
    classes = np.repeat([0, 1, 2], [60, 30, 10])
    order = extrapolation.balanced_order(classes, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for start in range(0, 100, 20):
        count = np.bincount(classes[order[start : start + 20]], minlength=3)
        np.testing.assert_allclose(count, [12, 6, 2], atol=1)


def test_weights_reproduce_what_is_quadratic_in_one_over_m():
    at = 1 / np.array([40.0, 20, 10])
    weights = extrapolation._weights(at, 1 / 200)
    value = lambda x: 2 - 3 * x + 5 * x**2  # noqa: E731
    assert weights @ value(at) == pytest.approx(value(1 / 200), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_all_samples_give_the_curve_of_all(loss):
    with jax.enable_x64(True):
        all_of = linear.task(loss, n=36)
        sgd = ttp.SGD(learning_rate=0.05, momentum=0.5, weight_decay=0.03)
        common = {"steps": 20, "every": 4}
        expected = ttp.predict(all_of, sgd, **common)
        found = ttp.predict(all_of, sgd, kernel_samples=36, **common)
        # A sketch that leaves nothing out changes nothing.
        whole = ttp.kernel.choice.Kernel("tensor_sketch", dimension=10_000)
        sketched = ttp.predict(all_of, sgd, kernel_samples=36, kernel=whole, **common)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-10)
    np.testing.assert_allclose(found.accuracy, expected.accuracy, atol=1e-12)
    np.testing.assert_allclose(sketched.loss, expected.loss, rtol=1e-10)
    assert found.trust.doubt < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_few_samples_come_near_the_curve_of_all(loss):
    whole = task(800, loss=loss)
    sgd = ttp.SGD(learning_rate=0.1, momentum=0.9)
    common = {"steps": 200, "every": 10}
    every = ttp.predict(whole, sgd, **common)
    expected = every.loss
    few = extrapolation.few(whole, 200, 0)
    as_it_is = ttp.predict(few, sgd, **common).loss
    found = ttp.predict(whole, sgd, kernel_samples=200, **common)
    off, before = abs(np.log(found.loss / expected)), abs(np.log(as_it_is / expected))
    # The draw of 200 is itself off by a few per cent at the start.
    assert off.max() < 0.35 * before.max()
    # Passes fall with the samples, products of Jacobians with their square.
    assert every.flops / 16 < found.flops < every.flops / 4


def test_too_few_samples_are_warned_of():
    """By heart within the run: the few end at a loss that says nothing of the many."""
    whole = task(800)
    sgd = ttp.SGD(learning_rate=1.0, momentum=0.9)
    curve = ttp.predict(whole, sgd, steps=400, every=20, kernel_samples=40)
    assert not curve.trust.ok
    assert "raise kernel_samples" in curve.trust.reason


@pytest.mark.slow
def test_a_shared_kernel_of_few():
    whole = linear.task("cross_entropy", n=36)
    sgd = ttp.SGD(learning_rate=0.05, batch_size=6)
    kernel = ttp.kernel.choice.Kernel().of(extrapolation.few(whole, 20, 3))
    common = {"steps": 12, "every": 3, "seed": 3, "kernel_samples": 20}
    expected = ttp.predict(whole, sgd, **common)
    found = ttp.predict(whole, sgd, kernel=kernel, **common)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    with pytest.raises(
        InputError, match=r"that of this task, \[108, 108\], got \(60, 60\)"
    ):
        ttp.predict(whole, sgd, kernel=kernel, steps=12)


def test_refuses():
    whole = linear.task("mse", n=36)
    sgd = ttp.SGD(learning_rate=0.05)
    for count in (15, 37):
        with pytest.raises(InputError, match=rf"must lie in 16\.\.36 .* got {count}"):
            ttp.predict(whole, sgd, steps=5, kernel_samples=count)
    for options in ({"solver": "flow"}, {"paths": 3}, {"calibrate_steps": 2}):
        with pytest.raises(InputError, match="leave kernel_samples out"):
            ttp.predict(whole, sgd, steps=5, kernel_samples=20, **options)
