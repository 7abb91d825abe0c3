from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernel import oracle
from ttp_jax.kernel import empirical, empirical_ntk, estimate, pairs, plan, taps
from ttp_jax.kernel.factors import Factor, Group
from ttp_jax.types import InputError

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "implementation", ["ttp", "nt_jacobian_contraction", "nt_vector_products"]
)
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
def test_equals_the_explicit_jacobian(model, implementation):
    apply_fn, params, x, expected = oracle.reference(model)
    theta = empirical_ntk(apply_fn, params, x, implementation=implementation)
    assert theta.dtype == np.float64
    assert (theta == theta.T).all()
    np.testing.assert_allclose(theta, expected, **CLOSE)


def _attention(params, x):
    q, k, v = (jnp.einsum("ntd,dhe->nthe", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("nthe,nshe->nhts", q, k), axis=-1)
    mixed = jnp.einsum("nhts,nshe->nthe", weights, v)
    return jnp.einsum("nthe,hec->nc", mixed, params["out"]) + params["bias"]


def _scanned(params, x):
    def step(h, w):
        return jnp.tanh(h @ w), None

    h, _ = jax.lax.scan(step, x, params["w"])
    return h @ params["out"]


def _shared(params, x):
    # The same kernel twice, once transposed, and a product of two kernels.
    h = jnp.tanh(x @ params["w"])
    h = jnp.sin(h @ params["w"].T)
    return h @ (params["a"] @ params["b"])


def _transposed(params, x):
    h = jnp.tanh(jax.jit(lambda w, x: x @ w.T)(params["w"], x))
    h = jax.checkpoint(lambda w, h: jax.nn.relu(w.reshape(5, 4).T @ h.T).T)(params["v"], h)
    return (params["u"][:, ::-1] @ h.T).T * params["scale"]


def _mixed_convolutions(params, x):
    def conv(x, w, **options):
        return jax.lax.conv_general_dilated(
            x, w, dimension_numbers=("NCHW", "OIHW", "NCHW"), **options
        )

    x = jax.nn.relu(
        conv(x, params["dilated"], window_strides=(1, 2), padding=((2, 1), (0, 2)),
             rhs_dilation=(2, 1))
    )  # fmt: skip
    x = jax.nn.silu(
        conv(x, params["grouped"], window_strides=(1, 1), padding="SAME",
             feature_group_count=2)
    )  # fmt: skip
    x = conv(x, params["up"], window_strides=(1, 1), padding=((1, 0), (-1, 2)),
             lhs_dilation=(2, 2))  # fmt: skip
    return x.mean((2, 3)) ** 2


def _per_head(params, x):
    return jnp.einsum("nhd,hde->nhe", x, params["w"]).sum(1)


def _gated(params, x):
    h = jax.lax.cond(x.sum() > 0, lambda w: x @ w, lambda w: jnp.cos(x @ w), params["w"])
    return h * params["s"] + 0 * params["unused"].sum()


UNUSUAL = {
    "attention": (
        _attention,
        {"q": (4, 2, 3), "k": (4, 2, 3), "v": (4, 2, 3), "out": (2, 3, 3), "bias": (3,)},
        (6, 5, 4),
    ),
    "scan": (_scanned, {"w": (3, 4, 4), "out": (4, 2)}, (6, 4)),
    "shared": (_shared, {"w": (4, 5), "a": (4, 3), "b": (3, 2)}, (6, 4)),
    "transposed": (
        _transposed,
        {"w": (5, 4), "v": (20,), "u": (3, 4), "scale": ()},
        (6, 4),
    ),
    "convolutions": (
        _mixed_convolutions,
        {"dilated": (4, 3, 2, 3), "grouped": (6, 2, 3, 3), "up": (2, 6, 2, 2)},
        (5, 3, 7, 8),
    ),
    "per_head": (_per_head, {"w": (3, 4, 2)}, (6, 3, 4)),
    "cond": (_gated, {"w": (4, 3), "s": (3,), "unused": (2, 2)}, (6, 4)),
}


def _unusual(name):
    apply_fn, shapes, x_shape = UNUSUAL[name]
    rng = np.random.default_rng(3)
    params = {k: jnp.asarray(rng.standard_normal(s)) for k, s in shapes.items()}
    return apply_fn, params, rng.standard_normal(x_shape)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n in UNUSUAL if n != "cond"])
def test_any_use_of_the_parameters(name):
    apply_fn, params, x = _unusual(name)
    theta = empirical_ntk(apply_fn, params, x)
    np.testing.assert_allclose(theta, oracle.explicit(apply_fn, params, x), **CLOSE)


@pytest.mark.usefixtures("x64")
def test_a_branch_taken_by_each_sample():
    apply_fn, params, x = _unusual("cond")
    expected = oracle.explicit(
        lambda p, x: jax.vmap(lambda x_i: apply_fn(p, x_i[None])[0])(x), params, x
    )
    np.testing.assert_allclose(empirical_ntk(apply_fn, params, x), expected, **CLOSE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "tapped"),
    [
        ("attention", {"q", "k", "v", "out"}),
        ("scan", {"out"}),
        ("shared", {"a", "b"}),
        ("transposed", {"w", "v", "u"}),
        ("convolutions", {"dilated", "grouped", "up"}),
        ("per_head", {"w"}),
        ("cond", set()),
    ],
)
def test_which_parameters_are_tapped(name, tapped):
    apply_fn, params, x = _unusual(name)
    traced = taps.trace(apply_fn, params, x)
    assert {sorted(params)[i] for i in traced.taps} == tapped


@pytest.mark.usefixtures("x64")
def test_every_convolution_of_a_resnet_is_tapped():
    apply_fn, params, x = oracle.resnet(2)
    traced = taps.trace(apply_fn, params, x)
    kernels = [np.ndim(v) > 1 for v in jax.tree.leaves(params)]
    assert [i in traced.taps for i in range(len(kernels))] == kernels


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
@pytest.mark.parametrize(
    ("kind", "call_products"),
    # A pair's two small products, or one large one.
    [("rows", 0), ("slices", 0), ("pairs", -(10**9)), ("pairs", 10**9)],
)
def test_each_way_to_make_a_share(model, kind, call_products, monkeypatch):
    apply_fn, params, x, expected = oracle.reference(model)
    monkeypatch.setattr(plan, "make", _plan_with_kind(kind))
    # Narrow panels and slices, of which the last one overlaps.
    monkeypatch.setattr(plan, "PANEL_BYTES", 8 * len(expected) * 77)
    monkeypatch.setattr(plan, "slice_width", lambda product, _: min(3, product.fan_out))
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 200_000)
    monkeypatch.setattr(pairs, "CALL_PRODUCTS", call_products)
    np.testing.assert_allclose(empirical_ntk(apply_fn, params, x), expected, **CLOSE)


def _plan_with_kind(kind):
    original = plan.make

    def make(traced, **sizes):
        kinds = {i: kind for i in traced.taps} | dict.fromkeys(traced.loose, "rows")
        group = Group(tuple(Factor(i, k) for i, k in kinds.items()))
        return replace(original(traced, **sizes), groups=(group,), chunk=3)

    return make


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
@pytest.mark.parametrize("n", [1, 7])
def test_chunks_change_nothing(model, n, monkeypatch):
    apply_fn, params, x, expected = oracle.reference(model)
    expected = expected[: n * len(expected) // 7, : n * len(expected) // 7]
    monkeypatch.setattr(plan, "LARGEST_CHUNK", 3)
    theta = empirical_ntk(apply_fn, params, x[:n])
    np.testing.assert_allclose(theta, expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_small_budget_takes_more_passes_and_changes_nothing(monkeypatch):
    apply_fn, params, x, whole = oracle.reference(oracle.mlp)
    # Little is held at a time, so that passes run out before the work on one sample does.
    monkeypatch.setattr(plan, "CHUNK_SHARE", 0.95)
    passes = []
    for budget in np.geomspace(1.5e4, 5e5, 6).astype(int):
        try:
            cost = estimate(apply_fn, params, x, memory_budget_bytes=int(budget))
            theta = empirical_ntk(apply_fn, params, x, memory_budget_bytes=int(budget))
        except InputError:
            assert not passes, "refused with more memory than before"
            continue
        passes.append(cost.jacobian_passes)
        assert cost.memory_bytes <= budget
        np.testing.assert_allclose(theta, whole, **CLOSE)
    assert passes[-1] == 1 < passes[0]
    assert passes == sorted(passes, reverse=True)


@pytest.mark.usefixtures("x64")
def test_passes_over_groups_of_a_resnet(monkeypatch):
    apply_fn, params, x, whole = oracle.reference(oracle.resnet)
    monkeypatch.setattr(plan, "CHUNK_SHARE", 0.95)
    cost = estimate(apply_fn, params, x, memory_budget_bytes=2_000_000)
    assert 1 < cost.jacobian_passes < 6
    theta = empirical_ntk(apply_fn, params, x, memory_budget_bytes=2_000_000)
    np.testing.assert_allclose(theta, whole, **CLOSE)


def test_few_programs_are_compiled(monkeypatch):
    apply_fn, params, x = oracle.mlp(23, np.float32)
    monkeypatch.setattr(plan, "LARGEST_CHUNK", 4)
    traces = []

    def counted(params, x):
        traces.append(1)
        return apply_fn(params, x)

    empirical_ntk(counted, params, x)
    # Output shape and the trace for one sample: nothing is traced again for a chunk.
    assert len(traces) == 2


def _wide_spectrum(n: int, width: float):
    """A linear model whose kernel has eigenvalues from 1 to ``width``, exactly known."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((n, n)))[0]
    v = np.linalg.qr(rng.standard_normal((3 * n, n)))[0]
    x = ((u * np.geomspace(1, width**0.5, n)) @ v.T).astype(np.float32)
    return lambda params, x: x @ params["w"], {"w": jnp.ones((3 * n, 1))}, x


@pytest.mark.parametrize("kind", ["rows", "slices", "pairs"])
def test_small_eigenvalues_of_float32_jacobians(kind, monkeypatch):
    apply_fn, params, x = _wide_spectrum(120, 1e-12)
    assert params["w"].dtype == jnp.float32
    monkeypatch.setattr(plan, "make", _plan_with_kind(kind))
    theta = empirical_ntk(apply_fn, params, x)
    # The Jacobian is x: the eigenvalues are its squared singular values, in float64.
    expected = np.linalg.svd(x.astype(np.float64), compute_uv=False)[::-1] ** 2
    found = np.linalg.eigvalsh(theta)
    assert found.min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    single = np.linalg.eigvalsh((x @ x.T).astype(np.float64))
    assert (single < 0).any(), "float32 sums would have passed"


@pytest.mark.slow
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
def test_float32_parameters(model):
    expected = oracle.reference(model)[-1]
    apply_fn, params, x = model(7, np.float32)
    theta = empirical_ntk(apply_fn, params, x)
    assert theta.dtype == np.float64
    assert (theta == theta.T).all()
    lam = np.linalg.eigvalsh(theta)
    assert lam.min() > -1e-13 * lam.max()
    np.testing.assert_allclose(theta, expected, atol=2e-6 * np.abs(expected).max())


def test_estimate_counts_the_forward_pass():
    apply_fn, params, x = oracle.mlp(12, np.float32)
    cost = estimate(apply_fn, params, x)
    products = 2 * (6 * 17 + 17 * 9 + 9 * 4)
    assert products <= cost.forward_flops_per_sample <= 1.3 * products
    assert cost.flops > (1 + 2 * 4) * 12 * products
    assert cost.gram_bytes == 8 * 48**2
    assert cost.seconds > 0
    assert cost.jacobian_passes == 1
    assert "\n" not in str(cost)


@pytest.mark.parametrize("call", [estimate, empirical_ntk])
@pytest.mark.parametrize(
    "implementation", ["ttp", "nt_jacobian_contraction", "nt_vector_products"]
)
def test_refuses_what_does_not_fit(call, implementation):
    apply_fn, params, x = oracle.mlp(12, np.float32)
    budget = 8 * 48**2 - 1
    with pytest.raises(
        InputError, match=r"fewer pictures.*--freeze-until.*budget"
    ) as error:
        call(apply_fn, params, x, implementation=implementation, memory_budget_bytes=budget)
    assert "\n" not in str(error.value)


def test_bad_input():
    apply_fn, params, x = oracle.mlp(3, np.float32)
    for arguments, options, said in [
        ((apply_fn, params, x), {"memory_budget_bytes": 0}, "positive number of bytes"),
        ((apply_fn, params, x[:0]), {}, "at least one sample"),
        ((apply_fn, {}, x), {}, "at least one"),
        ((lambda p, x: x @ p, jnp.ones((6, 2), int), x), {}, "floating"),
        ((lambda p, x: (x * p).sum(1), jnp.ones(6), x), {}, r"f\[n, c\]"),
    ]:
        with pytest.raises(InputError, match=said) as error:
            empirical_ntk(*arguments, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="implementation must be one of ttp, nt_jac"):
        empirical._check(apply_fn, params, x, "jacobian")


@pytest.mark.usefixtures("x64")
def test_other_weights_compile_nothing():
    apply_fn, params, x = oracle.mlp(5)
    calls = []

    def counted(params, x):
        calls.append(1)
        return apply_fn(params, x)

    empirical_ntk(counted, params, x)
    first = len(calls)
    other = jax.tree.map(lambda v: 1.5 * v, params)
    theta = empirical_ntk(counted, other, x)
    # Only the shape of the output is looked up again.
    assert len(calls) <= first + 1
    np.testing.assert_allclose(theta, oracle.explicit(apply_fn, other, x), **CLOSE)
