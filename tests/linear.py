"""A model linear in its parameters, with its explicit Jacobian: the oracle of the dynamics."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

import ttp_jax as ttp


def apply_fn(params, x):
    return jnp.tanh(x) @ params["kernel"] + params["bias"]


def task(loss, *, n=12, c=3, d=7, seed=0, labels=True, m=0):
    """A task of ``n`` samples, and of ``m`` more that are held out."""
    rng = np.random.default_rng(seed)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(d, c))),
        "bias": jnp.asarray(rng.normal(size=c)),
    }

    def samples(count):
        y = rng.integers(0, c, size=count) if labels else rng.normal(size=(count, c))
        return jnp.asarray(rng.normal(size=(count, d))), y

    x, y = samples(n)
    held_out = samples(m) if m else None
    return ttp.Task(
        apply_fn=apply_fn, params=params, x=x, y=y, loss=loss, held_out=held_out
    )


def jacobian(task):
    """``J [n*c, p]`` by reverse mode, sample-major, and ``w_0 [p]``."""
    flat, unravel = jax.flatten_util.ravel_pytree(task.params)
    outputs = lambda w: task.apply_fn(unravel(w), task.x).reshape(-1)  # noqa: E731
    return np.asarray(jax.jacrev(outputs)(flat)), np.asarray(flat)
