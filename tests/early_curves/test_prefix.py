import dataclasses

import numpy as np
import pytest

from tests.early_curves import curve
from ttp_jax.early_curves.prefix import epoch_means, prefix
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
