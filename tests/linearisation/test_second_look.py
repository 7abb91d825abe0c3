"""The true model along a predicted path, against explicit matrices; and what is read off it."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from experiments import trust
from tests import linear
from tests.bent import bent
from tests.conftest import ROOT
from ttp_jax import chances, losses, outputs, records
from ttp_jax.linearisation import calibration, second_look
from ttp_jax.types import Look, Trust


def looks_of(task, sgd, steps, seed=0):
    f0 = np.asarray(outputs.at_the_start(task.apply_fn, task.params, task.x), float)
    J, _ = linear.jacobian(task)
    q0 = None
    if sgd.weight_decay and sgd.decay_toward == "zero":
        q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    start = calibration.at_the_start(task)
    return second_look.look_along(
        task, sgd, start, J @ J.T, f0, steps=steps, q0=q0, seed=seed
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    "sgd",
    [
        ttp.SGD(0.1),
        ttp.SGD(0.1, 0.9, batch_size=4),
        ttp.SGD(0.05, 0.8, True, 0.02, 5),
        ttp.SGD(0.05, 0.8, weight_decay=0.02, decay_toward="initial"),
    ],
    ids=["gd", "momentum", "nesterov_to_zero", "to_initial"],
)
def test_a_linear_model_is_what_its_linearisation_says(loss, sgd):
    looks = looks_of(linear.task(loss), sgd, 80, seed=3)
    assert looks
    for look in looks:
        assert look.gap < 1e-9
        assert look.loss_ratio == pytest.approx(1, abs=1e-9)
        assert look.speed == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(look.again, look.linear, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_loss_and_speed_are_those_of_the_true_weights():
    task, sgd = bent(), ttp.SGD(0.3)
    look = looks_of(task, sgd, 150)[0]
    J, w0 = linear.jacobian(task)
    _, unravel = jax.flatten_util.ravel_pytree(task.params)
    y, f0 = np.asarray(task.targets), np.asarray(task.apply_fn(task.params, task.x))
    f, w = f0.reshape(-1).copy(), w0.copy()
    gradient = lambda f: np.asarray(  # noqa: E731
        losses.gradient(task.loss, jnp.asarray(f.reshape(f0.shape)), jnp.asarray(y))
    ).reshape(-1)
    mean = lambda f: float(  # noqa: E731
        losses.mean(task.loss, jnp.asarray(f.reshape(f0.shape)), jnp.asarray(y))
    )
    for _ in range(look.step):
        move = J.T @ gradient(f) * 0.3 / task.n
        f, w = f - J @ move, w - move
    assert mean(f) <= 0.5 * mean(f0.reshape(-1))
    there = dataclasses.replace(task, params=unravel(jnp.asarray(w)))
    true = np.asarray(there.apply_fn(there.params, task.x)).reshape(-1)
    g = gradient(true)
    J_there, _ = linear.jacobian(there)
    np.testing.assert_allclose(look.loss_ratio, mean(true) / mean(f), rtol=1e-9)
    slope = np.sum((J_there.T @ g) ** 2) / np.sum((J.T @ g) ** 2)
    np.testing.assert_allclose(look.speed, slope, rtol=1e-9)
    # From there: true outputs, and the kernel of the start at the true speed.
    for k in range(look.step, 150):
        np.testing.assert_allclose(look.again[k], mean(true), rtol=1e-9)
        true = true - 0.3 / task.n * look.speed * (J @ (J.T @ gradient(true)))


@pytest.mark.usefixtures("x64")
def test_places_are_those_of_the_levels_each_once():
    task = linear.task("mse", labels=False)
    looks = looks_of(task, ttp.SGD(0.1), 400)
    linear_loss = looks[0].linear
    for look, level in zip(looks, second_look.LEVELS, strict=False):
        assert linear_loss[look.step] <= level * linear_loss[0] < linear_loss[look.step - 1]
    assert len({look.step for look in looks}) == len(looks)
    assert looks_of(task, ttp.SGD(1e-6), 10) == ()


def look(step, again, loss_ratio=1.0, speed=1.0):
    falling = np.exp(-0.05 * np.arange(101.0))
    return Look(step, 0.1, loss_ratio, speed, falling, again)


def test_features_are_of_the_looks_before_the_threshold():
    slower = np.exp(-0.025 * np.arange(101.0))
    looks = [look(14, slower, 2.0, 0.5), look(60, slower, 9.0, 3.0)]
    ask = {"epsilon": 0.2, "rule": "fraction_of_initial"}
    found = chances.seen_once(looks, stability=0.1, reached=33, **ask)
    assert found["shift"] == pytest.approx(np.log(np.log(65 / 33)))
    assert found["speed"] == pytest.approx(np.log(2))
    assert found["stability"] == pytest.approx(np.log(0.1))
    later = chances.seen_once(looks, stability=0.1, reached=None, **ask)
    assert later["speed"] == pytest.approx(np.log(3))
    none = chances.seen_once([], stability=0.1, reached=None, **ask)
    assert none["speed"] == 0
    overflown = chances.seen_once(
        [look(14, None, np.inf, np.inf)], stability=0.1, reached=33, **ask
    )
    assert overflown["shift"] == pytest.approx(np.log(2))
    assert overflown["speed"] == 2  # nothing counts as more


def test_what_departs_further_is_trusted_less():
    ask = {"stability": 0.1, "reached": 33, "epsilon": 0.2, "rule": "fraction_of_initial"}
    same, slower = (np.exp(-rate * np.arange(101.0)) for rate in (0.05, 0.025))
    found = [
        chances.ONCE.chance(chances.seen_once([one], **ask))
        for one in (look(14, same), look(14, slower), look(14, slower, 2.0, 0.5))
    ]
    assert 0 < found[0] < found[1] < found[2] < 1
    assert found[0] < 0.2
    assert found[2] > 0.5


@pytest.mark.usefixtures("x64")
def test_a_bent_model_is_trusted_less_than_a_linear_one():
    sgd = ttp.SGD(0.3)
    straight = ttp.predict(linear.task("cross_entropy"), sgd, steps=150, mend=0)
    curved = ttp.predict(bent(), sgd, steps=150, mend=0)
    ask = (0.2, "fraction_of_initial")
    scores = [chances.score_of_threshold(curve, *ask) for curve in (straight, curved)]
    assert scores[0] > scores[1]
    assert straight.trust.score > curved.trust.score
    assert straight.trust.ok


def test_a_record_keeps_the_verdict_but_not_the_looks(tmp_path):
    verdict = Trust(True, 0.9, "fine", 0.1, 0.2, looks=(look(14, None),))
    curve = ttp.Curve(np.arange(3), np.ones(3), np.ones(3), np.zeros(3), trust=verdict)
    record = records.Record("one", {}, {}, {}, {"predicted": curve})
    back = records.load(records.write(tmp_path, record)).curves["predicted"]
    assert back.trust == dataclasses.replace(verdict, looks=None)
    assert chances.score_of_threshold(back, 0.1, "loss") is None


def test_the_weights_are_those_of_the_committed_records():
    folder = ROOT / "results/trust"
    found = [records.load(file.parent) for file in sorted(folder.glob("*/record.json"))]
    table = trust.tabulated(found)
    intercept, weights = trust.fitted(table.x, table.wrong)
    assert pytest.approx(intercept, abs=2e-3) == chances.ONCE.intercept
    np.testing.assert_allclose(weights, list(chances.ONCE.weights.values()), atol=2e-3)
    # What the README says of tasks that the weights have not seen.
    for groups in (table.pictures, table.network):
        assert trust.area(table.wrong, trust.left_out(table, groups)) > 0.87
