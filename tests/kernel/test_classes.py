"""Approximations between outputs, and shares by layer, against the explicit kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp
from tests.kernel import oracle
from ttp_jax.kernel import classes
from ttp_jax.kernel.choice import Kernel
from ttp_jax.kernel.empirical import layerwise_ntk


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
@pytest.mark.parametrize("by", ["layer", "tensor"])
def test_shares_sum_to_the_whole(model, by):
    apply_fn, params, x, theta = oracle.reference(model)
    shares = layerwise_ntk(apply_fn, params, x, by=by)
    total = sum(shares.values())
    np.testing.assert_allclose(total, theta, rtol=1e-10, atol=1e-10 * theta.max())
    assert len(shares) == (
        len(jax.tree.leaves(params))
        if by == "tensor"
        else {oracle.resnet: 11, oracle.mlp: 3}[model]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_share_is_the_kernel_of_its_layer():
    apply_fn, params, x, _ = oracle.reference(oracle.mlp)
    share = layerwise_ntk(apply_fn, params, x)["Dense_1"]

    def of_layer(layer, x):
        return apply_fn({**params, "Dense_1": layer}, x)

    expected = oracle.explicit(of_layer, params["Dense_1"], x)
    np.testing.assert_allclose(share, expected, rtol=1e-10, atol=1e-10 * expected.max())


def test_shares_respect_the_budget():
    apply_fn, params, x = oracle.mlp(7, np.float32)
    with pytest.raises(ttp.InputError, match="does not fit its memory budget"):
        layerwise_ntk(apply_fn, params, x, memory_budget_bytes=2 * 8 * 28**2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [oracle.resnet, oracle.mlp])
def test_words_for_outputs(model):
    apply_fn, params, x, theta = oracle.reference(model)
    n, c = apply_fn(params, x).shape
    blocks = theta.reshape(n, c, n, c)

    def compute(outputs):
        return Kernel(outputs=outputs).compute(apply_fn, params, x)

    close = {"rtol": 1e-9, "atol": 1e-9 * theta.max()}
    np.testing.assert_allclose(compute("full"), theta, **close)
    own = np.einsum("iaja->aij", blocks)
    found = compute("class_block").reshape(n, c, n, c)
    for a in range(c):
        np.testing.assert_allclose(found[:, a, :, a], own[a], **close)
        np.testing.assert_array_equal(np.delete(found[:, a], a, axis=2), 0)
    np.testing.assert_allclose(compute("trace"), np.kron(own.mean(0), np.eye(c)), **close)
    summed = np.kron(blocks.sum((1, 3)) / c, np.eye(c))
    np.testing.assert_allclose(compute("sum_of_logits"), summed, **close)
    head = max(key for key in params if key.startswith("Dense"))

    def of_head(layer, x):
        return apply_fn({**params, head: layer}, x)

    np.testing.assert_allclose(
        compute("last_layer"), oracle.explicit(of_head, params[head], x), **close
    )


@pytest.mark.usefixtures("x64")
def test_the_last_layer_is_features_times_identity():
    """``(Phi Phi^T + 1 1^T) (x) I_c`` for a dense layer with a bias."""
    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(3, 5)),
        "head": {"w": rng.normal(size=(5, 2)), "b": rng.normal(size=2)},
    }
    params = jax.tree.map(jnp.asarray, params)
    x = rng.normal(size=(4, 3))

    def apply_fn(p, x):
        return jnp.tanh(x @ p["in"]) @ p["head"]["w"] + p["head"]["b"]

    features = np.tanh(x @ params["in"])
    part = classes.last_layer(apply_fn, params, x)
    assert sorted(v.shape for v in part.params) == [(2,), (5, 2)]
    found = Kernel(outputs="last_layer").compute(apply_fn, params, x)
    np.testing.assert_allclose(
        found, np.kron(features @ features.T + 1, np.eye(2)), rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("outputs", ["full", "trace", "sum_of_logits", "last_layer"])
def test_sketched_kernels_take_the_same_words(outputs):
    apply_fn, params, x, _ = oracle.reference(oracle.mlp)
    exact = Kernel(outputs=outputs).compute(apply_fn, params, x)
    all_kept = Kernel("kronecker", outputs, dimension=1000)
    np.testing.assert_allclose(
        all_kept.compute(apply_fn, params, x), exact, rtol=1e-9, atol=1e-9 * exact.max()
    )
    cost = all_kept.cost(apply_fn, params, x)
    assert cost.flops > 0
    assert cost.gram_bytes == 8 * 28**2


def test_refuses_words_it_does_not_know():
    with pytest.raises(ttp.InputError, match="sketch dimension must be at least 1"):
        Kernel("kronecker", dimension=0)
