"""Curves on samples that are not trained on."""

import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax import bands
from ttp_jax.dynamics.simulate import OTHER_SEEDS
from ttp_jax.kernel.choice import Kernel
from ttp_jax.prediction import cost_ahead
from ttp_jax.types import Curve

STEPS = 30


def without(task):
    return dataclasses.replace(task, held_out=None)


def same(found, wanted, **tolerance):
    np.testing.assert_array_equal(found.steps, wanted.steps)
    np.testing.assert_allclose(found.loss, wanted.loss, **tolerance)
    np.testing.assert_allclose(found.accuracy, wanted.accuracy, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "sgd", "options"),
    [
        ("cross_entropy", ttp.SGD(0.2, 0.9), {}),
        ("mse", ttp.SGD(0.05, 0.9, True, 0.03, 5, "with_replacement"), {}),
        (
            "cross_entropy",
            ttp.SGD(0.1, 0.9, True, 0.05, 5, "without_replacement", "initial"),
            {},
        ),
        (
            "cross_entropy",
            ttp.SGD(np.linspace(0.2, 0.01, STEPS), 0.9, True, 0.03, 5, "shuffle"),
            {"calibrate_steps": 7, "paths": 3},
        ),
    ],
)
def test_of_a_linear_model_it_is_the_real_one(loss, sgd, options):
    task = linear.task(loss, m=9)
    measured = ttp.finetune(task, sgd, steps=STEPS, seed=2, every=4)
    found = ttp.predict(task, sgd, steps=STEPS, seed=2, every=4, **options)
    same(found.held_out, measured.held_out, rtol=1e-9, atol=1e-10)
    same(found, measured, rtol=1e-9, atol=1e-10)
    # What is trained on is learnt, what is held out is other samples.
    assert found.loss[-1] < 0.9 * found.loss[0]
    assert np.abs(found.held_out.loss - found.loss).max() > 0.1
    np.testing.assert_array_equal(found.held_out.seconds, found.seconds)
    assert ttp.best_step(found).steps == ttp.best_step(measured).steps


@pytest.mark.usefixtures("x64")
def test_equals_the_closed_form_of_explicit_jacobians():
    """``f(x) = f_0(x) - J(x) J^T Theta^-1 (1 - (1 - eta Theta/n)^T) (f_0 - y)``."""
    task = linear.task("mse", m=6, d=20)
    rate, (trained, held_out) = 0.2, task.parts
    J, _ = linear.jacobian(trained)
    J_held_out, _ = linear.jacobian(held_out)
    theta = J @ J.T
    start = np.asarray(task.apply_fn(task.params, task.x)) - task.targets
    lam, modes = np.linalg.eigh(theta)
    assert lam.min() > 1e-3
    learnt = (1 - (1 - rate * lam / task.n) ** STEPS) / lam
    alpha = modes @ (learnt * (modes.T @ start.ravel()))
    f = np.asarray(task.apply_fn(task.params, held_out.x))
    f = f - (J_held_out @ J.T @ alpha).reshape(f.shape)
    found = ttp.predict(task, ttp.SGD(rate), steps=STEPS).held_out
    wanted = 0.5 * np.mean(np.sum((f - held_out.targets) ** 2, axis=1))
    assert found.loss[-1] == pytest.approx(wanted, rel=1e-9)
    hits = f.argmax(axis=1) == held_out.targets.argmax(axis=1)
    assert found.accuracy[-1] == pytest.approx(np.mean(hits))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"calibrate_steps": 5, "paths": 4}])
def test_what_is_trained_on_does_not_see_it(options):
    alone, task = bent(), bent_with_held_out()
    sgd = ttp.SGD(0.3, 0.9, True, 0.01, 5)
    common = {"steps": STEPS, "every": 3, "seed": 4}
    one = ttp.predict(task, sgd, **common, **options)
    other = ttp.predict(alone, sgd, **common, **options)
    same(one, other, rtol=1e-10)
    for number in ("score", "stability", "gap", "early_gap"):
        wanted = getattr(other.trust, number)
        assert getattr(one.trust, number) == pytest.approx(wanted, rel=1e-8)
    assert one.trust.reason == other.trust.reason
    assert one.trust.gap > 0.01
    if options.get("paths"):
        for level, values in other.loss_quantiles.items():
            np.testing.assert_allclose(one.loss_quantiles[level], values, rtol=1e-10)
    real = [ttp.finetune(of, sgd, **common) for of in (task, alone)]
    np.testing.assert_array_equal(real[0].loss, real[1].loss)
    assert real[0].flops == real[1].flops
    assert other.held_out is None
    assert real[1].held_out is None
    # It costs its part of the kernel and of the dynamics.
    assert one.flops > other.flops
    costs = [cost_ahead(of, sgd, steps=STEPS) for of in (task, alone)]
    assert costs[0].flops > 1.3 * costs[1].flops
    assert costs[0].gram_bytes == pytest.approx(costs[1].gram_bytes * (31 / 20) ** 2)


def bent_with_held_out():
    rng = np.random.default_rng(1)
    held_out = rng.normal(size=(11, 5)), rng.integers(0, 3, 11)
    return dataclasses.replace(bent(), held_out=held_out)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_kernel_a_step_is_training():
    """Of samples that are not trained on too; and larger pieces are as without them."""
    task, steps = bent_with_held_out(), 8
    sgd = ttp.SGD(0.3, 0.9, True, 0.03, 5)
    measured = ttp.finetune(task, sgd, steps=steps)
    found = ttp.predict(task, sgd, steps=steps, relinearize=1e-9, calibrate_steps=2)
    same(found.held_out, measured.held_out, rtol=1e-9)
    same(found, measured, rtol=1e-9)
    one, other = (
        ttp.predict(of, sgd, steps=steps, relinearize=0.3) for of in (task, without(task))
    )
    same(one, other, rtol=1e-9)
    assert one.trust.error == pytest.approx(other.trust.error, rel=1e-7)


@pytest.mark.usefixtures("x64")
def test_bands_are_quantiles_of_other_streams():
    task = linear.task("cross_entropy", m=9)
    sgd = ttp.SGD(0.1, 0.9, batch_size=4)
    common = {"steps": STEPS, "every": 10, "kernel": Kernel().of(task)}
    banded = ttp.predict(task, sgd, seed=2, paths=3, **common).held_out
    others = [
        ttp.predict(task, sgd, seed=2 + OTHER_SEEDS + k, **common).held_out
        for k in range(3)
    ]
    for name in ("loss", "accuracy"):
        values = np.stack([getattr(other, name) for other in others])
        for level, found in getattr(banded, f"{name}_quantiles").items():
            np.testing.assert_allclose(found, np.quantile(values, level, 0), atol=1e-10)
    assert sorted(banded.loss_quantiles) == [0.025, 0.15, 0.85, 0.975]


def curve(losses, every=10):
    loss = np.asarray(losses, float)
    steps = np.arange(len(loss)) * every
    read = Curve(steps, loss, loss, 0.5 * steps)
    return dataclasses.replace(read, loss=np.zeros(len(loss)), held_out=read)


def test_bands_from_other_curves_have_their_own_held_out():
    others = [curve([4, value, 2]) for value in (1, 2, 3)]
    banded = bands.from_curves(curve([4, 2, 2]), others)
    np.testing.assert_allclose(banded.loss_quantiles[0.85], 0)
    np.testing.assert_allclose(banded.held_out.loss_quantiles[0.85], [4, 2.7, 2])


@pytest.mark.parametrize(
    ("losses", "steps", "loss"),
    [
        ([3, 1, 2], 10, 1),
        ([3, 1, 1, 2], 10, 1),
        ([1, 2, 3], 0, 1),
        ([3, 2, 1], None, 1),
        ([3, 1, np.nan], 10, 1),
        ([3, 1, np.inf], 10, 1),
    ],
)
def test_best_step(losses, steps, loss):
    best = ttp.best_step(curve(losses))
    assert best.steps == steps
    assert best.seconds == (None if steps is None else 0.5 * steps)
    assert best.censored == (steps is None)
    assert best.loss == loss
    assert best.budget_steps == 10 * (len(losses) - 1)


def test_best_step_smoothed():
    assert ttp.best_step(curve([9, 1, 9, 4, 4, 5])).steps == 10
    assert ttp.best_step(curve([9, 1, 9, 4, 4, 5]), smoothing=2).steps == 40


def test_best_step_needs_held_out_samples():
    with pytest.raises(ttp.InputError, match="needs a curve on held-out samples"):
        ttp.best_step(curve([1, 2]).held_out)


@pytest.mark.parametrize(
    ("held_out", "says"),
    [
        ((np.ones((0, 7)), np.ones(0, int)), "held-out x and held-out y .*got 0 and 0"),
        ((np.ones((4, 7)), np.ones(3, int)), "held-out x and held-out y .*got 4 and 3"),
        ((np.ones((4, 6)), np.ones(4, int)), r"shape of those .*\(7,\), got \(6,\)"),
        ((np.full((4, 7), np.nan), np.ones(4, int)), "held-out x must be finite"),
        ((np.ones((4, 7)), np.full(4, 3)), r"0\.\.2 .*got 3\.\.3 in held-out y"),
        ((np.ones((4, 7)), np.ones((4, 2))), r"held-out y must be .*\[n, 3\]"),
    ],
)
def test_a_task_refuses(held_out, says):
    with pytest.raises(ttp.InputError, match=says) as error:
        dataclasses.replace(linear.task("mse"), held_out=held_out)
    assert "\n" not in str(error.value)


def test_labels_and_targets_go_together():
    task = dataclasses.replace(linear.task("mse"), held_out=(np.ones((4, 7)), np.eye(4, 3)))
    assert (task.n, task.m, task.joint.n) == (12, 4, 16)
    np.testing.assert_array_equal(task.joint.targets[12:], np.eye(4, 3))
    np.testing.assert_array_equal(task.joint.targets[:12], task.targets)
    assert without(task).joint.n == 12


@pytest.mark.parametrize(
    "options",
    [{"solver": "flow"}, {"solver": "moments"}, {"solver": "sde"}, {"kernel_samples": 16}],
)
def test_a_prediction_refuses(options, monkeypatch):
    task = linear.task("mse", n=16, m=4)
    monkeypatch.setattr(Kernel, "of", lambda *_, **__: pytest.fail("computed"))
    batch_size = None if options.get("solver") == "flow" else 4
    sampling = "with_replacement"
    with pytest.raises(ttp.InputError, match="held_out needs solver 'simulate'"):
        ttp.predict(
            task, ttp.SGD(0.1, batch_size=batch_size, sampling=sampling), steps=5, **options
        )


def test_a_kernel_must_have_all_samples():
    task = linear.task("mse", m=4)
    kernel = Kernel().of(without(task))
    says = r"held-out samples included, \[48, 48\], got \(36, 36\)"
    with pytest.raises(ttp.InputError, match=says):
        ttp.predict(task, ttp.SGD(0.1), steps=5, kernel=kernel)
    assert Kernel().of(task).theta.shape == (48, 48)
