"""A mended prediction against explicit Jacobians along its own path, and against training."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from experiments import mending as experiment
from experiments import trust
from tests import linear
from tests.bent import bent
from tests.conftest import ROOT
from ttp_jax import chances, losses, outputs, records
from ttp_jax.kernel.choice import Kernel
from ttp_jax.linearisation import calibration, mending, path_clock
from ttp_jax.linearisation.pieces import Place

pytestmark = pytest.mark.usefixtures("x64")


def mended(task, sgd, steps, **options):
    f0 = outputs.at_the_start(task.apply_fn, task.params, task.joint.x)
    theta = Kernel().of(task).theta[: task.n * task.c]
    start = calibration.at_the_start(task)
    return mending.mended(task, sgd, start, theta, f0, steps=steps, **options)


@pytest.mark.parametrize(
    ("loss", "sgd"),
    [
        ("mse", ttp.SGD(0.1)),
        ("cross_entropy", ttp.SGD(0.05, 0.8, True, 0.02, 5)),
        (
            "mse",
            ttp.SGD(0.05, 0.8, weight_decay=0.02, decay_toward="initial", batch_size=4),
        ),
    ],
    ids=["gd", "nesterov_to_zero", "to_initial"],
)
def test_of_a_linear_model_it_is_training(loss, sgd):
    task = linear.task(loss)
    found, clocked = (
        mended(task, sgd, 80, seed=3, clock=clock) for clock in ("start", "both")
    )
    real = ttp.finetune(task, sgd, steps=80, seed=3)
    assert found.looks
    np.testing.assert_allclose(found.curves[0].loss, real.loss, rtol=1e-10)
    np.testing.assert_allclose(clocked.curves[0].loss, real.loss, rtol=1e-10)
    np.testing.assert_allclose(found.curves[0].accuracy, real.accuracy, atol=1e-12)
    for look in found.looks:
        assert look.gap < 1e-9
        assert look.loss_ratio == pytest.approx(1, abs=1e-9)
        assert look.speed == pytest.approx(1, abs=1e-9)


def test_pictures_held_out_follow():
    task = linear.task("cross_entropy", m=5)
    sgd = ttp.SGD(0.1, 0.5, batch_size=4)
    found = mended(task, sgd, 60, seed=1)
    assert found.looks
    held_out = ttp.finetune(task, sgd, steps=60, seed=1).held_out
    np.testing.assert_allclose(found.curves[1].loss, held_out.loss, rtol=1e-9)


def secant(seed=0, n=6, c=3):
    rng = np.random.default_rng(seed)
    J, there = rng.normal(size=(2, n * c, 40))
    v = rng.normal(size=(n, c))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    V = np.zeros((n * c, n))
    V[np.arange(n * c), np.arange(n * c) // c] = v.ravel()
    return J @ J.T, 2 * there @ there.T, v, V


def test_the_kernel_acts_along_the_residual_as_the_true_one(monkeypatch):
    monkeypatch.setattr(mending, "RIDGE", 0.0)
    theta, true, v, V = secant()
    S = V.T @ true @ V
    new, kappa = mending.updated(theta, v, S, V.T @ theta)
    np.testing.assert_allclose(V.T @ new @ V, S, rtol=1e-10)
    assert kappa == pytest.approx(np.trace(S) / np.trace(V.T @ theta @ V))
    # Elsewhere it is the old one, scaled.
    null = np.linalg.svd(V.T @ theta)[2][len(S) :].T
    np.testing.assert_allclose(null.T @ new @ null, kappa * null.T @ theta @ null)
    np.testing.assert_allclose(V.T @ new @ null, 0, atol=1e-9)


def test_a_ridge_leaves_it_positive_and_a_true_kernel_alone(monkeypatch):
    theta, true, v, V = secant()
    monkeypatch.setattr(mending, "RIDGE", 0.3)
    new, _ = mending.updated(theta, v, V.T @ true @ V, V.T @ theta)
    np.testing.assert_allclose(new, new.T, atol=1e-10)
    assert np.linalg.eigvalsh(new).min() > -1e-10
    same, kappa = mending.updated(theta, v, V.T @ theta @ V, V.T @ theta)
    assert kappa == 1
    np.testing.assert_allclose(same, theta, rtol=1e-12)


def test_one_mend_is_that_of_explicit_matrices():
    """Weights along the predicted path, true outputs and kernel there, the dynamics on."""
    task, sgd, steps = bent(), ttp.SGD(0.05, 0.8), 120
    found = mended(task, sgd, steps, mends=1, clock="start")
    (look,) = found.looks
    J, w0 = linear.jacobian(task)
    _, unravel = jax.flatten_util.ravel_pytree(task.params)
    y, f0 = np.asarray(task.targets), np.asarray(task.apply_fn(task.params, task.x))
    n, c = f0.shape

    def gradient(f):
        g = losses.gradient(task.loss, jnp.asarray(f.reshape(n, c)), jnp.asarray(y))
        return np.array(g).reshape(-1)

    def mean(f):
        return float(losses.mean(task.loss, jnp.asarray(f.reshape(n, c)), jnp.asarray(y)))

    f, w, v = f0.reshape(-1), w0.copy(), np.zeros_like(w0)
    for k in range(look.step):
        assert k == 0 or mean(f) > 0.5 * mean(f0.reshape(-1))
        v = 0.8 * v + J.T @ gradient(f) / n
        w = w - 0.05 * v
        f = f - 0.05 * J @ v
    there = unravel(jnp.asarray(w))
    true = np.asarray(task.apply_fn(there, task.x)).reshape(-1)
    assert look.gap == pytest.approx(
        np.linalg.norm(true - f) / np.linalg.norm(f - f0.reshape(-1)), rel=1e-8
    )
    assert look.loss_ratio == pytest.approx(mean(true) / mean(f), rel=1e-8)
    J_there, _ = linear.jacobian(dataclasses.replace(task, params=there))
    g = gradient(true).reshape(n, c)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    V = np.zeros((n * c, n))
    V[np.arange(n * c), np.arange(n * c) // c] = g.ravel()
    theta = J @ J.T
    directions, S, image = mending.along_residual(
        task, Place(look.step, there, None, true.reshape(n, c)), theta
    )
    np.testing.assert_allclose(directions, g, rtol=1e-8)
    np.testing.assert_allclose(S, V.T @ J_there @ J_there.T @ V, rtol=1e-8)
    np.testing.assert_allclose(image, V.T @ theta, rtol=1e-8, atol=1e-12)
    new, kappa = mending.updated(theta, g, S, image)
    assert look.speed == pytest.approx(kappa, rel=1e-8)
    f, u = true, J_there @ v
    for k in range(look.step, steps):
        np.testing.assert_allclose(found.curves[0].loss[k], mean(f), rtol=1e-7)
        u = 0.8 * u + new @ gradient(f) / n
        f = f - 0.05 * u


@pytest.mark.slow
def test_mends_come_nearer_to_training():
    """In the mean over tasks, not in each: a place is only as true as the path to it."""
    sgd, steps = ttp.SGD(0.05, 0.8), 160
    off = {(0, "both"): [], (3, "start"): [], (3, "both"): []}
    for seed in range(5):
        task = bent(seed=seed, hidden=48)
        real = ttp.finetune(task, sgd, steps=steps).loss
        for (mends, clock), errors in off.items():
            loss = mended(task, sgd, steps, mends=mends, clock=clock).curves[0].loss
            errors.append(np.abs(np.log(loss / real)).mean())
    assert np.mean(off[3, "start"]) < 0.8 * np.mean(off[0, "both"])
    assert np.mean(off[3, "both"]) < 0.92 * np.mean(off[3, "start"])


RUNNING = path_clock.Inertia(1.0, 1.0)


@pytest.mark.parametrize("speed", [0.3, 2.5])
def test_for_small_steps_the_clock_is_the_integral_of_the_speed(speed):
    """``dt = d tau / (1 + (s - 1) tau/tau_last)``; the error of a step falls as its size."""
    off = []
    for steps in (200, 400):
        first, last = steps // 10, 3 * steps // 10
        rates = np.linspace(2.0, 1.0, steps) / steps
        at, after = path_clock.clocked(speed, rates, 0.0, first, last, RUNNING)
        total = np.concatenate([[0.0], np.cumsum(rates)])
        tau = total[first : last + 1] - total[first]
        t = tau[-1] * np.log1p((speed - 1) * tau / tau[-1]) / (speed - 1)
        real = np.interp(total[first] + t, total, np.arange(steps + 1))
        off.append(np.abs(at - real).max() / steps)
        assert at[0] == first
        assert after.own == pytest.approx(1 / speed)
        assert after.real == pytest.approx(1, abs=0.05)
    assert off[1] < 0.6 * off[0] < 0.6 * 5e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("begin", [0.0, 1.0])
def test_the_clock_of_a_kernel_that_stays_is_that_of_the_piece(momentum, begin):
    begin = path_clock.Inertia(begin, begin)
    at, after = path_clock.clocked(1.0, np.full(60, 0.1), momentum, 5, 25, begin)
    np.testing.assert_array_equal(at, np.arange(5, 26))
    assert after.own == after.real


def test_the_clock_knows_limits():
    rates = np.full(60, 0.1)
    # So slow to come that the run is over; faster than is believed.
    at, _ = path_clock.clocked(0.3, rates, 0.9, 5, 55, RUNNING)
    assert np.isinf(at[-1])
    fast, fastest = (
        path_clock.clocked(speed, rates, 0.9, 5, 25, RUNNING)[0]
        for speed in (100.0, path_clock.FASTEST)
    )
    np.testing.assert_array_equal(fast, fastest)
    # What has inertia does not slow down at once.
    slow, light = (
        path_clock.clocked(0.3, rates, momentum, 5, 15, RUNNING)[0][-1]
        for momentum in (0.9, 0.0)
    )
    assert 15 < slow < light


def test_a_place_is_reached_when_its_speed_says():
    """The path to it stays what it was, and goes on from there with what is left of the run."""
    task, sgd, steps = bent(), ttp.SGD(0.05, 0.8), 120
    slow, found = (
        mended(task, sgd, steps, mends=1, clock=clock) for clock in ("start", "both")
    )
    (before,), (look,) = slow.looks, found.looks
    assert (look.gap, look.loss_ratio, look.speed) == (
        before.gap,
        before.loss_ratio,
        before.speed,
    )
    rest = path_clock.Inertia(0.0, 0.0)
    rates = np.full(steps, 0.05)
    at, _ = path_clock.clocked(look.speed, rates, 0.8, 0, before.step, rest)
    assert look.step == round(at[-1]) != before.step
    loss, old = found.curves[0].loss, slow.curves[0].loss
    inside = np.arange(look.step)
    np.testing.assert_allclose(
        loss[inside], np.interp(inside, at, old[: before.step + 1]), rtol=1e-12
    )
    left = min(steps - look.step, steps - before.step)
    np.testing.assert_allclose(
        loss[look.step + 1 : look.step + left],
        old[before.step + 1 : before.step + left],
        rtol=1e-9,
    )


def test_places_are_where_the_loss_has_halved_or_long_after():
    task = linear.task("mse", labels=False)
    loss = mended(task, ttp.SGD(0.1), 400, mends=0).curves[0].loss
    steps = [look.step for look in mended(task, ttp.SGD(0.1), 400).looks]
    assert steps
    begin = 0
    for step in steps:
        halved = loss[step] <= 0.5 * loss[begin] < loss[step - 1]
        assert halved or step in (100, 3 * begin, begin + 100)
        begin = step
    # One that stands still is asked as well.
    assert [look.step for look in mended(task, ttp.SGD(1e-6), 40).looks] == [10, 30]


def test_the_chance_is_of_the_change_of_a_threshold():
    shift = lambda times, steps, reached: chances.seen_mending(  # noqa: E731
        times, steps, reached=reached
    )["shift"]
    times, steps = [40.0, 60.0, 61.0, 90.0], [10, 30, 80]
    assert shift(times, steps, 90) == pytest.approx(np.log(np.log(60 / 40)))
    assert shift(times[1:], steps[1:], 90) == pytest.approx(np.log(np.log(90 / 61)))
    # A mend beyond the threshold does not count, but for the first.
    assert shift(times[1:], steps[1:], 40) == pytest.approx(np.log(0.02))
    assert shift(times[2:], steps[2:], 40) == pytest.approx(np.log(np.log(90 / 61)))
    assert shift([40.0], [], 40) == pytest.approx(np.log(0.02))


@pytest.mark.slow
def test_predictions_are_mended_unless_told_otherwise():
    task, sgd = bent(hidden=48), ttp.SGD(0.05, 0.8)
    default, once = (
        ttp.predict(task, sgd, steps=160),
        ttp.predict(task, sgd, steps=160, mend=0),
    )
    direct = mended(task, sgd, 160)
    np.testing.assert_allclose(default.loss, direct.curves[0].loss, rtol=1e-12)
    np.testing.assert_allclose(once.loss, mended(task, sgd, 160, mends=0).curves[0].loss)
    assert default.trust.law == "mended"
    assert once.trust.law == "once"
    assert default.trust.looks[0].step == direct.looks[0].step
    assert default.flops > once.flops
    half = 0.5, "fraction_of_initial"
    score, named = (
        chances.score_of_threshold(default, *half),
        ttp.time_to_threshold(default, *half).steps,
    )
    assert 0 < score < 1
    assert chances.interval_of_threshold(default, *half, level=0.7) == chances.interval(
        named, score, 0.7
    )
    assert chances.interval_of_threshold(default, 1e-9, "loss") is None
    for options in ({"paths": 4}, {"keep": [20]}, {"solver": "ode"}):
        assert ttp.predict(task, sgd, steps=160, **options).trust.law == "once"
    with pytest.raises(ttp.InputError, match="mend must not be negative, got -1"):
        ttp.predict(task, sgd, steps=160, mend=-1)


def test_real_steps_come_first():
    task, sgd = linear.task("cross_entropy"), ttp.SGD(0.1, 0.5, batch_size=4)
    found = ttp.predict(task, sgd, steps=80, calibrate_steps=7, seed=2)
    real = ttp.finetune(task, sgd, steps=80, seed=2)
    assert found.trust.law == "mended"
    np.testing.assert_allclose(found.loss, real.loss, rtol=1e-9)


def test_the_law_is_that_of_the_committed_records():
    folder = ROOT / "results/mending"
    found = [records.load(file.parent) for file in sorted(folder.glob("*/record.json"))]
    table = experiment.tabulated(found)
    intercept, weights = trust.fitted(table.x, table.wrong)
    assert pytest.approx(intercept, abs=2e-3) == chances.MENDED.intercept
    np.testing.assert_allclose(weights, list(chances.MENDED.weights.values()), atol=2e-3)


def test_a_model_that_overflows_ends_the_mending():
    task = linear.task("cross_entropy")
    first = task.params["bias"]

    def apply_fn(params, x):
        away = jnp.any(jax.lax.stop_gradient(params["bias"]) != first)
        return linear.apply_fn(params, x) + jnp.where(away, jnp.nan, 0.0)

    wild = dataclasses.replace(task, apply_fn=apply_fn)
    found = mended(wild, ttp.SGD(0.1), 60)
    assert len(found.looks) == 1
    assert found.looks[0].again is None
    assert np.isfinite(found.curves[0].loss).all()
