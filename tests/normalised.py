"""A model of one hidden layer with BatchNorm: linear in what the statistics leave."""

import jax.numpy as jnp
import numpy as np

import ttp_jax as ttp
from ttp_jax.types import BatchNorm

MOMENTUM = 0.9


def infer(params, stats, x):
    z = (x @ params["a"] - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
    return jnp.tanh(z) @ params["b"] + params["bias"]


def train(params, stats, x):
    z = x @ params["a"]
    own = {"mean": z.mean(0), "var": z.var(0)}
    after = {k: MOMENTUM * stats[k] + (1 - MOMENTUM) * own[k] for k in own}
    return infer(params, own, x), after


def task(*, n=16, seed=0, m=0):
    """A task whose running statistics at the start are not those of its samples."""
    rng = np.random.default_rng(seed)
    params = {
        "a": jnp.asarray(rng.normal(size=(5, 6))),
        "b": jnp.asarray(rng.normal(size=(6, 3))),
        "bias": jnp.zeros(3),
    }
    stats = {"mean": jnp.asarray(rng.normal(size=6)), "var": jnp.full(6, 3.0)}
    x, y = jnp.asarray(rng.normal(size=(n + m, 5))), rng.integers(0, 3, n + m)
    return ttp.Task(
        apply_fn=lambda params, x: infer(params, stats, x),
        params=params,
        x=x[:n],
        y=y[:n],
        batch_norm=BatchNorm(stats, train, infer, MOMENTUM),
        held_out=(x[n:], y[n:]) if m else None,
    )
