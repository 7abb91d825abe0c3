"""Augmented training: predicted and real, of a linear model one curve."""

import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import prediction, sampling
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.kernel.choice import Kernel
from ttp_jax.linearisation import augmented_prediction as augmented
from ttp_jax.types import InputError

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 14
NESTEROV = ttp.SGD(0.05, 0.8, True, 0.03, 4)


def viewed(loss, *, m=0, size=0.5):
    """A task whose views are its samples with noise."""
    task = linear.task(loss, m=m)
    x = np.asarray(task.x)

    def views(epoch):
        return x + size * np.random.default_rng([7, epoch]).normal(size=x.shape)

    return dataclasses.replace(task, views=views)


@pytest.mark.parametrize(
    ("loss", "sgd", "mend"),
    [
        ("cross_entropy", NESTEROV, 2),
        pytest.param(
            "mse", ttp.SGD(0.1, sampling="with_replacement"), 0, marks=pytest.mark.slow
        ),
        pytest.param(
            "mse",
            ttp.SGD(0.05, 0.5, False, 0.02, 5, "with_replacement", "initial"),
            0,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_with_a_view_for_every_epoch_a_linear_model_is_predicted_exactly(loss, sgd, mend):
    task = viewed(loss, m=4)
    real = ttp.finetune(task, sgd, steps=STEPS, seed=3, every=2)
    found = ttp.predict(task, sgd, steps=STEPS, seed=3, every=2, views=100, mend=mend)
    for one, other in ((found, real), (found.held_out, real.held_out)):
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-10)
        np.testing.assert_allclose(one.accuracy, other.accuracy, atol=1e-12)
    assert found.trust is not None
    assert "views of each picture" in found.trust.reason


def test_views_are_drawn_as_the_pictures_are():
    of_views = sampling.OfViews("shuffle", 10, 3)
    rows = sampling.batches(30, 4, 9, of_views, 5)
    pictures = sampling.batches(10, 4, 9, "shuffle", 5)
    np.testing.assert_array_equal(rows % 10, pictures)
    np.testing.assert_array_equal(rows[:, 0] // 10, [0, 0, 1, 1, 2, 2, 0, 0, 1])


@pytest.mark.slow
def test_more_views_come_nearer_and_their_halves_tell():
    task = viewed("mse", size=1.5)
    sgd = ttp.SGD(0.05, 0.8)
    real = ttp.finetune(task, sgd, steps=64)
    errors, doubts = [], []
    for views in (2, 8, 32):
        found = ttp.predict(task, sgd, steps=64, views=views, mend=0)
        errors.append(np.abs(np.log(found.loss / real.loss)).mean())
        doubts.append(found.trust.doubt)
    assert errors[0] > 2 * errors[1] > 3 * errors[2]
    assert doubts[0] > max(doubts[1:])


def test_the_verdict_knows_of_the_views():
    trusted = ttp.types.Trust(True, 0.8, "fine", 0.5, 0.1)
    one = augmented.judged(trusted, augmented.Doubt(np.nan, ()), views=1)
    assert not one.ok
    assert one.score == pytest.approx(0.4)
    assert "one view" in one.reason
    at_limit = augmented.Doubt(2 * augmented.DOUBT_LIMIT, ())
    far = augmented.judged(trusted, at_limit, views=4)
    assert not far.ok
    assert far.score == pytest.approx(0.16)
    assert "raise views" in far.reason
    near = augmented.judged(trusted, augmented.Doubt(0.0, ()), views=4)
    assert near.ok
    assert near.score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "flow"}, "got solver 'flow'"),
        ({"relinearize": 0.5}, "got relinearize"),
        ({"sparsity": Sparsity(0.5)}, "got masks"),
        ({"paths": 4}, "got paths"),
        ({"views": 0}, "at least 1"),
    ],
)
def test_what_does_not_go_with_views(options, said):
    task = viewed("mse")
    with pytest.raises(InputError, match=said):
        prediction.cost_ahead(task, ttp.SGD(0.1), steps=4, **options)
    with pytest.raises(InputError, match="got Adam"):
        prediction.cost_ahead(task, ttp.Adam(0.1), steps=4)
    given = Kernel().of(dataclasses.replace(task, views=None))
    with pytest.raises(InputError, match="computed before"):
        prediction.cost_ahead(task, ttp.SGD(0.1), steps=4, kernel=given)


def test_the_cost_is_that_of_all_views():
    task = viewed("mse", m=4)
    wide = dataclasses.replace(linear.task("mse", n=12 * 3 + 12 + 4))
    found = prediction.cost_ahead(task, ttp.SGD(0.1), steps=8, views=3)
    assert found.flops == prediction.cost_ahead(wide, ttp.SGD(0.1), steps=8).flops
    few = prediction.cost_ahead(task, ttp.SGD(0.1), steps=2, views=3)
    assert few.flops < found.flops  # two epochs have two views
