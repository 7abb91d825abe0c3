"""A model that one linearisation does not describe."""

import jax
import jax.numpy as jnp
import numpy as np

import ttp_jax as ttp


def bent(loss="cross_entropy", seed=0, hidden=12):
    """A task of a small network of two layers; its kernel is as large for any width."""
    rng = np.random.default_rng(seed)
    size = np.sqrt(12 / hidden) / 2
    params = {
        "a": rng.normal(size=(5, hidden)) / 2,
        "b": rng.normal(size=(hidden, 3)) * size,
    }
    return ttp.Task(
        apply_fn=lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"],
        params=jax.tree.map(jnp.asarray, params),
        x=jnp.asarray(rng.normal(size=(20, 5))),
        y=rng.integers(0, 3, 20),
        loss=loss,
    )
