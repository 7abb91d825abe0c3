"""Programs are made once for a model, and go with it."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from ttp_jax import programs


def _twice(model):
    made.append(model)
    return lambda x: 2 * model(x)


made = []


def test_a_program_is_traced_once_and_does_not_keep_its_model():
    made.clear()

    def model(x):
        return x + 1.0

    x = np.ones(3)
    for _ in range(3):
        np.testing.assert_allclose(programs.compiled(model, _twice)(x), 4.0)
    assert len(made) == 1
    gone = weakref.ref(model)
    made.clear()
    del model
    gc.collect()
    assert gone() is None


def test_operations_are_counted_without_compiling_and_wherever_the_arrays_are(monkeypatch):
    a, b = np.ones((20, 30), np.float32), jnp.ones((30, 40), jnp.float32)
    assert programs.operations(lambda a, b: a @ b, a, b) == 2 * 20 * 30 * 40
    assert programs.operations(lambda w, x: x @ w["a"], {"a": b}, a) == 2 * 20 * 30 * 40

    def denied(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", denied)
    assert programs.operations(lambda a, b: a @ b, a, b) == 2 * 20 * 30 * 40
