import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.early_curves import curve
from ttp_jax.early_curves.prefix import batch_log, epoch_means, prefix
from ttp_jax.types import InputError


def test_a_prefix_ends_at_its_step_and_has_no_cost():
    whole = dataclasses.replace(
        curve([4.0, 3.0, 2.0, 1.0], [0, 10, 20, 30]),
        loss_quantiles={0.15: np.arange(4.0)},
        timings={"train_s": 3.0},
        flops=7.0,
        planned_steps=100,
        held_out=curve([5.0, 4.0, 4.5, 5.0], [0, 10, 20, 30]),
    )
    first = prefix(whole, 25)
    assert first.steps.tolist() == [0, 10, 20]
    assert first.loss.tolist() == [4, 3, 2]
    assert first.loss_quantiles[0.15].tolist() == [0, 1, 2]
    assert first.held_out.steps.tolist() == [0, 10, 20]
    assert first.held_out.loss.tolist() == [5, 4, 4.5]
    assert not first.timings
    assert first.flops == first.saved_steps == 0
    assert prefix(whole, 1000).steps.tolist() == whole.steps.tolist()
    with pytest.raises(InputError, match="take more steps"):
        prefix(curve([1.0], [5]), 4)


@pytest.mark.parametrize(
    ("steps", "loss", "per_epoch", "means"),
    [
        (range(7), [6, 4, 3, 3, 2, 0, 9], 2, [5, 3, 1]),  # the last belongs to a fourth
        (range(6), [6, 4, 3, 3, 2, 0], 2, [5, 3, 1]),
        (range(5), [6, 4, 3, 3, 2], 2, [5, 3]),
        ([0, 4, 8, 12], [8, 4, 2, 1], 4, [8, 4, 2, 1]),  # read once an epoch
        ([1, 2, 3], [8, 4, 2], 1, [8, 4, 2]),  # a log that counts epochs from 1
        ([0, 2, 4, 6, 8], [8, 4, 2, 2, 0], 4, [6, 2]),
        ([3], [2], 1, [2]),
    ],
)
def test_epochs_are_whole(steps, loss, per_epoch, means):
    assert epoch_means(curve(loss, list(steps)), per_epoch).tolist() == means


def test_epochs_that_are_not_there_are_named():
    with pytest.raises(InputError, match="whole epoch of 10 steps, got 4 steps"):
        epoch_means(curve(np.ones(5)), 10)
    with pytest.raises(InputError, match="got none in 2 of 4; read the curve more often"):
        epoch_means(curve([2, 1, 1], [0, 30, 39]), 10)
    with pytest.raises(InputError, match="at least 1, got 0"):
        epoch_means(curve([2, 1]), 0)


def test_the_log_of_mini_batches_is_that_of_the_run():
    task = linear.task("mse")
    common = {"steps": 9, "seed": 2}
    full = ttp.finetune(task, ttp.SGD(0.01, batch_size=None), **common)
    # a full batch is all samples: its loss is the one read before the step
    log = batch_log(full)
    assert log.steps.tolist() == list(range(9))
    np.testing.assert_allclose(log.loss, full.loss[:-1], rtol=1e-6)
    sgd = ttp.SGD(0.01, batch_size=4)
    run = ttp.finetune(task, sgd, every=2, **common)
    rows = sgd.batches(task.n, 9, 2)[0]
    f = np.asarray(task.apply_fn(task.params, task.x[rows]))
    first = 0.5 * np.sum((f - task.targets[rows]) ** 2, axis=1).mean()
    assert batch_log(run).loss[0] == pytest.approx(first, rel=1e-5)
    np.testing.assert_allclose(batch_log(run).seconds[::2], run.seconds[:-1])
    # a prefix of the run knows no later batch; one of the log ends where it is told to
    assert prefix(run, 5).batch_loss.tolist() == run.batch_loss[:4].tolist()
    assert prefix(batch_log(run), 5).loss.tolist() == run.batch_loss[:6].tolist()
    stopped = ttp.finetune(task, sgd, every=4, stop=lambda seen: True, **common)
    assert len(stopped.batch_loss) == stopped.budget_steps == 0
    with pytest.raises(InputError, match="at least one step"):
        batch_log(stopped)
    with pytest.raises(InputError, match="real run"):
        batch_log(curve([1.0, 0.5]))


def test_the_log_of_a_run_that_diverges_is_not_finite():
    task = linear.task("mse")
    run = ttp.finetune(task, ttp.SGD(1e30, batch_size=4), steps=12, every=4)
    assert len(run.batch_loss) == 12
    assert np.isfinite(run.batch_loss[0])
    assert not np.isfinite(run.batch_loss[-1])
