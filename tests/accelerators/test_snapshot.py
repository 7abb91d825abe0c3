"""Snapshots of a model linear in its parameters, predicted and real; their expectations."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax.accelerators import diversity, ensemble, snapshot
from ttp_jax.accelerators.averaging import mean_weights
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.types import InputError

STEPS, CYCLES = 22, 4
PLAN = snapshot.snapshots(0.15, STEPS, CYCLES)


@functools.cache
def both_sides(loss):
    """A task of a linear model, and its run on both sides, with 64-bit arrays."""
    task = linear.task(loss, m=4)
    sgd = PLAN.of(ttp.SGD(1.0, 0.9, True, 0.02, 5))
    return task, *(
        run(task, sgd, steps=STEPS, seed=3, keep=PLAN.keep)
        for run in (ttp.predict, ttp.finetune)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_predicted_and_real_snapshots_are_one_in_a_linear_model(loss):
    task, predicted, measured = both_sides(loss)
    np.testing.assert_allclose(predicted.loss, measured.loss, atol=1e-10)
    np.testing.assert_array_equal(predicted.kept.steps, [6, 12, 18, 22])
    np.testing.assert_array_equal(measured.kept.steps, predicted.kept.steps)
    np.testing.assert_allclose(
        predicted.kept.outputs, measured.kept.outputs, rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(predicted.kept.gram, measured.kept.gram, atol=1e-10)
    middles = diversity.outputs_between(task, measured.kept.weights)
    rows = slice(0, task.n)
    sides = [
        diversity.apart(loss, kept.outputs[:, rows], task.targets, gram=kept.gram, **more)
        for kept, more in (
            (predicted.kept, {}),
            (measured.kept, {"middles": middles[:, rows]}),
        )
    ]
    assert len(sides[0]) == 6
    for one, other in zip(*sides, strict=True):
        for name, value in dataclasses.asdict(one).items():
            real = getattr(other, name)
            assert real == value or real == pytest.approx(value, rel=1e-10, abs=1e-10)
        assert one.output_distance > 0.01
        # Convex along a line: nothing to climb.
        assert one.barrier == 0
        assert other.barrier == 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("weight_decay", "toward"), [(0.0, "zero"), (0.03, "zero"), (0.03, "initial")]
)
def test_inner_products_under_every_decay(weight_decay, toward):
    task = linear.task("cross_entropy")
    sgd = PLAN.of(ttp.SGD(1.0, 0.8, False, weight_decay, decay_toward=toward))
    predicted, measured = (
        run(task, sgd, steps=STEPS, keep=[3, STEPS]).kept
        for run in (ttp.predict, ttp.finetune)
    )
    np.testing.assert_allclose(predicted.gram, measured.gram, atol=1e-10)
    np.testing.assert_allclose(predicted.outputs, measured.outputs, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_weight_distances_are_those_of_the_weights():
    _, _, measured = both_sides("mse")
    flat = [jax.flatten_util.ravel_pytree(w)[0] for w in measured.kept.weights]
    start = jax.flatten_util.ravel_pytree(linear.task("mse").params)[0]
    pairs = diversity.apart(
        "mse", measured.kept.outputs[:, :12], np.zeros((12, 3)), gram=measured.kept.gram
    )
    for pair in pairs:
        a, b = flat[pair.first], flat[pair.second]
        distance = np.linalg.norm(b - a)
        moved = np.linalg.norm(a - start) * np.linalg.norm(b - start)
        assert pair.weight_distance == pytest.approx(distance)
        assert pair.relative_weight_distance == pytest.approx(distance / np.linalg.norm(a))
        assert pair.cosine == pytest.approx((a - start) @ (b - start) / moved)


@pytest.mark.usefixtures("x64")
def test_a_snapshot_is_the_model_at_the_cycles_end_before_the_jump():
    task = bent()
    sgd = PLAN.of(ttp.SGD(1.0, 0.9, batch_size=5))
    kept = ttp.finetune(task, sgd, steps=STEPS, seed=1, keep=PLAN.keep).kept
    assert len(kept.weights) == CYCLES
    for end, weights in ((6, kept.weights[0]), (18, kept.weights[2])):
        short = dataclasses.replace(sgd, learning_rate=PLAN.learning_rates[:end])
        alone = ttp.finetune(task, short, steps=end, seed=1, keep=[end], every=end)
        jax.tree.map(np.testing.assert_array_equal, weights, alone.kept.weights[0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nesterov", [pytest.param(False, marks=pytest.mark.slow), True])
def test_momentum_is_carried_over_a_restart(nesterov):
    task = bent()
    sgd = PLAN.of(ttp.SGD(1.0, 0.9, nesterov, 0.01, 5))
    kept = ttp.finetune(task, sgd, steps=STEPS, seed=2, keep=PLAN.keep).kept

    def by_hand(reset):
        w, found = task.params, []
        v = jax.tree.map(np.zeros_like, w)
        batches = sgd.batches(task.n, STEPS, 2)
        gradient = jax.jit(jax.grad(_loss), static_argnums=1)
        for k, eta in enumerate(PLAN.learning_rates):
            if reset and k in PLAN.keep:
                v = jax.tree.map(np.zeros_like, w)
            g = gradient(w, task.apply_fn, task.x[batches[k]], task.y[batches[k]])
            G = jax.tree.map(lambda g, w: g + 0.01 * w, g, w)
            v = jax.tree.map(lambda v, G: 0.9 * v + G, v, G)
            step = v
            if nesterov:
                step = jax.tree.map(lambda G, v: G + 0.9 * v, G, v)
            w = jax.tree.map(lambda w, s, eta=eta: w - eta * s, w, step)
            if k + 1 in PLAN.keep:
                found.append(w)
        return found

    for weights, expected in zip(kept.weights, by_hand(reset=False), strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), weights, expected
        )
    other = by_hand(reset=True)[-1]["a"]
    assert np.abs(other - kept.weights[-1]["a"]).max() > 1e-4


def _loss(w, apply_fn, x, y):
    logs = jax.nn.log_softmax(apply_fn(w, x))
    return -jax.numpy.mean(logs[np.arange(len(y)), y])


@pytest.mark.usefixtures("x64")
def test_mean_weights_give_the_mean_output_in_a_linear_model_under_mse():
    task, predicted, measured = both_sides("mse")
    mean = mean_weights(measured.kept.weights[-3:])
    x, _ = task.held_out
    outputs = np.concatenate([task.apply_fn(mean, part) for part in (task.x, x)])
    for side in (predicted, measured):
        averaged = ensemble.combined("mse", side.kept.outputs[-3:])
        np.testing.assert_allclose(averaged, outputs, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("momentum", "nesterov", "sampling"),
    [
        (0.0, False, "with_replacement"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0.0, False, "without_replacement"),
                (0.8, False, "with_replacement"),
                (0.8, True, "without_replacement"),
            )
        ),
    ],
)
def test_expected_distances_and_losses_against_many_streams(momentum, nesterov, sampling):
    task = linear.task("mse", n=10, c=2, d=4, labels=False)
    J, _ = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    steps, cycles, runs = 18, 3, 300
    plan = snapshot.snapshots(0.3 * (1 - momentum), steps, cycles)
    sgd = plan.of(ttp.SGD(1.0, momentum, nesterov, 0.0, 4, sampling))
    problem = J @ J.T, f0, task.targets, sgd
    _, found = moments(*problem, steps=steps, keep=plan.keep)
    assert found.products is not None

    drawn = np.stack(
        [
            simulate(
                *problem, loss="mse", steps=steps, seed=seed, keep=plan.keep
            ).places.outputs
            for seed in range(runs)
        ]
    )
    residuals = drawn - task.targets

    def close(expected, samples):
        error = np.abs(samples.mean(axis=0) - expected)
        standard = samples.std(axis=0) / np.sqrt(runs)
        assert (error <= 3.5 * standard).all(), (error / standard).max()
        # and the standard error is small enough for that to mean something
        assert (standard < 0.06 * np.abs(expected)).all()

    for i, j in ((0, 1), (1, 2), (0, 2)):
        apart = ((drawn[:, j] - drawn[:, i]) ** 2).sum(axis=(1, 2))
        close(snapshot.expected_distances(found.products)[i, j], apart)
    for last in (1, 2, 3):
        mean = residuals[:, -last:].mean(axis=1)
        loss = (mean**2).sum(axis=(1, 2)) / (2 * task.n)
        close(snapshot.expected_loss(found.products, task.n, last), loss)
    # independent restarts: of the same streams, taken two by two
    halves = (residuals[: runs // 2, -1] + residuals[runs // 2 :, -1]) / 2
    loss = (halves**2).sum(axis=(1, 2)) / (2 * task.n)
    expected = snapshot.expected_loss_of_restarts(found, task.n, 2)
    assert abs(loss.mean() - expected) <= 3.5 * loss.std() / np.sqrt(len(loss))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_products_without_noise_are_those_of_the_path():
    task = linear.task("mse", n=10, c=2, d=4, labels=False)
    J, _ = linear.jacobian(task)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    problem = J @ J.T, f0, task.targets, PLAN.of(ttp.SGD(1.0, 0.5))
    _, found = moments(*problem, steps=STEPS, keep=PLAN.keep)
    path = simulate(*problem, loss="mse", steps=STEPS, keep=PLAN.keep)
    r = (path.places.outputs - task.targets).reshape(CYCLES, -1)
    np.testing.assert_allclose(found.products, r @ r.T, atol=1e-10)


def test_shuffled_epochs_have_no_products():
    task = linear.task("mse")
    problem = np.eye(36), np.zeros((12, 3)), task.targets
    sgd = PLAN.of(ttp.SGD(1.0, batch_size=4))
    with pytest.raises(InputError, match="independent batches"):
        moments(*problem, sgd, steps=STEPS, keep=PLAN.keep)


def test_restarts_share_the_budget_and_the_cycle():
    plan, one = snapshot.snapshots(0.2, 24, 4), snapshot.restart(0.2, 24, 4)
    np.testing.assert_array_equal(one.learning_rates, plan.learning_rates[:6])
    assert one.steps * 4 == plan.steps
    np.testing.assert_array_equal(one.keep, [6])
    assert snapshot.restart(0.2, 26, 4).steps * 4 <= 26
    seeds = {snapshot.restart_seed(seed, k) for seed in range(50) for k in range(6)}
    assert len(seeds) == 300
    assert snapshot.restart_seed(7, 0) == 7


@pytest.mark.parametrize("last", [0, 5, -1])
def test_no_more_snapshots_can_be_averaged_than_there_are(last):
    with pytest.raises(
        InputError, match=r"last must lie in 1\.\.4 \(the number of cycles\)"
    ):
        snapshot.averaged(4, last)
    assert snapshot.averaged(4, None) == 4


@pytest.mark.parametrize("keep", [[0], [23], [5, 5], [6, 3]])
def test_steps_that_cannot_be_kept(keep):
    task, sgd = linear.task("mse"), ttp.SGD(0.1)
    for run in (ttp.predict, ttp.finetune):
        with pytest.raises(InputError, match="steps to keep must ascend"):
            run(task, sgd, steps=STEPS, keep=keep)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "ode"},
        {"calibrate_steps": 2},
        {"relinearize": 0.5},
        {"kernel_samples": 17},
    ],
)
def test_predictions_that_keep_nothing(options):
    with pytest.raises(InputError, match="models along the way"):
        ttp.predict(linear.task("mse", n=20), ttp.SGD(0.1), steps=5, keep=[5], **options)
    with pytest.raises(InputError, match="keep"):
        ttp.predict(linear.task("mse"), ttp.Adam(0.1), steps=5, keep=[5])
