"""Masked weights and corrected gradients: predicted and real, of a linear model one curve."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from tests.bent import bent
from ttp_jax import losses
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.correction import Agent, AlphaSvrg, Svrg
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.attacks import Attack
from ttp_jax.training.plain import optax_of
from ttp_jax.training.sparse import sparse
from ttp_jax.types import InputError, apply_masks

STEPS = 23
STATIC = Sparsity(0.5)
SET = Sparsity(0.5, grow="random", every=5, drop=0.5)
RIGL = Sparsity(0.4, grow="gradient", start="magnitude", every=6, until=1.0, drop=0.6)
MOMENTUM = ttp.SGD(0.05, 0.9, batch_size=4)
NESTEROV = ttp.SGD(0.05, 0.8, True, 0.03, 4, "with_replacement", "initial")
DECAY = ttp.SGD(np.linspace(0.2, 0.05, STEPS), 0.0, False, 0.02, 5)
# gamma 5 makes AGENT's coefficient large enough to be seen
AGENT = Agent(gamma=5.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "sgd", "sparsity", "correction"),
    [
        ("cross_entropy", MOMENTUM, RIGL, AGENT),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("mse", DECAY, SET, AlphaSvrg(0.75)),
                ("mse", MOMENTUM, None, AGENT),
                ("cross_entropy", NESTEROV, STATIC, None),
                ("mse", NESTEROV, RIGL, Svrg()),
                ("cross_entropy", NESTEROV, SET, Agent(gamma=5.0, previous="itself")),
            )
        ),
    ],
)
def test_predicted_and_real_are_one_in_a_linear_model(loss, sgd, sparsity, correction):
    task = linear.task(loss, m=4)
    asked = {"steps": STEPS, "seed": 3, "sparsity": sparsity, "correction": correction}
    predicted, measured = ttp.predict(task, sgd, **asked), ttp.finetune(task, sgd, **asked)
    for one, other in (
        (predicted, measured),
        (predicted.held_out, measured.held_out),
    ):
        np.testing.assert_allclose(one.loss, other.loss, rtol=0, atol=1e-10)
        np.testing.assert_allclose(one.accuracy, other.accuracy, atol=1e-10)
    assert predicted.loss[-1] < predicted.loss[0]
    if sparsity is not None:
        y = jnp.asarray(task.targets)
        dense = losses.mean(loss, task.apply_fn(task.params, task.x), y)
        assert abs(predicted.loss[0] - float(dense)) > 1e-3
    if correction is not None:
        np.testing.assert_allclose(
            predicted.epochs["coefficient"], measured.epochs["coefficient"], atol=1e-10
        )
        assert np.isfinite(predicted.epochs["optimum"][1:]).all()
        assert np.abs(predicted.epochs["coefficient"]).max() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sparsity", [STATIC, SET, RIGL])
def test_masks_keep_their_density_after_every_step(sparsity):
    """Binary, as many as at the start, weights zero outside, momentum of what is grown zero."""
    task = bent()
    counts = masks_of.counts_of(task.params, sparsity)
    inner = optax_of(MOMENTUM, STEPS, task.params)
    optimizer = sparse(inner, sparsity, STEPS)
    state = optimizer.init(task.params)
    w = apply_masks(state.masks, task.params)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)

    @jax.jit
    def step(w, state, k):
        def loss(w):
            return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(task.apply_fn(w, x)), axis=1))

        raw = jax.grad(loss)(w)
        # corrected gradients must not decide where to grow
        updates, state = optimizer.update(
            jax.tree.map(lambda g: g[::-1] + 1.0, raw), state, w, raw=raw
        )
        return jax.tree.map(jnp.add, w, updates), state, raw

    updates = set(sparsity.update_steps(STEPS).tolist())
    for k in range(STEPS):
        before, old = w, state
        w, state, raw = step(w, state, k)
        trace = state.inner[1][0].trace
        for name, count in zip(("a", "b"), counts, strict=True):
            mask = np.asarray(state.masks[name])
            assert mask.dtype == bool
            assert mask.sum() == count
            assert (np.asarray(w[name])[~mask] == 0).all()
            assert (np.asarray(trace[name])[~mask] == 0).all()
            was = np.asarray(old.masks[name])
            if k not in updates:
                assert (mask == was).all()
                assert (np.asarray(w[name])[mask] != np.asarray(before[name])[mask]).all()
                continue
            # no step of the optimiser: what stays is as it was, momentum too
            stays, grown = mask & was, mask & ~was
            assert (np.asarray(w[name])[stays] == np.asarray(before[name])[stays]).all()
            old_trace = np.asarray(old.inner[1][0].trace[name])
            assert (np.asarray(trace[name])[stays] == old_trace[stays]).all()
            assert (np.asarray(w[name])[grown] == 0).all()
            assert (np.asarray(trace[name])[grown] == 0).all()
            if sparsity.grow == "gradient":
                score = np.abs(np.asarray(raw[name]))
                out = ~mask
                assert grown.sum() == 0 or score[grown].min() >= score[out].max()
        # the schedule goes on all the same
        assert int(state.count) == k + 1
        assert int(state.inner[1][1].count) == k + 1
    moves = any(
        (
            np.asarray(state.masks[n]) != np.asarray(optimizer.init(task.params).masks[n])
        ).any()
        for n in ("a", "b")
    )
    assert moves == (sparsity.grow != "never")


@pytest.mark.usefixtures("x64")
def test_a_coefficient_of_zero_is_no_correction():
    task = bent()
    curves = [
        ttp.finetune(task, MOMENTUM, steps=STEPS, seed=1, sparsity=STATIC, correction=c)
        for c in (None, Svrg(0.0))
    ]
    np.testing.assert_array_equal(curves[0].loss, curves[1].loss)


@pytest.mark.usefixtures("x64")
def test_dense_masks_are_the_plain_run():
    task = bent()
    plain, dense = (
        ttp.finetune(task, MOMENTUM, steps=STEPS, seed=1, sparsity=sparsity)
        for sparsity in (None, Sparsity(1.0))
    )
    np.testing.assert_allclose(plain.loss, dense.loss, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_without_noise_in_the_snapshot_svrg_is_the_full_gradient():
    """In the first step of every epoch w is w_s, and the corrected gradient the mean."""
    task = bent()
    sgd = ttp.SGD(0.3, batch_size=10, sampling="with_replacement")
    one = ttp.finetune(task, sgd, steps=1, correction=Svrg())
    full = ttp.finetune(task, ttp.SGD(0.3), steps=1)
    np.testing.assert_allclose(one.loss, full.loss, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_agents_coefficient_is_a_regression_of_losses():
    """By hand from the weights at the starts of two epochs."""
    task = bent()
    sgd = ttp.SGD(0.2, 0.5, batch_size=4)
    agent = Agent(gamma=0.7, smoothing=0.4, tau=0.2)
    curve = ttp.finetune(
        task, sgd, steps=15, seed=5, correction=agent, keep=[5, 10], every=5
    )
    tau, expected = 0.6 * 0.2 + 0.4 * 1.0, []
    expected.append(0.7 * tau)
    stream = sgd.batches(task.n, 15, 5)
    weights = [task.params, *curve.kept.weights]
    for epoch in (1, 2):
        losses = [
            [
                -np.mean(
                    np.asarray(jax.nn.log_softmax(task.apply_fn(w, task.x)))[
                        rows, task.y[rows]
                    ]
                )
                for rows in stream[5 * epoch : 5 * epoch + 5]
            ]
            for w in (weights[epoch], weights[epoch - 1])
        ]
        covariance = np.cov(*losses)
        tau = 0.6 * tau + 0.4 * covariance[0, 1] / covariance[1, 1]
        expected.append(0.7 * tau)
    np.testing.assert_allclose(curve.epochs["coefficient"], expected, atol=1e-12)
    constant = ttp.finetune(
        task, sgd, steps=15, correction=dataclasses.replace(agent, previous="itself")
    )
    np.testing.assert_allclose(
        constant.epochs["coefficient"], 0.7 * (1 - 0.8 * 0.6 ** np.arange(1, 4))
    )
    falling = ttp.finetune(task, sgd, steps=15, correction=AlphaSvrg(0.9))
    np.testing.assert_allclose(falling.epochs["coefficient"], [0.9, 0.6, 0.3])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "correction", [None, pytest.param(Svrg(0.5), marks=pytest.mark.slow)]
)
def test_an_attack_stays_near_the_picture_and_raises_the_loss(correction):
    task = bent()
    sgd = ttp.SGD(0.1, batch_size=5)
    attack = Attack(0.3, 0.1, 5, bounds=(-2.0, 2.0))
    from ttp_jax.attacks import attacked

    x = jnp.clip(task.x, -2, 2)
    at = attacked(task, attack)(task.params, x, jnp.asarray(task.targets))
    assert np.abs(at - x).max() <= 0.3 + 1e-12
    assert np.abs(at).max() <= 2
    logs = [
        np.asarray(jax.nn.log_softmax(task.apply_fn(task.params, v)))[
            np.arange(task.n), task.y
        ]
        for v in (x, at)
    ]
    assert (logs[1] <= logs[0] + 1e-12).all()
    assert logs[1].mean() < logs[0].mean() - 0.05
    robust = ttp.finetune(task, sgd, steps=10, attack=attack, correction=correction)
    plain = ttp.finetune(task, sgd, steps=10, correction=correction)
    assert robust.loss[-1] != plain.loss[-1]
    # ten inner passes beside three
    n, extra = task.n, 0 if correction is None else 3 * 5 * 10 + 3 * (3 * 20)
    forward = plain.flops / (3 * 5 * 10 + extra)
    epochs = 0 if correction is None else 3
    expected = forward * (13 * 5 * 10 + extra + 10 * n * epochs)
    assert robust.flops == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_clean_mean_beside_attacked_batches_is_biased():
    """Snapshot gradients of all samples cancel under ``attacked`` and not under ``clean``."""
    task = bent()
    attack = Attack(0.3, 0.1, 3)
    sgd = ttp.SGD(0.2, batch_size=10)
    curves = {}
    for mean in ("attacked", "clean"):
        agent = Agent(gamma=1.0, smoothing=1.0, previous="itself", mean=mean)
        curves[mean] = ttp.finetune(task, sgd, steps=1, attack=attack, correction=agent)
    # c = 1 and w = w_s: the full gradient on attacked pictures, or on clean ones
    full = ttp.SGD(0.2)
    robust = ttp.finetune(task, full, steps=1, attack=attack)
    plain = ttp.finetune(task, full, steps=1)
    np.testing.assert_allclose(curves["attacked"].loss, robust.loss, atol=1e-12)
    np.testing.assert_allclose(curves["clean"].loss, plain.loss, atol=1e-12)
    assert abs(robust.loss[1] - plain.loss[1]) > 1e-4


def test_the_extra_passes_are_counted():
    task = bent()
    sgd = ttp.SGD(0.1, batch_size=5)
    plain, agent, svrg = (
        ttp.finetune(task, sgd, steps=8, every=8, correction=c)
        for c in (None, Agent(), AlphaSvrg())
    )
    # ten passes a sample and epoch, or nine, where plain training has three
    assert agent.flops / plain.flops == pytest.approx(10 / 3)
    assert svrg.flops / plain.flops == pytest.approx(3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"attack": Attack(0.1, 0.1)}, "adversarial training is not predicted"),
        ({"sparsity": SET, "solver": "ode"}, "got solver 'ode'"),
        ({"correction": Agent(), "relinearize": 0.5}, "got relinearize"),
        ({"correction": Agent(), "keep": [3]}, "got keep"),
        ({"sparsity": STATIC, "kernel": "kronecker"}, "exact kernel alone"),
        ({"sparsity": dataclasses.replace(SET, every=40)}, "updated within the first"),
    ],
)
def test_what_is_not_predicted_is_one_line(options, match):
    with pytest.raises(InputError, match=match):
        ttp.predict(linear.task("mse"), MOMENTUM, steps=STEPS, **options)


def test_a_correction_needs_mini_batches():
    for sgd in (ttp.SGD(0.1), ttp.SGD(0.1, batch_size=12)):
        for run in (ttp.predict, ttp.finetune):
            with pytest.raises(InputError, match="at least 2 mini-batches an epoch"):
                run(linear.task("mse"), sgd, steps=5, correction=Agent())
    with pytest.raises(InputError, match="gamma must not be negative"):
        Agent(gamma=-1.0)
    with pytest.raises(InputError, match="must not start below 0"):
        AlphaSvrg(-0.5)
    with pytest.raises(InputError, match="radius and a step above 0"):
        Attack(0.0, 0.1)
