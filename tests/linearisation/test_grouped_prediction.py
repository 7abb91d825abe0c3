"""Predictions of runs whose groups of weights stop learning, against real ones."""

import numpy as np
import pytest

import ttp_jax as ttp
from tests.dynamics.test_grouped import three_groups
from tests.test_groups import chain
from ttp_jax import outputs
from ttp_jax.accelerators.freezeout import FreezeOut
from ttp_jax.groups import grouped
from ttp_jax.kernel.choice import Kernel
from ttp_jax.linearisation import freezing_choice, grouped_prediction

STEPS = 24


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_prediction_and_run_are_one_curve_of_a_linear_model():
    task, groups = three_groups("cross_entropy", m=4)
    rates = FreezeOut(0.5, "linear").rates(0.02, STEPS, groups.count)
    sgd = ttp.SGD(rates, 0.9, True, 0.03, 5)
    told = ttp.predict(task, sgd, steps=STEPS, seed=1, every=5, groups=groups)
    real = ttp.finetune(task, sgd, steps=STEPS, seed=1, every=5, groups=groups)
    np.testing.assert_allclose(told.loss, real.loss, rtol=1e-10)
    np.testing.assert_allclose(told.accuracy, real.accuracy)
    assert told.held_out is not None
    assert real.held_out is not None
    np.testing.assert_allclose(told.held_out.loss, real.held_out.loss, rtol=1e-10)
    assert told.trust is not None
    assert told.trust.gap < 1e-10
    assert told.trust.early_gap < 1e-10
    assert (np.diff(told.seconds) > 0).all()
    assert told.operations is not None
    assert (np.diff(told.operations) > 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_moments_lie_among_the_paths():
    task, groups = three_groups("mse")
    rates = FreezeOut(0.5, "linear").rates(0.02, STEPS, groups.count)
    sgd = ttp.SGD(rates, 0.9, batch_size=4, sampling="without_replacement")
    mean = ttp.predict(task, sgd, steps=STEPS, solver="moments", groups=groups)
    paths = [
        ttp.predict(task, sgd, steps=STEPS, seed=k, groups=groups).loss for k in (0, 1)
    ]
    assert mean.loss[0] == pytest.approx(paths[0][0])
    assert mean.loss[-1] == pytest.approx(np.mean([p[-1] for p in paths]), rel=0.5)


def start_of(task):
    groups = grouped(task.apply_fn, task.params, task.x)
    shares = Kernel().of(task, groups=groups).shares
    assert shares is not None
    return grouped_prediction.linearised(task, groups, shares, decayed=False)


def test_weights_of_a_place_are_where_its_outputs_say():
    """Of a model that is nearly linear: small steps, and each group's own coefficients."""
    task = chain(n=8)
    start = start_of(task)
    sgd = ttp.SGD(FreezeOut(0.5, "linear").rates(1e-4, STEPS, 3), 0.9, batch_size=4)
    path = grouped_prediction.simulated(start, sgd, steps=STEPS)
    moved = grouped_prediction._moved(start, path.end)
    f = outputs.forward(task.apply_fn, moved, task.x)
    far = np.linalg.norm(path.end.outputs - start.f0)
    assert far > 1e-3
    assert np.linalg.norm(f - path.end.outputs) < 0.02 * far
    for k, name in enumerate(start.groups.names):
        if not path.end.alpha[k].any():
            np.testing.assert_array_equal(moved[name]["w"], task.params[name]["w"])


def test_the_best_time_is_the_cheapest_that_arrives():
    task = chain((6, 24, 24, 3), n=12)
    start = start_of(task)
    sgd = ttp.SGD(0.05, 0.9, batch_size=4)
    asked = {"alpha": 0.2, "steps": 60, "how": "linear", "candidates": (1.0, 0.6, 0.2)}
    tried = freezing_choice.tried(start, sgd, epsilon=0.6, **asked)
    assert [each.freeze.t0 for each in tried] == [1.0, 0.6, 0.2]
    spent = [each.operations for each in tried]
    assert spent == sorted(spent, reverse=True)
    best = freezing_choice.cheapest(tried)
    there = [each for each in tried if each.operations_to is not None]
    assert there
    assert best.operations_to == min(each.operations_to for each in there)
    never = freezing_choice.tried(start, sgd, epsilon=1e-9, **asked)
    assert freezing_choice.cheapest(never).loss == min(each.loss for each in never)
    same = [freezing_choice.Tried(FreezeOut(t0), 1.0, 1.0, 1.0) for t0 in (0.2, 1.0, 0.5)]
    assert freezing_choice.cheapest(same).freeze.t0 == 1.0


@pytest.mark.usefixtures("x64")
def test_no_loss_gets_below_its_floor():
    """Of a linear model, whose floor is reached by the last group's own least squares."""
    task, _ = three_groups("mse")
    groups = grouped(task.apply_fn, task.params, task.x, ("first", "second"))
    shares = Kernel().of(task, groups=groups).shares
    assert shares is not None
    start = grouped_prediction.linearised(task, groups, shares, decayed=False)
    steps = 400
    rates = FreezeOut(0.05, "linear", scaled=False).rates(0.3, steps, 3)
    sgd = ttp.SGD(rates, 0.9)
    floors = freezing_choice.floors(start, sgd, steps=steps)
    path = grouped_prediction.simulated(start, sgd, steps=steps)
    assert len(floors) == 2
    for step, loss in floors:
        assert path.curves[0].loss[step] > loss
        assert path.curves[0].loss[-1] >= loss * (1 - 1e-12)
    assert path.curves[0].loss[-1] == pytest.approx(floors[-1][1], rel=1e-3)
    nothing = ttp.SGD(FreezeOut(1.0).rates(0.1, 30, 3))
    assert freezing_choice.floors(start, nothing, steps=30) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": "flow"}, "got solver 'flow'"),
        ({"paths": 3, "noise": "isotropic"}, "got paths, noise"),
        ({"solver": "moments", "keep": [4]}, "got keep by solver 'moments'"),
        ({"relinearize": 0.5}, "got relinearize"),
        ({"calibrate_steps": 2}, "got calibrate_steps"),
        ({"kernel_samples": 4}, "got kernel_samples"),
    ],
)
def test_refuses(options, says, monkeypatch):
    task, groups = three_groups("mse")
    monkeypatch.setattr(Kernel, "of", lambda *_, **__: pytest.fail("computed"))
    sgd = ttp.SGD(np.full((STEPS, 3), 0.1), batch_size=4)
    with pytest.raises(ttp.InputError, match="predicted by solvers") as refused:
        ttp.predict(task, sgd, steps=STEPS, groups=groups, **options)
    assert says in str(refused.value)


def test_refuses_a_kernel_without_shares():
    task, groups = three_groups("mse")
    sgd = ttp.SGD(np.full((STEPS, 3), 0.1), batch_size=4)
    with pytest.raises(ttp.InputError, match="a kernel without shares"):
        ttp.predict(task, sgd, steps=STEPS, groups=groups, kernel=Kernel().of(task))
    with pytest.raises(ttp.InputError, match=r"must be \[24\], one a step"):
        ttp.predict(task, sgd, steps=STEPS)
