"""Training methods put together: of a linear model, prediction and run are one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ttp_jax as ttp
from tests.dynamics.test_grouped import problem, three_groups
from tests.test_groups import chain
from ttp_jax import methods, outputs
from ttp_jax.accelerators import snapshot
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.correction import Agent
from ttp_jax.accelerators.freezeout import FreezeOut
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.config import Config
from ttp_jax.groups import cut_at, grouped
from ttp_jax.kernel.empirical import empirical_ntk, grouped_ntk
from ttp_jax.linearisation import mending
from ttp_jax.training.sparse import sparse
from ttp_jax.types import InputError, Masked, apply_masks

STEPS, CYCLES = 22, 4
FREEZE = FreezeOut(0.5, "linear")
PLAN = snapshot.snapshots(0.1, STEPS, CYCLES)
MASKS = Sparsity(0.6, start="magnitude")


def both(task, sgd, groups, **options):
    asked = {"steps": STEPS, "seed": 3, "groups": groups, **options}
    return ttp.predict(task, sgd, **asked), ttp.finetune(task, sgd, **asked)


def by(rates, **options):
    return ttp.SGD(rates, **{"momentum": 0.9, "batch_size": 5, **options})


def same(predicted, measured):
    """Curves, models along the way and their inner products."""
    for one, other in ((predicted, measured), (predicted.held_out, measured.held_out)):
        np.testing.assert_allclose(one.loss, other.loss, rtol=0, atol=1e-10)
        np.testing.assert_allclose(one.accuracy, other.accuracy, atol=1e-10)
    if measured.kept is not None:
        np.testing.assert_array_equal(predicted.kept.steps, measured.kept.steps)
        for name in ("outputs", "gram"):
            one, other = (getattr(side.kept, name) for side in (predicted, measured))
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "decay", "toward", "sparsity"),
    [
        ("cross_entropy", 0.03, "zero", None),
        pytest.param("mse", 0.0, "zero", MASKS, marks=pytest.mark.slow),
        pytest.param("cross_entropy", 0.03, "initial", MASKS, marks=pytest.mark.slow),
    ],
)
def test_snapshots_on_a_frozen_prefix_of_a_linear_model(loss, decay, toward, sparsity):
    task, groups = three_groups(loss, m=4)
    sgd = PLAN.of(
        by(1.0, nesterov=True, weight_decay=decay, decay_toward=toward),
        FREEZE.shares(STEPS, 3),
    )
    predicted, measured = both(task, sgd, groups, keep=PLAN.keep, sparsity=sparsity)
    same(predicted, measured)
    assert measured.kept.steps.tolist() == [6, 12, 18, 22]
    # what is frozen is the same in all later snapshots, and nothing else is
    first, second, third = (
        [np.asarray(w[name]) for w in measured.kept.weights]
        for name in ("first", "second", "third")
    )
    at = {name: int(k) for name, k in zip(groups.names, (11, 17, 22), strict=True)}
    for name, values in zip(
        ("first", "second", "third"), (first, second, third), strict=True
    ):
        kept = [k for k in PLAN.keep if k >= at[name]]
        frozen = values[-len(kept) :]
        assert all(np.array_equal(frozen[0], other) for other in frozen)
        moving = values[: len(values) - len(kept) + 1]
        assert len({v.tobytes() for v in moving}) == len(moving)


def test_rates_are_a_schedule_times_shares_of_groups():
    sgd = PLAN.of(by(1.0), FREEZE.shares(STEPS, 3))
    rates = sgd.grouped_rates(STEPS, 3)
    times = FREEZE.times(3)
    for g, end in enumerate((11, 17, 22)):
        cycles = PLAN.learning_rates[:end]
        np.testing.assert_allclose(rates[:end, g], cycles / times[g])
        assert (rates[end:, g] == 0).all()
    unscaled = PLAN.of(by(1.0), FreezeOut(0.5, "linear", scaled=False).shares(STEPS, 3))
    np.testing.assert_allclose(
        unscaled.learning_rate[:11], np.repeat(PLAN.learning_rates[:11, None], 3, axis=1)
    )
    # FreezeOut's own rates are its cosines times the same shares
    cosines = 0.5 * (1 + np.cos(np.pi * np.arange(STEPS)[:, None] / (times * STEPS)))
    np.testing.assert_allclose(
        FREEZE.rates(0.2, STEPS, 3), 0.2 * cosines * FREEZE.shares(STEPS, 3), atol=1e-15
    )
    np.testing.assert_array_equal(PLAN.of(by(1.0)).learning_rate, PLAN.learning_rates)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "loss", ["cross_entropy", pytest.param("mse", marks=pytest.mark.slow)]
)
def test_a_mask_with_groups_of_a_linear_model(loss):
    task, groups = three_groups(loss, m=4)
    sgd = by(FREEZE.rates(0.05, STEPS, 3), weight_decay=0.03)
    predicted, measured = both(task, sgd, groups, sparsity=MASKS, keep=[11, 17, 22])
    same(predicted, measured)
    dense, _ = both(task, sgd, groups)
    assert np.abs(dense.loss - predicted.loss).max() > 1e-3
    # the kernel is that of the weights that are there, in shares of groups
    static, none = masks_of.settled(task, MASKS)
    assert none is None
    shares = grouped_ntk(static.apply_fn, static.params, task.joint.x, groups)
    masked = dataclasses.replace(
        static, apply_fn=Masked(task.apply_fn, static.apply_fn.masks)
    )
    (expected, *_), _ = problem(masked, groups, sgd)
    np.testing.assert_allclose(shares[:, : task.n * task.c], expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_real_run_is_optax_put_together():
    """Of a network that is not linear: masks around optax, each leaf at its group's rate."""
    task = chain((4, 6, 5, 3), n=10)
    groups = grouped(task.apply_fn, task.params, task.x)
    sgd = by(FREEZE.rates(0.05, STEPS, 3), weight_decay=0.02)
    keep = [11, 17, 22]
    curve = ttp.finetune(
        task, sgd, steps=STEPS, seed=3, groups=groups, sparsity=MASKS, keep=keep
    )
    eta = jnp.asarray(sgd.grouped_rates(STEPS, 3))
    structure = jax.tree.structure(task.params)

    def by_group(updates, state, params=None):
        leaves = [
            -eta[state, g] * u
            for u, g in zip(jax.tree.leaves(updates), groups.of_leaf, strict=True)
        ]
        return structure.unflatten(leaves), state + 1

    inner = optax.chain(
        optax.add_decayed_weights(0.02),
        optax.trace(0.9),
        optax.GradientTransformation(lambda _: jnp.zeros((), int), by_group),
    )
    optimizer = sparse(inner, MASKS, STEPS)
    state = optimizer.init(task.params)
    w = apply_masks(state.masks, task.params)
    gradient = jax.jit(jax.grad(outputs.batch_loss(task)))
    y, found = jnp.asarray(task.targets), []
    for k, rows in enumerate(sgd.batches(task.n, STEPS, 3)):
        updates, state = optimizer.update(gradient(w, task.x, y, rows), state, w)
        w = optax.apply_updates(w, updates)
        if k + 1 in keep:
            found.append(w)
    for one, other in zip(curve.kept.weights, found, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)
        off = jax.tree.map(
            lambda m, a: float(jnp.abs(jnp.where(m, 0, a)).max()), state.masks, one
        )
        assert max(jax.tree.leaves(off)) == 0
    # exactly zero update of what is frozen
    name = groups.names[0]
    for tensor in ("w", "b"):
        at = [np.asarray(weights[name][tensor]) for weights in curve.kept.weights]
        assert np.array_equal(at[0], at[1])
        assert np.array_equal(at[1], at[2])


def test_a_masked_chain_is_cut_as_the_dense_one():
    task = chain()
    groups = grouped(task.apply_fn, task.params, task.x)
    static, _ = masks_of.settled(task, MASKS)
    first, rest = cut_at(static.apply_fn, groups, 2)
    # dense weights: the masks are the model's
    whole = static.apply_fn(task.params, task.x)
    assert np.abs(whole - task.apply_fn(task.params, task.x)).max() > 1e-3
    np.testing.assert_array_equal(whole, rest(task.params, first(task.params, task.x)))
    assert cut_at(static.apply_fn, groups, 2)[0] is first
    assert outputs.forward_flops(static.apply_fn, static.params, task.x) == (
        outputs.forward_flops(task.apply_fn, task.params, task.x)
    )
    not_a_chain = Masked(lambda p, x: task.apply_fn(p, x), static.apply_fn.masks)
    assert cut_at(not_a_chain, groups, 2) is None


def test_masks_that_stay_are_settled_and_others_are_not():
    task = chain()
    moving = Sparsity(0.5, grow="random", every=2)
    for sparsity in (None, moving):
        assert masks_of.settled(task, sparsity) == (task, sparsity)
    static, _ = masks_of.settled(task, MASKS)
    theta = empirical_ntk(static.apply_fn, static.params, task.x)
    jacobian = jax.jacrev(static.apply_fn)(static.params, task.x)
    flat = np.concatenate(
        [np.asarray(j, float).reshape(21, -1) for j in jax.tree.leaves(jacobian)], axis=1
    )
    np.testing.assert_allclose(theta, flat @ flat.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": Sparsity(0.5, grow="random", every=2)},
        {"correction": Agent()},
    ],
)
def test_what_changes_the_steps_has_no_groups(options):
    task, groups = three_groups("mse")
    sgd = by(FREEZE.rates(0.05, STEPS, 3))
    with pytest.raises(InputError, match="not put together with masks that move"):
        ttp.finetune(task, sgd, steps=STEPS, groups=groups, **options)
    with pytest.raises(InputError, match="got groups"):
        ttp.predict(task, sgd, steps=STEPS, groups=groups, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "freezeout+snapshot", "t0": "best"}, "give t0 as a number"),
        (
            {"method": "freezeout+agent", "density": 0.5, "correction": "svrg"},
            "a correction (svrg: it compares",
        ),
        (
            {"method": "agent+snapshot", "density": 0.5, "sparsity": "rigl"},
            "masks that move (rigl: an update",
        ),
        ({"method": "freezeout+agent", "density": 0.5, "attack": 0.1}, "an attack ("),
        ({"method": "freezeout+agent"}, "is a plain run"),
    ],
)
def test_refuses_what_makes_no_sense_in_one_line(options, says):
    task = chain((4, 6, 5, 3), n=10)
    config = Config(**options)
    plain = methods.Run(task, ttp.SGD(0.1, 0.9, batch_size=5), STEPS)
    with pytest.raises(InputError) as refused:
        methods.runs(config, plain)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_methods_change_a_run_one_after_the_other():
    task = chain((4, 6, 5, 3), n=10)
    plain = methods.Run(task, ttp.SGD(0.1, 0.9, batch_size=5), STEPS)
    config = Config(
        method="snapshot+freezeout+agent",
        t0=0.5,
        how="linear",
        density=0.5,
        cycles=4,
        lr=0.1,
    )
    planned = methods.runs(config, plain)
    own, beside = planned[""], planned[methods.PLAIN]
    assert isinstance(own.task.apply_fn, Masked)
    assert set(own.also) == {"groups"}
    # in the order of use, masked or not
    assert own.also["groups"].names == ("z_stage", "m_stage", "a_stage")
    np.testing.assert_allclose(
        own.sgd.learning_rate, PLAN.of(plain.sgd, FREEZE.shares(STEPS, 3)).learning_rate
    )
    assert list(own.keep) == [6, 12, 18, 22]
    assert beside.task is task
    assert beside.sgd == plain.sgd


def test_mending_a_masked_network_takes_the_kernel_under_the_mask():
    """By columns that are there, as differentiated through the mask."""
    task = chain()
    static, _ = masks_of.settled(task, MASKS)
    v = np.random.default_rng(0).normal(size=(task.n, task.c)).astype(np.float32)
    joined = jnp.asarray(np.concatenate([np.asarray(task.x), v], axis=1))
    scalar = mending._along(static.apply_fn, task.x.shape[1:], task.c)
    assert isinstance(scalar, Masked)
    found, through = (
        empirical_ntk(model, static.params, joined)
        for model in (scalar, lambda params, x: scalar(params, x))
    )
    np.testing.assert_allclose(found, through, rtol=1e-5, atol=1e-6)
