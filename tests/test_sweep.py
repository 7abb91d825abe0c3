"""Many settings at once: the same as predict one by one, and what is chosen from them."""

import dataclasses

import jax
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax import choices, sweep
from ttp_jax.dynamics import settings
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.kernel.choice import Kernel

GRID = sweep.Grid(
    learning_rates=(0.01, 0.05, 0.2),
    momenta=(0.0, 0.9),
    batch_sizes=(5, None),
    schedules=("constant", "cosine"),
    epochs=(4, 9.5),
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "common"),
    [
        pytest.param(
            "mse",
            {"weight_decay": 0.03, "decay_toward": "initial"},
            marks=pytest.mark.slow,
        ),
        (
            "cross_entropy",
            {"nesterov": True, "weight_decay": 0.03, "sampling": "with_replacement"},
        ),
    ],
)
def test_equals_predict_setting_by_setting(loss, common):
    task = bent(loss)
    kernel = Kernel().of(task)
    grid = dataclasses.replace(GRID, **common)
    found = sweep.sweep(task, grid, kernel=kernel, rank=1000, seed=3)
    f0, q0 = (
        np.asarray(v)
        for v in jax.jvp(lambda w: task.apply_fn(w, task.x), (task.params,), (task.params,))
    )
    q0 = q0 if grid.weight_decay and grid.decay_toward == "zero" else None
    for index in np.ndindex(grid.shape):
        setting, curve = grid.setting(index), found.curve(index)
        sgd, steps = grid.sgd(setting, task.n), setting.steps(task.n)
        problem = kernel.theta, f0, task.targets, sgd
        path = simulate(*problem, loss=loss, steps=steps, seed=3, q0=q0)
        assert curve.steps[-1] == steps
        np.testing.assert_allclose(curve.loss, path.loss[curve.steps], rtol=1e-10)
    for index in [(1, 1, 0, 1, 0), (2, 1, 1, 0, 1)]:
        setting = grid.setting(index)
        sgd, steps = grid.sgd(setting, task.n), setting.steps(task.n)
        one = ttp.predict(task, sgd, steps=steps, kernel=kernel, seed=3, mend=0)
        assert found.final_loss[index] == pytest.approx(one.loss[-1], rel=1e-10)
        assert found.stability[index[:2]] == pytest.approx(one.trust.stability, rel=1e-12)
        unstable = "grows" in one.trust.reason or one.trust.stability > 1
        assert found.stable[index] == (not unstable)


def test_few_modes_and_each_samples_own_block():
    """What the modes leave is small where it was dropped, exact within a sample."""
    task = bent()
    theta = Kernel().of(task).theta
    n, c = task.n, task.c
    modes = settings.largest_modes(theta, c, 30)
    blocks = np.einsum("nck,ndk->ncd", modes.z, modes.z) + modes.own
    true = theta.reshape(n, c, n, c)[np.arange(n), :, np.arange(n), :]
    np.testing.assert_allclose(blocks, true, rtol=1e-5, atol=1e-6)
    assert np.linalg.eigvalsh(modes.own).min() > -1e-6
    grid = dataclasses.replace(
        GRID, learning_rates=(0.01, 0.05), schedules=("constant",), epochs=(20,)
    )
    exact = sweep.sweep(task, grid, rank=n * c)
    few = sweep.sweep(task, grid, rank=30)
    without = settings.largest_modes(theta, c, 30)._replace(own=None)
    index = (1, 1, 0, 0, 0)
    sgd = grid.sgd(grid.setting(index), n)
    steps = grid.setting(index).steps(n)
    dropped = settings.curves(
        without,
        np.asarray(task.apply_fn(task.params, task.x)),
        task.targets,
        loss=task.loss,
        learning_rates=np.array([0.05]),
        momenta=np.array([0.9]),
        shape=np.ones(steps),
        batches=sgd.batches(n, steps, 0),
        read=few.curve(index).steps,
    )[0]
    at_end = exact.final_loss
    assert np.abs(np.log(few.final_loss / at_end)).max() < 0.05
    error = abs(np.log(few.final_loss[index] / at_end[index]))
    assert error < 0.3 * abs(np.log(dropped[-1] / at_end[index]))


def test_parts_of_the_settings_are_put_together(monkeypatch):
    task, grid = bent(), dataclasses.replace(GRID, batch_sizes=(5,), epochs=(4,))
    whole = sweep.sweep(task, grid)
    monkeypatch.setattr(settings, "_HELD", 4 * task.n * task.c)
    np.testing.assert_allclose(
        sweep.sweep(task, grid).final_loss, whole.final_loss, rtol=1e-4
    )


@pytest.fixture(scope="module")
def swept():
    grid = sweep.Grid(
        learning_rates=tuple(np.geomspace(1e-3, 100, 34)),
        momenta=(0.0, 0.9),
        batch_sizes=(3, 6, None),
        epochs=(40,),
    )
    return sweep.sweep(linear.task("cross_entropy"), grid)


def never(times):
    return sweep.Times(times.steps, np.ones_like(times.censored))


def test_choices(swept):
    """Against the definitions, by plain search."""
    task = linear.task("cross_entropy")
    times = swept.times(0.3)
    stable, grid = swept.stable, swept.grid
    for by in ("steps", "samples"):
        best = choices.fastest(swept, times, by)
        for index in np.ndindex(grid.shape):
            if stable[index] and not times.censored[index]:
                samples = times.steps[index] * (grid.setting(index).batch_size or task.n)
                least = {"steps": times.steps[index], "samples": samples}[by]
                assert least >= getattr(best, by)
        steps = best.setting.steps(task.n)
        one = ttp.predict(task, grid.sgd(best.setting, task.n), steps=steps, mend=0)
        at = ttp.time_to_threshold(one, 0.3, "fraction_of_initial").steps
        assert at <= best.steps <= max(at + 1, 1.05 * at)
    rates = choices.largest_stable_rates(swept)
    for j, k in np.ndindex(2, 3):
        below = [rate for rate in grid.learning_rates if rate <= rates[j][k]]
        assert stable[: len(below), j, k].all()
        assert not stable[len(below), j, k].any()
    # the full batch of a model linear in its weights: the limit of the optimiser
    for j in range(2):
        at = grid.learning_rates.index(rates[j][2])
        assert swept.stability[at, j] <= 1 < swept.stability[at + 1, j]
    assert choices.fastest(swept, never(times), "steps") is None


def test_larger_batches(swept):
    times = swept.times(0.3)
    found = choices.scaling(swept, times)
    assert [c.setting.batch_size for c in found.best] == [3, 6, None]
    steps = [c.steps for c in found.best]
    assert steps == sorted(steps, reverse=True)
    assert found.useful in (3, 6, 12)
    nothing = choices.Scaling((None,) * 3, None, None)
    assert choices.scaling(swept, never(times)) == nothing


def test_critical_batch_of_known_steps(monkeypatch, swept):
    """``S(B) = 10 (1 + 24/B)``."""
    sizes = np.array([3, 6, 12])
    steps = np.broadcast_to((10 * (1 + 24 / sizes))[:, None, None], swept.grid.shape)
    times = sweep.Times(steps.astype(int), np.zeros(swept.grid.shape, bool))
    found = choices.scaling(swept, times)
    assert found.critical == pytest.approx(24)
    assert found.useful == 12


def test_the_rate_of_another_batch(swept):
    """Small steps have no noise: the rate a sample stays."""
    small = (0, 0, 2, 0, 0)
    at = swept.grid.learning_rates[0]
    for size in (3, 6):
        pair = choices.paired_rate(swept, small, size)
        assert pair in swept.grid.learning_rates
        assert pair <= at
    ladder = (8, 0, 2, 0, 0)
    ratio = 12 / 6
    wanted = swept.grid.learning_rates[8] / ratio
    apart = np.abs(np.log(np.array(swept.grid.learning_rates) / wanted))
    assert (
        choices.paired_rate(swept, ladder, 6) == swept.grid.learning_rates[apart.argmin()]
    )
    with pytest.raises(ttp.InputError, match="one of the grid"):
        choices.paired_rate(swept, small, 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rates": ()}, "one or more"),
        ({"learning_rates": (0.1, 0.1)}, "different"),
        ({"epochs": (0,)}, "positive"),
        ({"momenta": (1.0,)}, "momentum"),
        ({"batch_sizes": (21,)}, "at most the number of samples"),
        ({"learning_rates": (-0.1,)}, "learning rate"),
    ],
)
def test_grids_that_cannot_be_used(change, said):
    with pytest.raises(ttp.InputError, match=said):
        sweep.sweep(bent(), dataclasses.replace(GRID, **change))
    with pytest.raises(ttp.InputError, match="rank"):
        sweep.sweep(bent(), GRID, rank=0)
