"""The kernel that Adam sees, against the explicit Jacobian."""

import dataclasses

import jax
import numpy as np
import pytest

import ttp_jax as ttp
from tests.bent import bent
from tests.kernel import oracle
from tests.kernel.test_empirical import UNUSUAL, _unusual
from ttp_jax import sampling
from ttp_jax.kernel import plan
from ttp_jax.kernel.choice import Kernel
from ttp_jax.linearisation.preconditioning import path_steps, preconditioned
from ttp_jax.types import InputError


def _jacobian(apply_fn, params, x):
    j = jax.jacrev(lambda p: apply_fn(p, x))(params)
    n, c = apply_fn(params, x).shape
    return np.concatenate(
        [np.asarray(v).reshape(n, c, -1) for v in jax.tree.leaves(j)], axis=2
    )


def _flat(tree):
    return np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])


def _task(apply_fn, params, x):
    c = apply_fn(params, x).shape[1]
    y = np.random.default_rng(0).normal(size=(len(x), c))
    return ttp.Task(apply_fn, params, x, y, "mse")


MODELS = {
    "resnet": lambda: oracle.resnet(7),
    "mlp": lambda: oracle.mlp(7),
    **{name: lambda name=name: _unusual(name) for name in UNUSUAL if name != "cond"},
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "batch_size"), [*((name, 2) for name in MODELS), ("mlp", None)]
)
def test_equals_the_explicit_jacobian(name, batch_size):
    task = _task(*MODELS[name]())
    adam = ttp.Adam(1e-3, eps=1e-3, batch_size=batch_size)
    f0 = np.asarray(task.apply_fn(task.params, task.x))
    places, shares = [f0, f0 + 0.3], np.array([0.25, 0.75])
    made = preconditioned(task, adam, places, shares)
    j = _jacobian(task.apply_fn, task.params, task.x)
    v = 0.0
    for f, share in zip(places, shares, strict=True):
        g = np.einsum("nc,ncp->np", f - task.targets, j)
        spread = 0.0
        if batch_size:
            phi = sampling.variance_factor(task.n, batch_size, adam.sampling)
            spread = phi / batch_size * g.var(0)
        v = v + share * (g.mean(0) ** 2 + spread)
    scale = 1 / (np.sqrt(v) + adam.eps)
    used = np.abs(j).sum((0, 1)) > 0
    np.testing.assert_allclose(_flat(made.scale)[used], scale[used], rtol=1e-10)
    j = j.reshape(task.n * task.c, -1)
    np.testing.assert_allclose(made.theta, (j * scale) @ j.T, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(made.energy, (scale * v).sum(), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_parts_of_a_parameter_change_nothing(monkeypatch):
    task = _task(*oracle.mlp(7))
    adam = ttp.Adam(1e-3, eps=1e-3, batch_size=2)
    f0 = [np.asarray(task.apply_fn(task.params, task.x))]
    whole = preconditioned(task, adam, f0, np.ones(1))
    monkeypatch.setattr(plan, "LARGEST_CHUNK", 3)
    monkeypatch.setattr(plan, "PANEL_BYTES", 8 * len(whole.theta) * 17)
    made = plan.make

    def narrow(traced, **sizes):
        found = made(traced, **sizes)
        groups = [
            dataclasses.replace(group, factors=(factor,), width=7)
            for group in found.groups
            for factor in group.factors
            if np.prod(traced.leaves[factor.leaf].shape) > 7
        ]
        rest = [
            dataclasses.replace(group, factors=(factor,))
            for group in found.groups
            for factor in group.factors
            if np.prod(traced.leaves[factor.leaf].shape) <= 7
        ]
        return dataclasses.replace(found, groups=(*groups, *rest))

    monkeypatch.setattr(plan, "make", narrow)
    parts = preconditioned(task, adam, f0, np.ones(1))
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(_flat(parts.scale), _flat(whole.scale), rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 360, 10_000])
def test_places_along_a_path(steps):
    places, shares = path_steps(steps)
    assert places[0] == 0
    assert places[-1] == steps - 1
    assert (np.diff(places) > 0).all()
    np.testing.assert_allclose(shares.sum(), 1)
    if steps > 1:  # exact for what is linear
        np.testing.assert_allclose(shares @ places, (steps - 1) / 2)


@pytest.mark.slow
def test_a_prediction_of_adam_is_close_and_says_what_it_assumes():
    task = bent()
    adam = ttp.Adam(0.003, batch_size=5, weight_decay=0.01)
    predicted = ttp.predict(task, adam, steps=60, seed=1, every=5)
    measured = ttp.finetune(task, adam, steps=60, seed=1, every=5)
    assert measured.loss[-1] < 0.7 * measured.loss[0]
    assert np.abs(np.log(predicted.loss / measured.loss)).max() < 0.15
    assert predicted.trust.reason.endswith("taken as fixed but for their size")
    assert 0 < predicted.trust.stability < 1
    assert 0 < predicted.trust.gap < 0.5
    assert predicted.timings["kernel_s"] > 0
    assert predicted.timings["step_s"] > 0


def test_past_the_limit_it_warns():
    task = bent("mse")
    predicted = ttp.predict(task, ttp.Adam(5.0), steps=20)
    assert predicted.trust.stability > 1
    assert not predicted.trust.ok


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "sde"}, "solver"),
        ({"solver": "flow"}, "solver"),
        ({"paths": 4}, "paths"),
        ({"noise": "diagonal", "solver": "moments"}, "solver 'moments', noise"),
        ({"calibrate_steps": 2}, "calibrate_steps"),
        ({"relinearize": 0.5}, "relinearize"),
        ({"kernel_samples": 10}, "kernel_samples"),
        ({"kernel": "count_sketch"}, "kernel"),
        ({"kernel": Kernel(outputs="class_block")}, "kernel"),
        ({"effective_rate": True}, "effective_rate"),
    ],
)
def test_refuses_what_is_for_sgd_alone(options, said, monkeypatch):
    monkeypatch.setattr("ttp_jax.outputs.at_the_start", None)  # nothing is computed
    with pytest.raises(InputError, match=said) as error:
        ttp.predict(bent(), ttp.Adam(0.01), steps=5, **options)
    assert "\n" not in str(error.value)


def test_refuses_a_kernel_that_was_computed_before():
    task = bent()
    with pytest.raises(InputError, match="got kernel"):
        ttp.predict(task, ttp.Adam(0.01), steps=5, kernel=Kernel().of(task))
