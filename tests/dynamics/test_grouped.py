"""Rates by group: of a model linear in its weights, prediction and real steps are one curve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax.accelerators.freezeout import FreezeOut, autofreeze
from ttp_jax.dynamics.grouped import accumulated_norms, simulate_groups
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.groups import Groups, grouped
from ttp_jax.training import loop
from ttp_jax.training.staged import GradientRule, staged_steps

STEPS = 24


def three_groups(loss, m=0):
    """A linear model in three tensors, and its groups."""
    whole = linear.task(loss, m=m)
    kernel, bias = whole.params["kernel"], whole.params["bias"]
    params = {"first": kernel[:3], "second": kernel[3:], "third": bias}

    def apply_fn(params, x):
        joined = jnp.concatenate([params["first"], params["second"]])
        return jnp.tanh(x) @ joined + params["third"]

    task = ttp.Task(apply_fn, params, whole.x, whole.y, loss=loss, held_out=whole.held_out)
    return task, grouped(apply_fn, params, whole.x, "tensor")


def problem(task, groups, sgd):
    """Shares of the kernel by an explicit Jacobian, ``f_0``, and ``J_g w_0g``."""
    joint = task.joint
    J, w0 = linear.jacobian(joint)
    owner = np.concatenate(
        [
            np.full(leaf.size, g)
            for leaf, g in zip(jax.tree.leaves(task.params), groups.of_leaf, strict=True)
        ]
    )
    shares, q0 = [], []
    for g in range(groups.count):
        own = J[:, owner == g]
        shares.append((own @ own.T)[: task.n * task.c])
        q0.append((own @ w0[owner == g]).reshape(joint.n, task.c))
    f0 = np.asarray(task.apply_fn(task.params, joint.x))
    toward_zero = sgd.weight_decay and sgd.decay_toward == "zero"
    return (np.stack(shares), f0, joint.targets, sgd), (
        np.stack(q0) if toward_zero else None
    )


def predicted(task, groups, sgd, **options):
    of, q0 = problem(task, groups, sgd)
    return simulate_groups(*of, loss=task.loss, steps=STEPS, q0=q0, seed=3, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "momentum", "nesterov", "weight_decay", "toward"),
    [
        pytest.param("mse", 0.0, False, 0.0, "zero", marks=pytest.mark.slow),
        ("mse", 0.9, True, 0.03, "zero"),
        pytest.param("cross_entropy", 0.9, False, 0.03, "zero", marks=pytest.mark.slow),
        pytest.param("cross_entropy", 0.8, True, 0.03, "initial", marks=pytest.mark.slow),
    ],
)
def test_equals_frozen_optax_on_a_linear_model(
    loss, momentum, nesterov, weight_decay, toward
):
    task, groups = three_groups(loss, m=4)
    for batch, sampling, freeze in [
        (None, "shuffle", FreezeOut(0.5, "linear", scaled=False)),
        (5, "shuffle", FreezeOut(0.5, "cubic")),
        (5, "with_replacement", FreezeOut(0.8, "squared")),
    ]:
        rates = freeze.rates(0.01, STEPS, groups.count)
        sgd = ttp.SGD(rates, momentum, nesterov, weight_decay, batch, sampling, toward)
        path = predicted(task, groups, sgd)
        real = ttp.finetune(task, sgd, steps=STEPS, seed=3, groups=groups)
        np.testing.assert_allclose(path.curves[0].loss, real.loss, rtol=1e-10, atol=1e-12)
        assert real.held_out is not None
        np.testing.assert_allclose(
            path.curves[1].loss, real.held_out.loss, rtol=1e-10, atol=1e-12
        )
        assert real.loss[-1] < real.loss[0]


def test_one_group_is_the_ungrouped_path():
    task = linear.task("cross_entropy")
    groups = Groups(("all",), (0, 0))
    rates = np.linspace(0.1, 0.0, STEPS)
    sgd = ttp.SGD(rates[:, None], 0.9, True, 0.03, 5)
    (shares, f0, y, _), q0 = problem(task, groups, sgd)
    assert q0 is not None
    path = simulate_groups(
        shares, f0, y, sgd, loss=task.loss, steps=STEPS, q0=q0, keep=[7, STEPS]
    )
    one = ttp.SGD(rates, 0.9, True, 0.03, 5)
    whole = simulate(
        shares[0], f0, y, one, loss=task.loss, steps=STEPS, q0=q0[0], keep=[7, STEPS]
    )
    np.testing.assert_allclose(path.curves[0].loss, whole.loss, rtol=1e-11)
    assert whole.places is not None
    np.testing.assert_allclose(path.kept.outputs, whole.places.outputs, rtol=1e-9)
    np.testing.assert_allclose(path.end.alpha.reshape(-1), whole.alpha, rtol=1e-8)
    np.testing.assert_allclose(path.end.shrink, whole.shrink, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_waypoint_is_where_the_loss_first_is_low():
    task, groups = three_groups("mse")
    sgd = ttp.SGD(np.full((STEPS, 3), 0.2), 0.9, batch_size=5)
    path = predicted(task, groups, sgd)
    first = int(np.argmax(path.curves[0].loss <= 0.3 * path.curves[0].loss[0]))
    assert 0 < first < STEPS
    kept = predicted(task, groups, sgd, keep=[first]).kept.outputs[0]
    assert path.waypoint is not None
    np.testing.assert_allclose(path.waypoint.outputs, kept, rtol=1e-12)
    slow = ttp.SGD(np.full((STEPS, 3), 1e-4), batch_size=5)
    assert predicted(task, groups, slow).waypoint is None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.03])
def test_autofreeze_decides_alike_on_both_sides(weight_decay):
    task, groups = three_groups("cross_entropy")
    ends = np.array([6, 10, 14, 18, 22])
    sgd = ttp.SGD(np.full((STEPS, 3), 0.05), 0.9, weight_decay=weight_decay, batch_size=5)
    of, q0 = problem(task, groups, sgd)
    frozen = [0]

    def decide(norms):
        frozen.append(autofreeze(norms, frozen[-1]))
        return frozen[-1]

    norms = accumulated_norms(
        *of, loss=task.loss, steps=STEPS, ends=ends, decide=decide, q0=q0, seed=3
    )
    rule = GradientRule(ends)
    taking = staged_steps(task, sgd, groups, steps=STEPS, seed=3, rule=rule)
    loop.run(task, taking, steps=STEPS)
    assert rule.frozen == frozen
    assert frozen[-1] > 0
    for told, real, k in zip(norms, rule.norms, frozen, strict=False):
        np.testing.assert_allclose(told[k:], real[k:], rtol=1e-9)


def test_refuses_rates_of_other_groups():
    task, groups = three_groups("mse")
    sgd = ttp.SGD(np.full((STEPS, 2), 0.1))
    with pytest.raises(ttp.InputError, match=r"must be \[24, 3\].* got \[24, 2\]"):
        ttp.finetune(task, sgd, steps=STEPS, groups=groups)
    with pytest.raises(ttp.InputError, match=r"must be \[24\], one a step, got \[24, 2\]"):
        ttp.finetune(task, sgd, steps=STEPS)
    with pytest.raises(ttp.InputError, match="need SGD, got Adam"):
        ttp.finetune(task, ttp.Adam(0.1), steps=STEPS, groups=groups)
