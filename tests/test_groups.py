"""Which tensors belong together, in which order, and where a model can be cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax.groups import Groups, cut_at, grouped
from ttp_jax.kernel.choice import Kernel
from ttp_jax.kernel.empirical import empirical_ntk, grouped_ntk
from ttp_jax.types import Chain


def stage(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


def chain(widths=(4, 6, 5, 3), n=7, seed=0, loss="cross_entropy"):
    """A task whose stages run in an order that is not that of their names."""
    names = tuple(f"{letter}_stage" for letter in "zmabcdef"[: len(widths) - 1])
    rng = np.random.default_rng(seed)
    params = {
        name: {
            "w": jnp.asarray(rng.normal(size=(i, o)) / np.sqrt(i), jnp.float32),
            "b": jnp.asarray(rng.normal(size=o) / 4, jnp.float32),
        }
        for name, i, o in zip(names, widths[:-1], widths[1:], strict=True)
    }

    def run(params, x, names):
        for name in names:
            x = stage(params[name], x)
        return x

    x = rng.normal(size=(n, widths[0])).astype(np.float32)
    y = rng.integers(0, widths[-1], n)
    return ttp.Task(Chain(names, run), params, jnp.asarray(x), y, loss)


def test_order_is_that_of_use():
    task = chain()
    of = task.apply_fn, task.params, task.x
    assert grouped(*of).names == ("z_stage", "m_stage", "a_stage")
    assert grouped(*of, "layer").names == grouped(*of).names
    assert grouped(*of, "tensor").names[:3] == ("z_stage/w", "z_stage/b", "m_stage/w")
    inside = lambda params, x: jax.jit(task.apply_fn)(params, x)  # noqa: E731
    assert grouped(inside, task.params, task.x).names == grouped(*of).names


def test_patterns_keep_their_own_order():
    task = chain()
    found = grouped(task.apply_fn, task.params, task.x, ("m_*/w", "z_*"))
    assert found.names == ("m_*/w", "z_*", "rest")
    # leaves in JAX's order: a/b, a/w, m/b, m/w, z/b, z/w
    assert found.of_leaf == (2, 2, 2, 0, 1, 1)
    assert grouped(task.apply_fn, task.params, task.x, ("*",)).names == ("*",)


def test_leaves_are_taken_out_and_put_back():
    task = chain()
    groups = grouped(task.apply_fn, task.params, task.x)
    active = groups.active(task.params, 2)
    assert [leaf.shape for leaf in active] == [(3,), (5, 3)]
    changed = groups.with_active(task.params, [leaf + 1 for leaf in active], 2)
    for name in ("z_stage", "m_stage"):
        assert changed[name]["w"] is task.params[name]["w"]
    np.testing.assert_array_equal(changed["a_stage"]["b"], task.params["a_stage"]["b"] + 1)
    parts = [groups.part(task.params, g) for g in range(3)]
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    jax.tree.map(np.testing.assert_array_equal, total, task.params)


def test_cut_where_the_groups_are_the_stages():
    task = chain()
    groups = grouped(task.apply_fn, task.params, task.x)
    cut = cut_at(task.apply_fn, groups, 2)
    assert cut is not None
    first, rest = cut
    whole = task.apply_fn(task.params, task.x)
    again = rest(task.params, first(task.params, task.x))
    np.testing.assert_array_equal(whole, again)
    assert cut_at(task.apply_fn, groups, 0) is None
    assert cut_at(lambda p, x: task.apply_fn(p, x), groups, 2) is None
    tensors = grouped(task.apply_fn, task.params, task.x, "tensor")
    assert cut_at(task.apply_fn, tensors, 2) is None


@pytest.mark.parametrize(
    ("by", "says"),
    [
        (
            ("nothing*",),
            "must match a tensor, got 'nothing*', which matches none of a_stage/b",
        ),
        (
            ("z_*", "*/w"),
            "in one group only, got z_stage/w, which 'z_*' and '*/w' both match",
        ),
    ],
)
def test_refuses_patterns(by, says):
    task = chain()
    with pytest.raises(ttp.InputError) as refused:
        grouped(task.apply_fn, task.params, task.x, by)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_shares_are_those_of_the_jacobian():
    task = chain()
    groups = grouped(task.apply_fn, task.params, task.x)
    shares = grouped_ntk(task.apply_fn, task.params, task.x, groups)
    whole = empirical_ntk(task.apply_fn, task.params, task.x)
    np.testing.assert_allclose(shares.sum(0), whole, rtol=1e-9, atol=1e-9)
    jacobian = jax.jacrev(task.apply_fn)(task.params, task.x)
    for g, name in enumerate(groups.names):
        rows = [np.asarray(v, float).reshape(21, -1) for v in jacobian[name].values()]
        expected = sum(j @ j.T for j in rows)
        np.testing.assert_allclose(shares[g], expected, rtol=1e-5, atol=1e-6)
    computed = Kernel().of(task, groups=groups)
    np.testing.assert_array_equal(computed.shares, shares)
    np.testing.assert_allclose(computed.theta, whole, rtol=1e-9, atol=1e-9)


def test_a_group_without_effect_has_no_share():
    def apply_fn(params, x):
        return x @ params["used"]

    params = {"used": jnp.ones((4, 2)), "unused": jnp.ones(3)}
    groups = Groups(("unused", "used"), (0, 1))
    shares = grouped_ntk(apply_fn, params, jnp.ones((3, 4)), groups)
    assert shares.shape == (2, 6, 6)
    assert not shares[0].any()
    assert shares[1].any()
    assert grouped(apply_fn, params, jnp.ones((3, 4))).names == ("used", "unused")


def test_shares_of_a_projection_are_refused():
    task = chain()
    groups = grouped(task.apply_fn, task.params, task.x)
    with pytest.raises(ttp.InputError, match="need kernel 'exact' of 'full' outputs"):
        Kernel("kronecker").of(task, groups=groups)
