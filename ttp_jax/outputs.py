"""A model over many samples: outputs, Jacobian products and the weights they lead to.

Everything is evaluated in chunks of samples, because activations of a whole data set do
not fit where its outputs do.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax.types import ApplyFn, Params

CHUNK = 128


def _chunks(x) -> tuple[int, int]:
    """Size and number of equal chunks of at most ``CHUNK`` samples."""
    count = -(-len(x) // CHUNK)
    return -(-len(x) // count), count


def _take(x, size: int, k: int):
    """Chunk ``k``, filled up with zeros, so that one shape is compiled once."""
    part = x[k * size : (k + 1) * size]
    missing = size - len(part)
    if not missing:
        return part
    return jnp.concatenate([jnp.asarray(part), jnp.zeros((missing, *x.shape[1:]), x.dtype)])


def _map(function, x) -> np.ndarray:
    size, count = _chunks(x)
    parts = [np.asarray(function(_take(x, size, k))) for k in range(count)]
    return np.concatenate(parts)[: len(x)]


def compiled(apply_fn: ApplyFn):
    """``(params, x) -> f`` compiled once; call it through :func:`evaluate`."""
    return jax.jit(apply_fn)


def evaluate(compiled_fn: ApplyFn, params: Params, x) -> Float[np.ndarray, "n c"]:
    """Outputs ``f(x; params)`` of all samples.

    Args:
        compiled_fn: From :func:`compiled`; kept by the caller so that it compiles once.
        params: Weights.
        x: Inputs ``[n, ...]``.
    """
    return _map(lambda part: compiled_fn(params, part), x)


def forward_flops(apply_fn: ApplyFn, params: Params, x) -> float:
    """Floating-point operations of one forward pass of one sample, as XLA counts them."""
    counted = jax.jit(apply_fn).lower(params, x[:1]).cost_analysis() or {}
    return float(counted.get("flops", 0.0))


def jvp_of_weights(apply_fn: ApplyFn, params: Params, x) -> Float[np.ndarray, "n c"]:
    """``q_0 = J w_0``: how the outputs answer to scaling all weights. One JVP a sample."""

    @jax.jit
    def product(params, part):
        return jax.jvp(lambda w: apply_fn(w, part), (params,), (params,))[1]

    return _map(lambda part: product(params, part), x)


def moved_weights(
    apply_fn: ApplyFn,
    params: Params,
    x,
    alpha: Float[np.ndarray, "n c"],
    shrink: float,
) -> Params:
    """``w = (1 - shrink) w_0 - J^T alpha``: the weights of a linearised prediction.

    Args:
        apply_fn: The model.
        params: ``w_0``.
        x: Inputs ``[n, ...]``.
        alpha: Coefficients of the outputs' gradients.
        shrink: How much of ``w_0`` weight decay has taken.

    Cost: one VJP a sample.
    """

    @partial(jax.jit, donate_argnums=0)
    def subtract(w, params, part, a):
        (step,) = jax.vjp(lambda p: apply_fn(p, part), params)[1](a)
        return jax.tree.map(jnp.subtract, w, step)

    w = jax.tree.map(lambda leaf: (1 - shrink) * jnp.asarray(leaf), params)
    dtype = jax.eval_shape(apply_fn, params, x[:1]).dtype
    size, count = _chunks(x)
    alpha = np.asarray(alpha, dtype=dtype)  # zeros where a chunk is filled up
    for k in range(count):
        w = subtract(w, params, _take(x, size, k), _take(alpha, size, k))
    return w
