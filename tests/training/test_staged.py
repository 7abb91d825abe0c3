"""Real steps that leave out what is frozen: nothing of it moves, and its cost is gone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests.test_groups import chain
from ttp_jax import losses as losses_of
from ttp_jax import outputs
from ttp_jax.accelerators.freezeout import FreezeOut, share_of_cost
from ttp_jax.groups import grouped
from ttp_jax.linearisation import stage_costs
from ttp_jax.models.resnet import cifar
from ttp_jax.training import loop, plain
from ttp_jax.training.staged import staged_steps
from ttp_jax.types import Chain

STEPS = 20


def setting(freeze, task=None, **options):
    task = task or chain(n=10)
    groups = grouped(task.apply_fn, task.params, task.x)
    rates = freeze.rates(0.05, STEPS, groups.count)
    sgd = ttp.SGD(rates, **{"momentum": 0.9, "batch_size": 5, **options})
    return task, sgd, groups


@pytest.mark.parametrize("nesterov", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_frozen_does_not_move_at_all(nesterov):
    """Neither by its velocity nor by weight decay, to the last bit."""
    task, sgd, groups = setting(
        FreezeOut(0.5, "linear"), weight_decay=0.1, nesterov=nesterov
    )
    keep = [10, 12, 15, 17, 20]
    kept = ttp.finetune(task, sgd, steps=STEPS, groups=groups, keep=keep).kept
    assert kept is not None
    first, second, third = groups.names
    for name, frozen_from in ((first, 10), (second, 15)):
        at_freezing = kept.weights[keep.index(frozen_from)][name]
        for step, weights in zip(keep, kept.weights, strict=True):
            same = [
                np.array_equal(weights[name][tensor], at_freezing[tensor])
                for tensor in ("w", "b")
            ]
            assert all(same) if step >= frozen_from else not any(same)
    assert not np.array_equal(kept.weights[-1][third]["w"], kept.weights[-2][third]["w"])


def test_without_freezing_it_is_optax():
    task, _, groups = setting(FreezeOut(1.0))
    rates = np.linspace(0.1, 0.01, STEPS)
    for options in ({"weight_decay": 0.05}, {"weight_decay": 0.05, "nesterov": True}):
        common = {"momentum": 0.9, "batch_size": 5, **options}
        one = ttp.finetune(task, ttp.SGD(rates, **common), steps=STEPS)
        by_group = ttp.SGD(np.repeat(rates[:, None], 3, axis=1), **common)
        many = ttp.finetune(task, by_group, steps=STEPS, groups=groups)
        np.testing.assert_allclose(many.loss, one.loss, rtol=2e-6)
        assert one.operations is not None
        assert many.operations is not None
        np.testing.assert_allclose(many.operations, one.operations, rtol=1e-12)


@pytest.mark.slow
def test_put_by_or_not_is_the_same_run():
    task, sgd, groups = setting(FreezeOut(0.4, "linear"), weight_decay=0.02)
    found = {}
    for cached in (True, False):
        taking = staged_steps(task, sgd, groups, steps=STEPS, seed=2, cached=cached)
        found[cached] = loop.run(task, taking, steps=STEPS)
    np.testing.assert_allclose(found[True].loss, found[False].loss, rtol=1e-5)
    assert found[True].flops < found[False].flops
    # A model that is no chain is never cut.
    whole = ttp.Task(
        lambda params, x: task.apply_fn(params, x), task.params, task.x, task.y, task.loss
    )
    other = ttp.finetune(whole, sgd, steps=STEPS, seed=2, groups=groups)
    np.testing.assert_array_equal(other.loss, found[False].loss)
    assert other.flops == pytest.approx(found[False].flops)


def wide(n=16):
    """Layers of the same size, nearly all of whose operations are matrix products."""
    return chain((192, 192, 192, 192, 8), n=n)


@pytest.mark.parametrize("cached", [pytest.param(False, marks=pytest.mark.slow), True])
def test_operations_are_those_of_the_theory(cached):
    """Compiled programs against ``sum_l F_l (1 + t_l + t_{l-1})``, with outputs put by too."""
    task = wide()
    freeze = FreezeOut(0.5, "linear")
    task, sgd, groups = setting(freeze, task, batch_size=16, momentum=0.0)
    taking = staged_steps(task, sgd, groups, steps=STEPS, seed=0, cached=cached)
    staged = loop.run(task, taking, steps=STEPS, every=STEPS)
    whole = loop.run(
        task,
        plain.plain_steps(task, ttp.SGD(0.05, batch_size=16), steps=STEPS, seed=0),
        steps=STEPS,
        every=STEPS,
    )
    layers = [
        outputs.forward_flops(task.apply_fn.of((name,)), task.params, jnp.zeros((1, 192)))
        for name in groups.names
    ]
    # Steps are whole: 10, 13.33 and 16.67 of 20 are 10, 14 and 17.
    times = np.array([10, 14, 17, 20]) / STEPS
    theory = share_of_cost(np.array(layers), times, cached=cached)
    # The theory does not know that outputs are put by once: a forward pass of the first three.
    entry = sum(layers[:3]) * task.n / whole.flops if cached else 0.0
    assert staged.flops / whole.flops == pytest.approx(theory + entry, rel=0.03)


@pytest.mark.slow
def test_predicted_operations_are_those_of_the_run():
    task, sgd, groups = setting(FreezeOut(0.3, "squared"), wide(), batch_size=8)
    real = ttp.finetune(task, sgd, steps=STEPS, groups=groups)
    costs = stage_costs.stage_costs(task, sgd, groups, steps=STEPS, timed=False)
    forward = outputs.forward_flops(task.apply_fn, task.params, task.x)
    told = stage_costs.spent(costs, 3 * 8 * forward, STEPS)
    assert real.operations is not None
    np.testing.assert_allclose(told, real.operations, rtol=0.03)
    each = np.triu(np.ones((4, 4)))
    full = stage_costs.stage_costs(
        task, ttp.SGD(each, batch_size=8), groups, steps=4, timed=False
    )
    assert stage_costs.at_other_steps(full, sgd.learning_rates(STEPS)) == costs


def test_one_program_a_stage(monkeypatch):
    task, sgd, groups = setting(FreezeOut(0.5, "linear"))
    compiled = []
    original = jax.stages.Lowered.compile

    def counted(self, *args, **kwargs):
        compiled.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    taking = staged_steps(task, sgd, groups, steps=STEPS, seed=0)
    state = taking.start()
    assert len(compiled) == 3
    for k in range(STEPS):
        state, _ = taking.step(state, k)
    assert len(compiled) == 3
    # Other rates, other times to freeze: the same programs.
    rates = FreezeOut(0.3, "cubic").rates(0.01, STEPS, 3)
    other = ttp.SGD(rates, momentum=0.9, batch_size=5)
    staged_steps(task, other, groups, steps=STEPS, seed=1).start()
    assert len(compiled) == 3
    # The pull toward initial weights is a part of a program.
    pulled = ttp.SGD(rates, 0.9, weight_decay=0.1, batch_size=5, decay_toward="initial")
    staged_steps(task, pulled, groups, steps=STEPS, seed=1).start()
    assert len(compiled) == 6


@pytest.mark.slow
def test_no_jump_where_a_network_with_batch_norm_freezes():
    """Statistics are constants all through: what is put by is what the model computes."""
    staged = cifar(8, classes=3, width=0.25)
    x = jax.random.normal(jax.random.key(0), (12, 8, 8, 3))
    variables = staged.init(jax.random.key(1), x)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(
        lambda v: v + rng.uniform(0.1, 0.5, v.shape).astype(np.float32),
        variables["batch_stats"],
    )

    def run(params, x, names):
        return staged.apply({"params": params, "batch_stats": stats}, x, names=names)

    params = jax.tree.map(jnp.asarray, variables["params"])
    task = ttp.Task(Chain(staged.names, run), params, x, np.arange(12) % 3)
    groups = grouped(task.apply_fn, task.params, task.x)
    assert groups.names == staged.names
    rates = FreezeOut(0.3, "linear").rates(1e-3, STEPS, groups.count)
    sgd = ttp.SGD(rates, 0.9, batch_size=12)
    taking = staged_steps(task, sgd, groups, steps=STEPS, seed=0)
    state, losses, freezes = taking.start(), [], np.flatnonzero(np.diff((rates > 0).sum(1)))
    for k in range(STEPS):
        before = taking.weights(state)
        state, value = taking.step(state, k)
        # The loss of the step that freezes is that of the whole model at the same weights.
        f = outputs.forward(task.apply_fn, before, x)
        expected = losses_of.mean(
            "cross_entropy", jnp.asarray(f), jnp.asarray(task.targets)
        )
        losses.append((float(value), float(expected)))
    assert len(freezes) == 4
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-5)
