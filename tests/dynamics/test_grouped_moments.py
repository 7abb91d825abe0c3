"""Expected loss under rates by group: against the simulator, and one group against moments."""

import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.dynamics.test_grouped import problem, three_groups
from ttp_jax.accelerators.freezeout import FreezeOut
from ttp_jax.dynamics.grouped import simulate_groups
from ttp_jax.dynamics.grouped_moments import grouped_moments
from ttp_jax.dynamics.moments import moments
from ttp_jax.groups import Groups

STEPS = 24
STREAMS = 300


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("nesterov", "sampling", "toward"),
    [
        (False, "with_replacement", "zero"),
        pytest.param(True, "without_replacement", "initial", marks=pytest.mark.slow),
    ],
)
def test_equals_the_mean_of_many_streams(nesterov, sampling, toward):
    """Within four standard errors of the simulator's mean at every fourth step."""
    task, groups = three_groups("mse")
    rates = FreezeOut(0.5, "linear").rates(0.08, STEPS, groups.count)
    sgd = ttp.SGD(rates, 0.7, nesterov, 0.03, 3, sampling, toward)
    of, q0 = problem(task, groups, sgd)
    told = grouped_moments(*of, steps=STEPS, q0=q0)
    runs = np.stack(
        [
            simulate_groups(*of, loss="mse", steps=STEPS, q0=q0, seed=seed).curves[0].loss
            for seed in range(STREAMS)
        ]
    )
    error = runs.std(axis=0, ddof=1) / np.sqrt(STREAMS)
    away = np.abs(runs.mean(axis=0) - told.loss)[4::4] / error[4::4]
    assert away.max() < 4
    # The noise is a part of the loss that would be missed.
    still = dataclasses.replace(sgd, batch_size=None)
    quiet = grouped_moments(*problem(task, groups, still)[0], steps=STEPS, q0=q0).loss
    assert (np.abs(runs.mean(axis=0) - quiet)[8::4] > 4 * error[8::4]).any()


def test_one_group_has_the_moments_of_all():
    task = linear.task("mse")
    rates = np.linspace(0.1, 0.0, STEPS)
    grouped = ttp.SGD(rates[:, None], 0.9, True, 0.03, 4, "without_replacement")
    (shares, f0, y, _), q0 = problem(task, Groups(("all",), (0, 0)), grouped)
    assert q0 is not None
    told = grouped_moments(shares, f0, y, grouped, steps=STEPS, q0=q0)
    one = ttp.SGD(rates, 0.9, True, 0.03, 4, "without_replacement")
    path, end = moments(shares[0], f0, y, one, steps=STEPS, q0=q0[0])
    np.testing.assert_allclose(told.loss, path.loss, rtol=1e-10)
    np.testing.assert_allclose(told.accuracy, path.accuracy)
    np.testing.assert_allclose(told.covariance, end.covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(told.mean.reshape(-1) - y.reshape(-1), end.mean, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_without_noise_it_is_the_path():
    task, groups = three_groups("mse")
    sgd = ttp.SGD(FreezeOut(0.5).rates(0.02, STEPS, 3), 0.9)
    of, _ = problem(task, groups, sgd)
    path = simulate_groups(*of, loss="mse", steps=STEPS)
    told = grouped_moments(*of, steps=STEPS)
    np.testing.assert_allclose(told.loss, path.curves[0].loss, rtol=1e-11)
    np.testing.assert_allclose(told.mean, path.end.outputs, rtol=1e-9, atol=1e-12)
    assert not told.covariance.any()


def test_refuses_what_it_cannot():
    task, groups = three_groups("mse")
    for options, says in (
        ({"sampling": "shuffle"}, "independent, got sampling 'shuffle'"),
        ({"sampling": "with_replacement", "loss": "cross_entropy"}, "for loss 'mse'"),
    ):
        loss = options.pop("loss", "mse")
        sgd = ttp.SGD(FreezeOut(0.5).rates(0.02, STEPS, 3), batch_size=4, **options)
        of, _ = problem(task, groups, sgd)
        with pytest.raises(ttp.InputError, match=says):
            grouped_moments(*of, loss=loss, steps=STEPS)
