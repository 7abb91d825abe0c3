import subprocess
import sys

import numpy as np
import pytest

from tests.kernel import oracle
from ttp_jax import chunks
from ttp_jax.kernel import empirical_ntk, neural_tangents
from ttp_jax.types import InputError

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", neural_tangents.SUPPORTED)
def test_blocks_with_a_ragged_last_one(implementation, monkeypatch):
    apply_fn, params, x = oracle.mlp(7)
    monkeypatch.setitem(neural_tangents._LARGEST_BLOCK, implementation, 3)
    assert [p.stop - p.start for p in chunks.even(7, 3)] == [3, 3, 1]
    theta = neural_tangents.gram(
        apply_fn, params, x, implementation=implementation, budget_bytes=10**9
    )
    assert (theta == theta.T).all()
    np.testing.assert_allclose(theta, oracle.explicit(apply_fn, params, x), **CLOSE)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_small_budget_makes_blocks():
    apply_fn, params, x = oracle.resnet(6)
    whole, small = (
        empirical_ntk(
            apply_fn,
            params,
            x,
            implementation="nt_jacobian_contraction",
            memory_budget_bytes=budget,
        )
        for budget in (10**9, 10**6)
    )
    np.testing.assert_allclose(small, whole, **CLOSE)


@pytest.mark.parametrize("implementation", ["STRUCTURED_DERIVATIVES", "AUTO", "fast"])
def test_names_the_two_that_run(implementation):
    apply_fn, params, x = oracle.mlp(2, np.float32)
    with pytest.raises(InputError, match="JACOBIAN_CONTRACTION, NTK_VECTOR_PRODUCTS"):
        neural_tangents.gram(
            apply_fn, params, x, implementation=implementation, budget_bytes=10**9
        )


def test_leaves_no_trace():
    """Neither TensorFlow nor half a package nor a changed JAX remains."""
    code = """
import sys, jax, jax.core
before = set(vars(jax.core))
from ttp_jax.kernel import neural_tangents
assert not any(m.split(".")[0] == "neural_tangents" for m in sys.modules)
one = neural_tangents.load()
assert neural_tangents.load() is one
assert hasattr(one, "empirical_ntk_fn")
left = [m for m in sys.modules if m.split(".")[0] in ("tensorflow", "neural_tangents")]
assert not left, left
assert "jax.util" not in sys.modules
assert set(vars(jax.core)) == before, set(vars(jax.core)) ^ before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_kernel_does_not_load_it():
    code = """
import sys, ttp_jax.kernel
for name in ("neural_tangents", "tensorflow", "flax", "optax", "scipy.linalg"):
    assert name not in sys.modules or name == "scipy.linalg", name
assert "ttp_jax.kernel.neural_tangents" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
