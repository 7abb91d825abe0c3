"""Coarse runs against training where they must be it, and beside a prediction."""

import dataclasses

import jax
import numpy as np
import pytest

import ttp_jax as ttp
from experiments import coarse as experiment
from experiments import trust
from tests import linear
from tests.bent import bent
from tests.conftest import ROOT
from ttp_jax import chances, records, schedules
from ttp_jax.linearisation import coarse_path, coarse_plan, few_readings
from ttp_jax.linearisation.coarse_plan import Steps, coarse_optimizer, plan, progress

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("nesterov", [False, True])
def test_progress_is_how_far_a_constant_gradient_moves(nesterov):
    sgd = ttp.SGD(schedules.cosine(0.1, 12), 0.7, nesterov)
    w, v, moved = 0.0, 0.0, [0.0]
    for eta in sgd.learning_rates(12):
        v = 0.7 * v + 1.0
        w += eta * (1.0 + 0.7 * v if nesterov else v)
        moved.append(w)
    np.testing.assert_allclose(progress(sgd, 12), moved, rtol=1e-14)


def test_without_momentum_progress_is_the_sum_of_the_rates():
    np.testing.assert_allclose(progress(ttp.SGD(0.2), 5), 0.2 * np.arange(6), rtol=1e-14)


@pytest.mark.parametrize("decay_toward", ["zero", "initial"])
def test_with_as_many_steps_on_all_samples_it_is_training(decay_toward, monkeypatch):
    monkeypatch.setattr(coarse_plan, "AVERAGED", 0.0)
    task = linear.task("mse")
    sgd = ttp.SGD(0.02, 0.9, weight_decay=0.1, decay_toward=decay_toward)
    steps = 60
    found = coarse_path.coarse_path(task, sgd, steps=steps, passes=steps - 0.01, seed=0)
    assert found.steps == steps
    real = ttp.finetune(task, sgd, steps=steps)
    at = coarse_plan.places(steps)
    np.testing.assert_allclose(found.curves[0].loss[at], real.loss[at], rtol=1e-10)


def test_its_error_falls_with_its_steps():
    task = bent()
    sgd = ttp.SGD(2e-3, 0.9, batch_size=5)
    steps = 4000
    real = ttp.finetune(task, sgd, steps=steps, seed=1)
    errors = []
    for passes in (4, 16, 64, 256):
        found = coarse_path.coarse_path(task, sgd, steps=steps, passes=passes, seed=1)
        # Before a tenth of the run the curve is what lies between three readings.
        errors.append(np.abs(np.log(found.curves[0].loss / real.loss))[400:].max())
    assert errors[-1] < 0.02
    assert errors == sorted(errors, reverse=True)


def test_momentum_forgets_as_fast_and_the_length_is_kept():
    sgd, steps = ttp.SGD(0.01, 0.9, batch_size=50), 1000
    way = progress(sgd, steps)
    same = coarse_optimizer(sgd, Steps(1000, 5, steps), way)
    assert (same.momentum, same.batch_size) == (pytest.approx(0.9), 5)
    assert same.learning_rate == pytest.approx(0.01)
    assert coarse_optimizer(sgd, Steps(400, 5, steps), way).momentum == pytest.approx(0.75)
    few = coarse_optimizer(sgd, Steps(50, 5, steps), way)
    assert few.momentum == 0
    for taken in (Steps(1000, 5, steps), Steps(400, 5, steps), Steps(50, 5, steps)):
        for end in (steps, steps // 8):
            own = coarse_optimizer(sgd, taken._replace(of=end), way)
            assert progress(own, taken.count)[-1] == pytest.approx(way[end])


@pytest.mark.parametrize(("passes", "most"), [(2, 2000), (2, 9), (20, 9)])
def test_gradients_and_readings_are_counted(passes, most, monkeypatch):
    monkeypatch.setattr(few_readings, "FEWEST", 5)
    monkeypatch.setattr(few_readings, "MOST", most)
    task = linear.task("cross_entropy")
    x, y = np.asarray(task.x), np.asarray(task.y)
    task = dataclasses.replace(task, held_out=(x[:8], y[:8]))
    sgd = ttp.SGD(0.01, 0.5, batch_size=4)
    seen = {"gradients": 0, "read": 0}
    follow, forward = coarse_path._followed, few_readings.outputs.forward

    def followed(task, step, own, batches):
        weights = follow(task, step, own, batches)
        yield next(weights)
        for w in weights:
            seen["gradients"] += batches.rows.shape[1]
            yield w

    def counted(apply_fn, params, x):
        seen["read"] += len(x)
        return forward(apply_fn, params, x)

    monkeypatch.setattr(coarse_path, "_followed", followed)
    monkeypatch.setattr(few_readings.outputs, "forward", counted)
    found = coarse_path.coarse_path(task, sgd, steps=300, passes=passes)
    assert found.passes == 3 * seen["gradients"] + seen["read"]
    every = 3 * coarse_plan.PLACES * (task.n + task.m)
    assert seen["read"] < 0.65 * every


def test_few_samples_read_between_stand_for_all(monkeypatch):
    """Where all are read the curve is theirs; between, it is nearer the more are read."""
    monkeypatch.setattr(coarse_path, "ORDER", 1000)  # nothing is extrapolated
    monkeypatch.setattr(coarse_plan, "FIRST", 10**6)  # nor is a part followed once more
    task, sgd = bent(), ttp.SGD(2e-3, 0.9, batch_size=5)
    every = coarse_path.coarse_path(task, sgd, steps=2000, passes=2.5)
    apart = []
    for fewest in (task.n // 5, task.n // 2, task.n - 2):
        monkeypatch.setattr(few_readings, "FEWEST", fewest)
        few = coarse_path.coarse_path(task, sgd, steps=2000, passes=2.5)
        assert few.passes < every.passes
        found = np.abs(np.log(few.curves[0].loss / every.curves[0].loss))
        np.testing.assert_allclose(found[[0, -1]], 0, atol=1e-10)
        apart.append(found.max())
    assert apart == sorted(apart, reverse=True)
    assert 0 < apart[-1] < 0.5 * apart[0]


def test_richardson_s_extrapolation_is_exact_where_the_error_is_of_its_order(monkeypatch):
    """Curves ``log L = -sqrt(s) + C h^2``: what is left is that of steps of length one.

    The first part is what it was when followed once more, and the rest joins it there.
    """
    task, sgd, steps = linear.task("mse"), ttp.SGD(1e-3, 0.5, batch_size=4), 400
    planned = plan(task, sgd, steps=steps, passes=30)
    assert planned.first is not None
    way = progress(sgd, steps)

    def of_run(self, seen, taken):
        h = taken.of / taken.count
        z = -np.sqrt(way[: taken.of + 1, None, None]) + 0.01 * h**2
        return np.concatenate([z, np.full_like(z, 0.5)], axis=2)

    monkeypatch.setattr(coarse_path._Runs, "joined", of_run)
    found = coarse_path.coarse_path(task, sgd, steps=steps, passes=30)

    def joined(first, whole):
        rest = whole + (first - whole) * way[planned.first.of] / way[planned.first.of + 1 :]
        return np.concatenate([np.full(planned.first.of + 1, first), rest])

    errors = np.log(found.curves[0].loss) + np.sqrt(way)
    finest = 0.01 * (planned.first.of / planned.first.count) ** 2
    np.testing.assert_allclose(errors, joined(finest, 0.01), rtol=1e-8)
    once, half = (
        0.01 * (steps / one.count) ** 2 for one in (planned.whole, *planned.coarser)
    )
    errors = np.log(found.coarser.loss) + np.sqrt(way)
    np.testing.assert_allclose(errors, joined(once, half), rtol=1e-8)
    np.testing.assert_allclose(found.curves[0].accuracy, 0.5)


def test_noise_is_extrapolated_to_the_batches_of_training(monkeypatch):
    """Curves ``log L = -sqrt(s) + C/b``: what is left is that of its own batches."""
    task, sgd, steps = linear.task("mse"), ttp.SGD(1e-3, 0.5, batch_size=12), 100
    planned = plan(task, sgd, steps=steps, passes=0.5 * steps * 12 / task.n)
    assert planned.first is None
    assert planned.whole == Steps(steps, 6, steps)
    assert planned.coarser == (Steps(steps, 3, steps),) * 2
    way = progress(sgd, steps)

    def of_run(self, seen, taken):
        z = -np.sqrt(way[:, None, None]) + 0.1 / taken.batch
        return np.concatenate([z, np.full_like(z, 0.5)], axis=2)

    monkeypatch.setattr(coarse_path._Runs, "joined", of_run)
    found = coarse_path.coarse_path(
        task, sgd, steps=steps, passes=0.5 * steps * 12 / task.n
    )
    wanted = 0.1 / 12 - np.sqrt(way)
    np.testing.assert_allclose(np.log(found.curves[0].loss), wanted, rtol=1e-8)


def test_halves_of_batches_cancel_where_the_loss_is_linear_in_them(monkeypatch):
    """One step: the mean of the weights of both sides is that of whole batches."""
    seen = {}
    follow = coarse_path._followed

    def followed(task, step, own, batches):
        weights = list(follow(task, step, own, batches))
        seen.setdefault(batches.rows.shape[1], []).append(weights[1])
        yield from weights

    monkeypatch.setattr(coarse_path, "_followed", followed)
    task = linear.task("cross_entropy")
    sgd = ttp.SGD(0.01, 0.5)
    coarse_path.coarse_path(task, sgd, steps=40, passes=40 * 6 / task.n)
    (whole,) = seen[6]
    one, other = seen[3]
    for a, b, mean in zip(*map(jax.tree.leaves, (one, other, whole)), strict=True):
        assert np.abs(np.asarray(a - b)).max() > 1e-6
        np.testing.assert_allclose((a + b) / 2, mean, rtol=1e-10, atol=1e-12)


def test_the_first_part_followed_once_more_is_nearer_to_training():
    task, sgd, steps = bent(), ttp.SGD(2e-3, 0.9, batch_size=5), 4000
    real = ttp.finetune(task, sgd, steps=steps, seed=1)
    planned = plan(task, sgd, steps=steps, passes=16)
    assert planned.first is not None
    assert planned.first.count / planned.first.of > 2 * planned.whole.count / steps
    early = slice(planned.first.of // 4, planned.first.of + 1)
    errors = []
    for first in (coarse_plan.FIRST, 10**6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coarse_plan, "FIRST", first)
            found = coarse_path.coarse_path(task, sgd, steps=steps, passes=16, seed=1)
        errors.append(np.abs(np.log(found.curves[0].loss / real.loss))[early].mean())
    assert errors[0] < 0.7 * errors[1]


def test_what_the_few_lack_is_that_of_the_same_loss():
    level = np.array([2.0, 1.0, -1.0, np.nan])
    known = np.stack([level, np.zeros(4)], axis=1)[:, None]
    lacks = np.stack([0.1 * level, level], axis=1)[:, None]
    few = np.array([[[2.0, 0.0]], [[0.5, 0.0]], [[-3.0, 0.0]]])
    found = coarse_path._at_levels(few, known, lacks)
    np.testing.assert_allclose(found[:, 0, 0], [0.2, 0.05, -0.1], rtol=1e-12)
    np.testing.assert_allclose(found[:, 0, 1], [2.0, 0.5, -1.0], rtol=1e-12)


def test_a_first_part_outlives_a_run_that_diverges(monkeypatch):
    """To its end the curve is known, from where the whole run diverged it is not."""
    task, sgd, steps = linear.task("mse"), ttp.SGD(1e-3, 0.5, batch_size=4), 400
    planned = plan(task, sgd, steps=steps, passes=30)
    assert planned.first is not None

    def of_run(self, seen, taken):
        z = np.zeros((1 + taken.of, 1, 2))
        z[300:] = np.nan
        return z

    monkeypatch.setattr(coarse_path._Runs, "joined", of_run)
    found = coarse_path.coarse_path(task, sgd, steps=steps, passes=30)
    np.testing.assert_array_equal(np.isfinite(found.curves[0].loss), np.arange(401) < 300)
    assert planned.first.of < 300


def test_a_plan_is_told_in_words():
    task, sgd = linear.task("mse"), ttp.SGD(1e-3, 0.5, batch_size=4)
    planned = plan(task, sgd, steps=800, passes=20)
    assert planned.first is not None
    assert (
        str(planned)
        == f"{planned.whole}, {planned.coarser[0]}, {planned.first} for the first 100"
    )


def test_steps_that_are_too_long_are_told():
    task = linear.task("mse")
    curve = ttp.predict(task, ttp.SGD(0.5, batch_size=4), steps=800, coarse=10)
    assert curve.trust is not None
    assert not curve.trust.ok
    assert "raise coarse" in curve.trust.reason


def test_a_prediction_by_a_coarse_run():
    task = bent()
    x, y = np.asarray(task.x), np.asarray(task.y)
    task = dataclasses.replace(task, held_out=(x[:6], y[:6]))
    sgd = ttp.SGD(2e-3, 0.9, batch_size=5)
    curve = ttp.predict(task, sgd, steps=2000, every=20, coarse=64)
    real = ttp.finetune(task, sgd, steps=2000, every=20)
    assert curve.trust is not None
    assert curve.trust.law == "coarse"
    np.testing.assert_allclose(curve.loss[10:], real.loss[10:], rtol=0.05)
    assert curve.held_out is not None
    assert real.held_out is not None
    np.testing.assert_allclose(curve.held_out.loss[10:], real.held_out.loss[10:], rtol=0.05)
    assert curve.timings["kernel_s"] == 0
    assert chances.score_of_threshold(curve, 0.1, "within_of_final") is not None


def test_views_are_followed():
    task = linear.task("mse")
    x = np.asarray(task.x)
    seen = []

    def views(epoch):
        seen.append(epoch)
        return x + 0.1 * epoch

    ttp.predict(
        dataclasses.replace(task, views=views),
        ttp.SGD(1e-3, batch_size=4),
        steps=200,
        coarse=20,
    )
    assert len(set(seen)) > 5


def test_a_check_is_of_how_far_the_times_lie_apart():
    task = linear.task("cross_entropy")
    sgd = ttp.SGD(0.01, 0.5, batch_size=4)
    checked = ttp.predict(task, sgd, steps=400, check=80)
    plain = ttp.predict(task, sgd, steps=400)
    np.testing.assert_array_equal(checked.loss, plain.loss)
    assert checked.trust is not None
    assert plain.trust is not None
    assert checked.trust.law == "checked"
    assert plain.trust.reason in checked.trust.reason
    assert checked.flops > plain.flops
    score = checked.trust.score
    worse = chances.judge_checked(plain.trust, checked.loss, checked.loss**2 + 0.3)
    assert worse.score < score


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coarse": 0.1}, "passes over the samples"),
        ({"coarse": 1000.0}, "fewer gradients than the run"),
        ({"coarse": float("nan")}, "passes over the samples"),
        ({"coarse": 20.0, "check": 20.0}, "leave either out"),
        ({"coarse": 20.0, "paths": 3}, "plain SGD"),
        ({"check": 20.0, "solver": "ode"}, "plain SGD"),
        ({"check": 0.1}, "passes over the samples"),
    ],
)
def test_what_cannot_be_followed_is_refused(options, said):
    with pytest.raises(ttp.InputError, match=said):
        ttp.predict(linear.task("mse"), ttp.SGD(0.01, batch_size=4), steps=300, **options)


def test_adam_is_refused():
    with pytest.raises(ttp.InputError, match="Adam"):
        ttp.predict(
            linear.task("cross_entropy"), ttp.Adam(1e-3, batch_size=4), steps=300, coarse=20
        )


@pytest.mark.parametrize(
    ("name", "law"),
    [(experiment.OWN, chances.COARSE), (experiment.BESIDE, chances.CHECKED)],
)
def test_the_laws_are_those_of_the_committed_records(name, law):
    folder = ROOT / "results/coarse"
    found = [records.load(file.parent) for file in sorted(folder.glob("*/record.json"))]
    table = experiment.tabulated(found)[name]
    intercept, weights = trust.fitted(table.x, table.wrong)
    assert pytest.approx(intercept, abs=2e-3) == law.intercept
    np.testing.assert_allclose(weights, list(law.weights.values()), atol=2e-3)
